"""The code of a card: what runs in the folder of the card is changed to what runs anywhere once it is on the Hub.

Cards are written for their own folder. Only their blocks of Python and SQL change, and in them only the names of the
folder and of its files, so that a card that somebody edited keeps its text.
"""

import re

_BLOCK = re.compile(r"^```(?:python|sql)\n.*?^```$", re.MULTILINE | re.DOTALL)
_HERE = "str(Path.cwd())"  # `datasets` does not accept "." as a folder
_IMPORT = re.compile(r"(?<=```python\n)from pathlib import Path\n\n?|^from pathlib import Path\n", re.MULTILINE)
_FOLDER = re.compile(r'\b(load_zoo|stream_zoo|from_pretrained|load_sample)\("\."')
_FILE = re.compile(r"""\b(fsspec\.open\(f?"|FROM ')(?!/|\w+://)""")


def name_repo(card: str, repo_id: str, repo_type: str = "dataset", former: str | None = None) -> str:
    """Return a card whose examples name a repo instead of the folder that the card is in.

    Args:
        card: The card, as it is in the folder.
        repo_id: ORG/NAME of the repo.
        repo_type: dataset or model.
        former: The repo that the examples name so far; None for the folder of the card.

    Example:
        >>> from modelzoo_datasets.hub import name_repo
        >>> print(name_repo('```python\\nzoo = load_zoo(".")\\n```', "modelzoos/mnist-cnn-s"))
        ```python
        zoo = load_zoo("modelzoos/mnist-cnn-s")
        ```
    """
    root = f"hf://{'datasets/' if repo_type == 'dataset' else ''}"

    def rewrite(block: re.Match[str]) -> str:
        text = block[0].replace(_HERE, f'"{repo_id}"')
        if "Path" not in _IMPORT.sub("", text):
            text = _IMPORT.sub("", text)
        text = _FOLDER.sub(rf'\1("{repo_id}"', text)
        text = _FILE.sub(rf"\1{root}{repo_id}/", text)
        if former is not None:
            text = text.replace(f'"{former}"', f'"{repo_id}"').replace(f"{root}{former}/", f"{root}{repo_id}/")
        return text

    return _BLOCK.sub(rewrite, card)
