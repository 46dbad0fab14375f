"""What `verify` found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Args:
        name: what.
        ok: True, False, or None where it couldn't be looked at.
        detail: what was found.
    """

    name: str
    ok: bool | None
    detail: str


@dataclass(frozen=True)
class Verification:
    """Everything that was looked at.

    Args:
        path: the checkpoint.
        checks: in the order they ran.
        delta_norms: component → ‖W − W₀‖/‖W₀‖, where the base is known.
    """

    path: Path
    checks: tuple[Check, ...]
    delta_norms: dict[str, float]

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return all(check.ok is not False for check in self.checks)

    def plain(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {**asdict(self), "path": str(self.path), "ok": self.ok}
