"""Demonstrations that LiveRL makes for the supervised stage of a pretrained policy."""

from typing import Annotated, Literal

from pydantic import Field

from runtime.config.base import Count, Model, Share, Text
from runtime.config.tasks import Source


class Pairs(Model):
    """Bug-repair pairs: functions of source code with a slip in them, shown as the agent's first look shows them. No
    test is run, so they cost minutes where trials cost hours."""

    tokens: Count
    """At most so many tokens in all, prompts included."""
    sources: Annotated[tuple[Text, ...], Field(min_length=1)] = ("stdlib", "installed")
    """``stdlib``: Python's own library; ``installed``: the packages beside LiveRL; or a folder whose folders are one
    package each; absolute, or relative to the folder where ``liverl run`` is called."""
    per_function: Count = 2
    """Most pairs of one function, each with another kind of slip."""


class MadeDemonstrations(Model):
    """Made before the stage begins, in the form in which the scaffold will ask. Of nothing that validation holds: no
    task, no package, no copy of one of its functions elsewhere."""

    type: Literal["made"] = "made"
    tasks: Source | None = None
    """Tasks that are solved in whole trials by a policy that knows the solution; null: none."""
    trials_per_task: Count = 1
    second_try: Share = 0.3
    """Share in which another edit fails first; of those the same share in which one more does, and so on below the
    scaffold's ``max_edits``. They are context and are not imitated."""
    miscopied: Share = 0.1
    """Share of pairs in which a call comes first whose text to replace is nowhere; it is not imitated either."""
    kind_share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    """Largest share of one kind of bug."""
    pairs: Pairs | None = None
    """null: none."""
