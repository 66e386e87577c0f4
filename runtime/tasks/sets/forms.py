"""Rows of one set given under the name of another: said so, in the place of the column that they lack first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from runtime.tasks.sets.files import Row

_OURS: Final[dict[str, tuple[str, ...]]] = {
    "r2e": ("parsed_commit_content", "expected_output_json"),
    "swe-rebench": ("install_config", "test_patch"),
    "swe-bench": ("eval_script", "log_parser"),
}
"""Set -> columns that its rows have. SWE-Gym's have none that others lack, and SWE-smith's no test patch."""
_OTHERS: Final[dict[str, tuple[str, ...]]] = {
    "Multi-SWE-bench": ("fix_patch", "f2p_tests"),
    "SWE-bench Pro": ("dockerhub_tag", "selected_test_files_to_run"),
    "SWE-bench-Live": ("test_cmds", "base_commit"),
}
"""Sets that are not read here, by what their rows have."""


def meant(row: Row, given: str, sets: Sequence[str]) -> str:
    """What rows of this form are, where they are none of the set ``given``; empty where that cannot be told."""
    for name, columns in _OTHERS.items():
        if all(row.get(column) is not None for column in columns):
            return f"rows of this form are {name}'s, a set that is not read here; there are {', '.join(sets)}"
    if given in _OURS and all(row.get(column) is not None for column in _OURS[given]):
        return ""
    for name, columns in _OURS.items():
        if name != given and all(row.get(column) is not None for column in columns):
            return f"rows of this form are those of {name}; give that as the set's name"
    if given != "swe-smith" and "test_patch" not in row and "swesmith" in str(row.get("image_name")):
        return "rows of this form are those of swe-smith; give that as the set's name"
    return ""
