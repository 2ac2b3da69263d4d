"""Items that are made ahead: the same ones, one ahead and no more, and what making one fails of."""

from collections.abc import Iterator

import pytest

from modelzoo_datasets._util import prefetch


def test_one_item_is_made_while_the_one_before_is_in_use_and_no_more() -> None:
    made = []

    def items() -> Iterator[int]:
        for number in range(5):
            made.append(number)
            yield number

    found = prefetch(items())
    assert not made
    for number in range(3):
        assert next(found) == number
        assert len(made) <= number + 2
    found.close()
    assert len(made) <= 4
    assert list(prefetch(iter("abc"))) == ["a", "b", "c"]


def test_what_making_an_item_fails_of_is_raised_in_its_place() -> None:
    found = prefetch(1 // number for number in (1, 0))
    assert next(found) == 1
    with pytest.raises(ZeroDivisionError):
        next(found)
