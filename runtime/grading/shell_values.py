"""Whether a shell script can be made to run text that a program has printed.

Shells evaluate more than commands: in ``[[ $n -eq 5 ]]``, ``$((n))`` or ``${!n}`` bash runs what stands in ``$(...)``
within the value of ``n``. So who prints ``a[$(echo 1 > /logs/verifier/reward.txt)]`` where a script expects a number
writes its reward, by the hand of the one user who may. This looks for such places in a script's text, and says yes
where it cannot tell. It runs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

_SHELLS = r"(?:/\S*/)?(?:sh|bash|dash|ash|zsh|ksh|busybox)"
_COMMAND = (
    r"(?:^|[|;&({`!]|\b(?:then|do|else|elif|if|while|until|exec|command|env|nohup|time)\b)[ \t]*(?:\w+=\S*[ \t]+)*"
)
_FROM_TESTS = r"(?=[ \t]+(?:-[a-z]+[ \t]+)*[\"']?/tests/)"
_RUNS_TEXT = re.compile(
    rf"{_COMMAND}(?:eval|source|\.|trap|coproc|unset|alias|mapfile|readarray)(?=[ \t])"
    rf"|{_COMMAND}{_SHELLS}(?!{_FROM_TESTS})(?=[ \t;|&<)]|$)"
    r"|\$\{!|\$\[|\b(?:declare|typeset|local|readonly|export)[ \t]+-\w*[in]|\bprintf[ \t]+-v"
    r"|(?:\[\[?|\btest)[ \t]+(?:![ \t]+)?-[vR][ \t]",
    re.MULTILINE,
)
_QUOTED_DOCUMENT = re.compile(r"<<-?[ \t]*(['\"])(\w+)\1(.*?)\n(.*?)^[ \t]*\2[ \t]*$", re.MULTILINE | re.DOTALL)
_ARITHMETIC = (
    re.compile(r"\(\((.*?)\)\)", re.DOTALL),
    re.compile(r"\[\[(?=[^\n]*?[ \t]-(?:eq|ne|lt|le|gt|ge)[ \t])(.*?)\]\]", re.DOTALL),
    re.compile(r"(?:^|[;&|({]|\b(?:then|do|else)\b)[ \t]*let[ \t]+([^\n;]*)", re.MULTILINE),
    re.compile(r"\$\{\w+:(?![-=?+])([^}]*)\}"),  # where a part of a text begins
    re.compile(r"\b\w+\[([^\]\n]*)\](?==|\+=|\})"),  # an element's place
)
_NUMBERS = re.compile(r"\$\{PIPESTATUS\[\d+\]\}|\$\{?[?#]\}?|\$\{#\w+(?:\[[@*]\])?\}|\$\$|(?<![\w$])\d+(?!\w)")
_NAME = re.compile(r"[A-Za-z_]\w*")
_WORDS = re.compile(r"(?<![\w$])-(?:eq|ne|lt|le|gt|ge|z|n|f|d|e|s|a|o)\b")
_ASSIGNED = re.compile(
    r"(?:^|[;&|({ \t]|\b(?:then|do|else)\b)([A-Za-z_]\w*)\+?=([^\s;&|()]*(?:\(\(.*?\)\))?[^\s;&|)]*)", re.MULTILINE
)
_ASSIGNED_OTHERWISE = re.compile(r"\b(?:read|for|select|getopts)\b([^\n;]*)")


def may_run_text(scripts: Iterable[str]) -> bool:
    return any(_may_run_text(script) for script in scripts)


def scripts_of(folder: Path) -> list[str]:
    """The text of every shell script in a folder: by its name, or by its first line."""
    found = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.stat().st_size > 1 << 20:
            continue
        text = path.read_bytes().decode(errors="replace")
        first = text.partition("\n")[0]
        if path.suffix in (".sh", ".bash") or (first.startswith("#!") and re.search(r"sh\b", first)):
            found.append(text)
    return found


def _may_run_text(script: str) -> bool:
    text = _QUOTED_DOCUMENT.sub("", script.replace("\\\n", " "))
    text = re.sub(r"^[ \t]*#.*$", "", text, flags=re.MULTILINE)
    if _RUNS_TEXT.search(text):
        return True
    evaluated = [match[1] for pattern in _ARITHMETIC for match in pattern.finditer(text)]
    rests = [_WORDS.sub(" ", _NUMBERS.sub(" ", one)) for one in evaluated]
    if any(re.search(r"[\"'`]?\$\(|`|\$[*@0-9!-]|<|\bread\b", rest.replace("$((", "")) for rest in map(_plain, rests)):
        return True
    names = {name for rest in rests for name in _NAME.findall(rest)}
    return not names <= _numeric(text, names)


def _plain(text: str) -> str:
    """Without what compares: only a redirection's or a document's sign would be left."""
    return re.sub(r"<<?=?|>>?=?", " ", text)


def _numeric(text: str, names: set[str]) -> set[str]:
    """Those of the names that are only ever given numbers, as far as the script's text says."""
    given: dict[str, list[str]] = {name: [] for name in names}
    for match in _ASSIGNED.finditer(text):
        given.setdefault(match[1], []).append(match[2].strip("\"'"))
    other = {name for match in _ASSIGNED_OTHERWISE.finditer(text) for name in _NAME.findall(match[1])}
    sure = {name for name, values in given.items() if values and name not in other}
    while True:
        wrong = {name for name in sure if not all(_is_number(value, sure) for value in given[name])}
        if not wrong:
            return sure
        sure -= wrong


def _is_number(value: str, sure: set[str]) -> bool:
    """``$((...))`` gives a number whatever is in it; what it evaluates is looked at for itself."""
    if re.fullmatch(r"-?\d+|\$\(\(.*\)\)", value, re.DOTALL) or _NUMBERS.fullmatch(value):
        return True
    name = re.fullmatch(r"\$\{?(\w+)\}?", value)
    return name is not None and name[1] in sure
