"""One task of a published set, whatever the set: what its row says, in words that a task directory is written of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from runtime.task_format.published import Published


class BadRow(Exception):
    """Why a row makes no task."""


@dataclass(frozen=True)
class SetTask:
    """``solution``: the known repair as a patch, ``backwards``: to be applied in reverse; or ``files``: path below the
    work directory -> content. ``bug``: a patch that breaks the image's repository first. ``script``: runs the tests
    and writes their log. ``tests``: further files for ``tests/``, path -> content. ``test_files``: paths below the
    work directory that are the tests' own, ``source_files``: that the solution changes. ``statuses``: how each test
    ends, where a set says that."""

    name: str
    instruction: str
    published: Published
    script: str
    workdir: str = "/testbed"
    fail_to_pass: tuple[str, ...] = ()
    pass_to_pass: tuple[str, ...] = ()
    statuses: Mapping[str, str] = field(default_factory=dict)
    solution: str = ""
    backwards: bool = False
    files: Mapping[str, bytes] = field(default_factory=dict)
    bug: str = ""
    tests: Mapping[str, bytes] = field(default_factory=dict)
    test_files: tuple[str, ...] = ()
    source_files: tuple[str, ...] = ()
