"""What a patch touches: files by name, as git writes them. Does not apply patches."""

from __future__ import annotations

import re

from runtime.tasks.sets.types import BadRow

_FILE = re.compile(r'^diff --git (?:"?a/(?P<old>[^"\n]+?)"? "?b/(?P<new>[^"\n]+?)"?)$', re.M)
_PLAIN = re.compile(r"^\+\+\+ b/(?P<new>[^\t\n]+)", re.M)
_NO_TEST = (".json", ".png", "csv", ".txt", ".md", ".jpg", ".jpeg", ".pkl", ".yml", ".yaml", ".toml")
"""Endings of files that SWE-bench does not give to the test command."""


def touched(patch: str) -> tuple[str, ...]:
    """Paths that a patch changes, adds or removes, old names and new. Raises ``BadRow`` for those that lead out."""
    paths = [path for match in _FILE.finditer(patch) for path in (match["old"], match["new"])]
    paths = paths or [match["new"] for match in _PLAIN.finditer(patch)]
    for path in paths:
        if path.startswith("/") or ".." in path.split("/"):
            raise BadRow(f"its patch leads out of the repository: {path}")
    return tuple(dict.fromkeys(paths))


def there_before(patch: str) -> tuple[str, ...]:
    """Paths that the repository has before the patch, which git can check out again."""
    kept = []
    for part in re.split(r"^(?=diff --git )", patch, flags=re.M):
        match = _FILE.search(part)
        if match is not None and not re.search(r"^new file mode |^--- /dev/null", part, re.M):
            kept.append(match["old"])
    return tuple(dict.fromkeys(kept))


def directives(test_patch: str, repo: str) -> list[str]:
    """What SWE-bench's way gives to the test command: files that the test patch leaves, for Django as modules."""
    found = []
    for part in re.split(r"^(?=diff --git )", test_patch, flags=re.M):
        match = _FILE.search(part)
        if match is None or re.search(r"^deleted file mode |^\+\+\+ /dev/null", part, re.M):
            continue
        if not match["new"].endswith(_NO_TEST):
            found.append(match["new"])
    if repo == "django/django":
        found = [path.removesuffix(".py").removeprefix("tests/").replace("/", ".") for path in found]
    return list(dict.fromkeys(found))
