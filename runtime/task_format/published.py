"""``[metadata.liverl.published]``: what is recorded of a task that was imported from a published set.

Where it came from and under what licence, the image of its boxes, what of that an agent must not see, and how the log
of its tests is read. Does not know how boxes are made, nor how logs are read.
"""

from __future__ import annotations

import posixpath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Rule = Literal["pass_and_fail", "fail_only", "exact", "all"]
"""How the statuses that a log tells make a verdict (``runtime/grading/log_verdict.py``)."""


def _place(path: str) -> str:
    if (
        not path.startswith("/")
        or path.startswith("//")
        or path == "/"
        or posixpath.normpath(path) != path
        or "\0" in path
    ):
        raise ValueError(f"{path!r}: name a file or folder from / on, without . and ..")
    return path


class Published(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    set: str
    """``swe-bench`` and so on."""
    instance: str
    """The task's name in its set."""
    origin: str
    """Where its row was read: a data set of the hub with its revision, or a file's name."""
    repo: str = ""
    """``owner/name``"""
    base_commit: str = Field(default="", pattern=r"^([0-9a-f]{40})?$")
    """The commit that the agent starts from; empty: the image's own ``HEAD``."""
    licence: str = ""
    """Of the repository, as the set says; empty where it says nothing."""
    language: str = ""
    difficulty: str = ""
    image: str = ""
    """What the boxes are made of; empty: what ``environment/`` says."""
    history: Literal["base", "none"] = "base"
    """base: the commits that lead to ``base_commit``; none: one commit of the work directory as it is, for sets whose
    own base holds the solution."""
    hidden: tuple[Annotated[str, AfterValidator(_place)], ...] = ()
    """Files and folders of the image that no box shows: tests that the set keeps there."""
    log_parser: str = ""
    """Who reads the log of the tests; empty: ``tests/test.sh`` writes the reward itself."""
    rule: Rule = "pass_and_fail"
