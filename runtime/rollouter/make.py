"""The engine of this machine that a run's settings ask for: LiveRL's own, or one that the spec names.

Imports torch only when an engine is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.imported import make
from runtime.parts import part
from runtime.rollouter.engine import LocalReplica

FIELD = "rollout.import_path"


def make_engine(
    folder: Path,
    *,
    slots: int,
    max_len: int,
    seed: int,
    import_path: str | None = None,
    kwargs: Mapping[str, Any] | None = None,
    routed: bool = False,
) -> LocalReplica:
    """One replica of the policy in ``folder``. ``routed``: our own tells which experts of a mixture were chosen; one
    that is imported decides itself. Raises ``UserError`` when ``import_path`` leads to none."""
    if import_path is not None:
        made: LocalReplica = make(
            import_path, folder, field=FIELD, kwargs=kwargs or {}, slots=slots, max_len=max_len, seed=seed
        )
        return made
    own: LocalReplica = part("engines", "torch")(folder, slots=slots, max_len=max_len, seed=seed, routed=routed)
    return own
