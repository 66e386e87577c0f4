"""What a person names on the command line: a trial, a range of rewards. Raises ``UserError`` saying what there is."""

from __future__ import annotations

import math

from runtime.errors import UserError
from runtime.report.trials import TrialIndex, TrialRow


def find_trial(index: TrialIndex, name: str) -> TrialRow:
    """The trial that ``name`` means: ``STEP/ID``, an id, or the beginning of exactly one."""
    found = index.one(name)
    if found is not None:
        return found
    near = index.beginning(name)
    if len(near) == 1:
        return near[0]
    some = near or index.rows(sort="started", descending=True, limit=3)
    names = ", ".join(f"{row.step}/{row.trial_id}" for row in some)
    what = "matches no trial" if not near else "matches several trials"
    raise UserError(
        f"trial {name!r}: {what}; " + (f"allowed: STEP/ID, an id, such as {names}" if some else "the run has none")
    )


def bounds(text: str | None) -> tuple[float | None, float | None]:
    """``LO:HI`` as numbers; either may be empty, and one number alone is both."""
    if text is None:
        return None, None
    low, colon, high = text.partition(":")
    try:
        least = float(low) if low else None
        most = (float(high) if high else None) if colon else least
    except ValueError:
        raise UserError(f"--reward {text}: not LO:HI; for example 0.5:1, or :0") from None
    if not (-math.inf if least is None else least) <= (math.inf if most is None else most):  # not a number, too
        raise UserError(f"--reward {text}: no reward lies there; LO:HI from the lower to the higher, such as 0.5:1")
    return least, most
