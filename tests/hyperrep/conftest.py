"""What the tests of hyperrep share."""

from collections.abc import Iterator

import pytest

from modelzoo_datasets.engines import one_thread


@pytest.fixture(scope="module", autouse=True)
def on_one_thread() -> Iterator[None]:
    """Equal bits and equal speed whatever else runs."""
    with one_thread():
        yield
