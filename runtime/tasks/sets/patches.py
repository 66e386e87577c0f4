"""What a patch touches: files by name, as git writes them. Does not apply patches."""

from __future__ import annotations

import re

from runtime.tasks.sets.types import BadRow

_NAME = r'(?:"{0}/(?P<{1}_quoted>(?:[^"\\\n]|\\.)+)"|{0}/(?P<{1}>[^"\n]+?))'
_FILE = re.compile(rf"^diff --git {_NAME.format('a', 'old')} {_NAME.format('b', 'new')}\r?$", re.M)
_PLAIN = re.compile(rf"^\+\+\+ {_NAME.format('b', 'new')}(?:\t.*)?\r?$", re.M)
_ESCAPE = re.compile(rb'\\([0-7]{3}|[abtnvfr"\\])')
_ESCAPED = {b"a": b"\a", b"b": b"\b", b"t": b"\t", b"n": b"\n", b"v": b"\v", b"f": b"\f", b"r": b"\r"}
_NO_TEST = (".json", ".png", "csv", ".txt", ".md", ".jpg", ".jpeg", ".pkl", ".yml", ".yaml", ".toml")
"""Endings of files that SWE-bench does not give to the test command."""


def touched(patch: str) -> tuple[str, ...]:
    """Paths that a patch changes, adds or removes, old names and new. Raises ``BadRow`` for those that lead out."""
    paths = [path for match in _FILE.finditer(patch) for path in (_name(match, "old"), _name(match, "new"))]
    paths = paths or [_name(match, "new") for match in _PLAIN.finditer(patch)]
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
            kept.append(_name(match, "old"))
    return tuple(dict.fromkeys(kept))


def directives(test_patch: str, repo: str) -> list[str]:
    """What SWE-bench's way gives to the test command: files that the test patch leaves, for Django as modules."""
    found = []
    for part in re.split(r"^(?=diff --git )", test_patch, flags=re.M):
        match = _FILE.search(part)
        if match is None or re.search(r"^deleted file mode |^\+\+\+ /dev/null", part, re.M):
            continue
        if not (new := _name(match, "new")).endswith(_NO_TEST):
            found.append(new)
    if repo == "django/django":
        found = [path.removesuffix(".py").removeprefix("tests/").replace("/", ".") for path in found]
    return list(dict.fromkeys(found))


def _name(match: re.Match[str], which: str) -> str:
    """A file's name as it is: git quotes those with letters that are not ASCII, each byte as a number. Raises
    ``BadRow`` for one that is no UTF-8."""
    if match[which] is not None:
        return match[which]
    quoted = match[f"{which}_quoted"].encode()
    plain = _ESCAPE.sub(
        lambda one: _ESCAPED.get(one[1]) or (bytes([int(one[1], 8) & 255]) if one[1].isdigit() else one[1]), quoted
    )
    try:
        return plain.decode()
    except UnicodeDecodeError as error:
        raise BadRow(f"its patch changes a file whose name is no UTF-8: {quoted.decode()}") from error
