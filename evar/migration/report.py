"""What a migration did."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Migrated:
    """moved: what is re-keyed. left: what stays as it was, with the reason. notes: what is worth knowing of what moved."""

    what: str
    moved: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def lines(self, dry_run: bool = False) -> list[str]:
        """One line per reason with those that it is about, and one on the whole."""
        told = []
        for kind, some in (("left as they are", self.left), ("note", self.notes)):
            reasons: dict[str, list[str]] = {}
            for one, reason in some.items():
                reasons.setdefault(reason, []).append(one)
            for reason, ones in reasons.items():
                named = "; ".join(ones[:3]) + (f" and {len(ones) - 3} more" if len(ones) > 3 else "")
                told.append(f"{kind}: {named}: {reason}")
        verb = "would be re-keyed" if dry_run else "re-keyed"
        if not told and not self.moved:
            return [f"no {self.what} of an earlier evar: nothing to do"]
        return [*told, f"{len(self.moved)} {self.what} {verb}, {len(self.left)} left as they are"]
