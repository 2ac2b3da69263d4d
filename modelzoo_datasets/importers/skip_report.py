"""A count of everything that an import skips, by reason: nothing is skipped in silence."""

from dataclasses import dataclass, field


class Skipped(Exception):
    """One file is not read, or is malformed; the message is the reason, the same for all files of a kind."""


@dataclass
class SkipReport:
    """Reasons in the order of their first appearance, each with a count and its first place."""

    reasons: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, reason: str, where: str, count: int = 1) -> None:
        """Count something that was skipped.

        Args:
            reason: Why, in words that fit all of its kind.
            where: The file or model.
            count: Number of files or models.
        """
        before, first = self.reasons.get(reason, (0, where))
        self.reasons[reason] = (before + count, first)

    def lines(self) -> list[str]:
        """Return one line per reason."""
        return [f"skipped {count:,}: {reason} (first: {first})" for reason, (count, first) in self.reasons.items()]
