"""What is not imported is counted by reason, never passed over in silence."""

from dataclasses import dataclass, field


class Skipped(Exception):
    """One file is not read, or is not what it should be; the message is the reason, the same for all of its kind."""


@dataclass
class SkipReport:
    """Reasons in the order of their first appearance, each with how often and where first."""

    found: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, reason: str, where: str, count: int = 1) -> None:
        """Count something that was skipped."""
        before, first = self.found.get(reason, (0, where))
        self.found[reason] = (before + count, first)

    def lines(self) -> list[str]:
        """One line per reason."""
        return [f"skipped {count:,}: {reason} (first: {first})" for reason, (count, first) in self.found.items()]
