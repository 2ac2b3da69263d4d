"""A display of progress that hands every step to a function."""

from collections.abc import Callable
from types import TracebackType
from typing import Self

Step = Callable[[str, int, int | None], object]  # description, steps done so far, total


class StepProgress:
    """Calls a function when a task is started and after each of its updates."""

    def __init__(self, step: Step) -> None:
        self._step = step

    def start(self, description: str, total: int | None, *, initial: int = 0) -> "StepTask":
        return StepTask(self._step, description, total, initial)


class StepTask:
    def __init__(self, step: Step, description: str, total: int | None, done: int) -> None:
        self._step, self._description, self._total, self._done = step, description, total, done
        self.update(0)

    def update(self, n: int = 1) -> None:
        self._done += n
        self._step(self._description, self._done, self._total)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass
