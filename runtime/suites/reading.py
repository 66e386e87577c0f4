"""Formats that reports come in, read from hands that are not trusted: JSON, lines of JSON, JUnit's XML."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from xml.parsers import expat

_DEPTH = 64
_FAILED: Final = frozenset({"failure", "rerunFailure", "rerunError", "flakyFailure", "flakyError"})
"""Flaky ones too: Surefire writes them where one of several runs under one name has failed, also of a dynamic test that
never passes beside one that does."""
_IDLE: Final = frozenset({"skipped", "disabled"})
_BESIDE: Final = frozenset(
    {
        *("properties", "property", "system-out", "system-err", "stdout", "stderr", "reportentry", "description"),
        *("comment", "comments", "attachments", "tags", "assertions", "warning"),
    }
)
"""What says nothing of how a test ended."""


def json_of(content: bytes) -> Any:
    """The value, or None for what is no JSON: no value that a report has is null."""
    try:
        return json.loads(content.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None


def json_lines(content: bytes) -> Iterator[Mapping[str, Any]]:
    """Objects, one a line. Lines that are none are what other programs printed between them."""
    for line in content.split(b"\n"):
        if line.startswith(b"{"):
            value = json_of(line)
            if isinstance(value, dict):
                yield value


def text(value: object) -> str:
    return value if isinstance(value, str) else ""


def table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def items(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


@dataclass
class Case:
    """One ``testcase`` of a JUnit report: its attributes, and the names of the elements in it."""

    attributes: Mapping[str, str]
    suite: Mapping[str, str]
    inside: set[str] = field(default_factory=set)

    @property
    def outcome(self) -> str:
        if "error" in self.inside:
            return "error"
        if self.inside & _FAILED or self.attributes.get("status") == "fail":
            return "failed"
        if self.attributes.get("status") in ("notrun", "disabled") or self.inside & _IDLE:
            return "skipped"
        return "error" if self.inside - _BESIDE else "passed"  # what is not understood is no pass


def junit_cases(content: bytes) -> list[Case] | None:
    """Every test case of a JUnit report; None for what is none, or not whole. A report with a document type is refused:
    its entities could stand for anything, gigabytes too."""
    cases: list[Case] = []
    suites: list[Mapping[str, str]] = []
    path: list[str] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        path.append(name)
        if len(path) > _DEPTH:
            raise ValueError("too deep")
        if name == "testsuite":
            suites.append(attributes)
        elif name == "testcase":
            cases.append(Case(attributes, suites[-1] if suites else {}))
        elif len(path) > 1 and path[-2] == "testcase":
            cases[-1].inside.add(name)

    def end(name: str) -> None:
        path.pop()
        if name == "testsuite":
            suites.pop()

    def no_type(*_: object) -> None:
        raise ValueError("a document type")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.StartDoctypeDeclHandler = no_type
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, ValueError, LookupError):  # the last: of encodings that are none
        return None
    return cases
