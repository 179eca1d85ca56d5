"""The words in which a plan is shown on its node and written into a benchmark record."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Decision:
    """One technique: `outcome` is "applied", "refused" (asked for or expected, but it cannot be) or "kept" (left as it was)."""

    technique: str
    outcome: str
    reason: str

    @classmethod
    def done(cls, technique: str, reason: str) -> "Decision":
        """Return the decision to apply `technique`."""
        return cls(technique, "applied", reason)

    @classmethod
    def refused(cls, technique: str, reason: str) -> "Decision":
        """Return the decision not to apply `technique`, with the reason."""
        return cls(technique, "refused", reason)

    @classmethod
    def kept(cls, technique: str, reason: str) -> "Decision":
        """Return the decision to leave `technique` as ComfyUI has it."""
        return cls(technique, "kept", reason)

    @property
    def applied(self) -> bool:
        """Tell whether the technique is applied."""
        return self.outcome == "applied"


def report_text(subject: str, decisions: Iterable[Decision], notes: Iterable[str] = ()) -> str:
    """Return the report: a summary line, then one line per decision, then notes."""
    decisions = tuple(decisions)
    count = sum(decision.applied for decision in decisions)
    lines = [f"{subject}: {count} applied, {sum(d.outcome == 'refused' for d in decisions)} refused"]
    lines += [f"{decision.outcome}: {decision.technique}: {decision.reason}" for decision in decisions]
    lines += [f"note: {note}" for note in notes]
    return "\n".join(lines)
