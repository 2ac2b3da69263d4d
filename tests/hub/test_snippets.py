"""The examples of a card name the repo that it is pushed to; all other text stays."""

import pytest

from modelzoo_datasets.hub import name_repo

CARD = """\
Text about load_zoo(".") and str(Path.cwd()).

```python
from pathlib import Path

from datasets import load_dataset

states = load_dataset(str(Path.cwd()), "seed", split="train")
```

```python
import math
from pathlib import Path

import fsspec

states = load_dataset(str(Path.cwd()))
```

```python
import fsspec
from pathlib import Path

zoo = load_zoo(".", "seed")
with fsspec.open("layout.json") as file, fsspec.open(f"{row['weights_file']}") as other:
    mine = Path("mine.txt").read_text()
far = fsspec.open("s3://bucket/layout.json"), fsspec.open("/etc/layout.json")
```

```sql
SELECT * FROM 'seed/*.parquet' JOIN other;
```

```
load_zoo(".")
```
"""


def test_examples_name_the_repo_and_nothing_else_changes() -> None:
    assert (
        name_repo(CARD, "zoos/tiny")
        == """\
Text about load_zoo(".") and str(Path.cwd()).

```python
from datasets import load_dataset

states = load_dataset("zoos/tiny", "seed", split="train")
```

```python
import math

import fsspec

states = load_dataset("zoos/tiny")
```

```python
import fsspec
from pathlib import Path

zoo = load_zoo("zoos/tiny", "seed")
with fsspec.open("hf://datasets/zoos/tiny/layout.json") as file, \
fsspec.open(f"hf://datasets/zoos/tiny/{row['weights_file']}") as other:
    mine = Path("mine.txt").read_text()
far = fsspec.open("s3://bucket/layout.json"), fsspec.open("/etc/layout.json")
```

```sql
SELECT * FROM 'hf://datasets/zoos/tiny/seed/*.parquet' JOIN other;
```

```
load_zoo(".")
```
"""
    )


@pytest.mark.parametrize("call", ["from_pretrained", "load_sample"])
def test_models_have_no_prefix(call: str) -> None:
    block = f'```python\nnet = {call}(".")\nfsspec.open("model.safetensors")\n```'
    assert name_repo(block, "zoos/net", "model") == (
        f'```python\nnet = {call}("zoos/net")\nfsspec.open("hf://zoos/net/model.safetensors")\n```'
    )


def test_a_card_of_another_repo_names_the_new_one() -> None:
    first = name_repo(CARD, "zoos/tiny")
    assert name_repo(first, "ann/copy", former="zoos/tiny") == name_repo(CARD, "ann/copy")
    assert name_repo(first, "ann/copy") == first, "a repo that is not known as the former one may be meant"
