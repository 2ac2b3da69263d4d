"""Progress of long work, in the shape of tqdm and rich.

Functions that take long have a parameter `progress`. They call `progress.start(description, total)` for each piece of
work and `task.update(n)` whenever n more of its steps are done. Anything with these two methods can be passed in: the
commands draw bars, tests record the steps, and by default nothing is shown.
"""

from contextlib import AbstractContextManager
from typing import Protocol


class Task(AbstractContextManager["Task"], Protocol):
    """One piece of work. Leaving its `with` block ends it, finished or not."""

    def update(self, n: int = 1) -> None:
        """Record that `n` more steps are done."""


class Progress(Protocol):
    """A display of tasks."""

    def start(self, description: str, total: int | None, *, initial: int = 0) -> Task:
        """Start a task.

        Args:
            description: What is being done, e.g. "training mnist-cnn-s/seed".
            total: Number of steps, None if it is unknown.
            initial: Number of steps that were done before, e.g. by a run that was stopped.

        Returns:
            The task, to be updated within a `with` block.
        """


class NoProgress(Task):
    """A display that shows nothing, and the task of this display."""

    def start(self, description: str, total: int | None, *, initial: int = 0) -> "NoProgress":
        """Return a task that shows nothing."""
        return self

    def update(self, n: int = 1) -> None:
        """Show nothing."""

    def __exit__(self, *error: object) -> None:
        """Show nothing."""


NO_PROGRESS: Progress = NoProgress()
