"""Jsonnet to JSON: evaluates a spec in a limited child process and says where each value came from.

Knows files, time and memory limits and Jsonnet's error texts; knows nothing of the fields of a spec.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from compiler.errors import Path, Problem, SpecError, dotted, refuse
from compiler.instrument import MARK, WALK

WALL_SEC = 10.0
CPU_SEC = 8
MEMORY_BYTES = 2 << 30

_HERE = FilePath(__file__).parent
_LOCATION = re.compile(r"(?P<file>[^\s:()][^\n:()]*):\(?(?P<line>\d+):(?P<column>\d+)\)?")
_FIELD = re.compile(r'Field "((?:[^"\\]|\\.)*)"|Array element (\d+)')


@dataclass(frozen=True)
class Positions:
    """Where each value of the spec was written: ``file:line:column``, files relative to the spec's folder (or
    ``<library>/...``)."""

    exact: Mapping[Path, str]
    value: Any = None
    """The evaluated spec: what it does not hold was written nowhere."""
    spec: str = ""
    """The spec as the user typed it, for messages."""
    library_folder: str = ""

    def nearest(self, path: Path) -> str:
        """The place of the value at ``path``, or of its closest parent whose place is known; "" when there is none."""
        for length in range(len(path), 0, -1):
            if found := self.exact.get(path[:length]):
                return found
        return ""

    def written(self, path: Path) -> bool:
        """Whether a spec file (and not a default) gives the value at ``path``."""
        node = self.value
        for part in path:
            try:
                node = node[part]
            except (KeyError, IndexError, TypeError):
                return False
        return True

    def display(self, path: Path) -> str:
        """``nearest`` as a path from the working directory; the spec itself when no place is known."""
        return self.displayed(self.nearest(path)) or self.spec

    def displayed(self, position: str) -> str:
        if position.startswith("<library>/"):
            return str(FilePath(self.library_folder) / position.removeprefix("<library>/"))
        if not position or position.startswith("--"):
            return position
        return str(FilePath(self.spec).parent / position)


@dataclass(frozen=True)
class Evaluated:
    """A spec's plain value. ``digests`` maps every file that was read (names as in ``Positions``) to its sha256;
    ``entry`` is the spec itself."""

    value: Any
    positions: Positions
    digests: Mapping[str, str]
    entry: str


class Evaluation:
    """A running evaluation. Starting and collecting are apart so that the caller can import the models meanwhile."""

    def __init__(
        self,
        spec: FilePath,
        *,
        tlas: Mapping[str, str] | None = None,
        sets: Sequence[str] = (),
        library: FilePath | None = None,
    ) -> None:
        """Start it. ``tlas``: arguments of a spec that is a function; ``sets``: overrides ``path=json``. Both take
        JSON or else a plain string."""
        if not spec.is_file():
            raise refuse(
                f"{spec}: no such file", fix="give the path of a Jsonnet spec, for example specs/quickstart.jsonnet"
            )
        real = spec.resolve()
        self._name = real.name
        self._root = str(real.parent)
        self._shown = str(spec)
        self._library = str((library or library_folder()).resolve())
        arguments = {name: _as_json(text) for name, text in (tlas or {}).items()}
        overrides = [_override(text) for text in sets]
        request = json.dumps(
            {
                "root": self._root,
                "library": self._library,
                "expression": self._expression(arguments, overrides, marked=False),
                "marked_expression": self._expression(arguments, overrides, marked=True),
                "memory_bytes": MEMORY_BYTES,
                "cpu_sec": CPU_SEC,
                "sys_path": [str(_engine().parent), str(_HERE)],
            }
        ).encode()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_HERE / "evaluate_child.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self._root,
        )
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin as stream:
            stream.write(request)
        # Nothing is left for ``communicate`` to send: the child evaluates while this process does something else.
        self._process.stdin = None

    def _expression(self, arguments: Mapping[str, str], overrides: Sequence[Override], *, marked: bool) -> str:
        entry = f"local spec = import {json.dumps(self._name)};\n"
        call = ", ".join(f"{name}={value}" for name, value in arguments.items())
        plain = 'error "this spec is no function, so it takes no --tla arguments"' if arguments else "spec"
        value = f"(if std.isFunction(spec) then spec({call}) else {plain})"
        value += "".join(f" + {override.jsonnet(marked=marked)}" for override in overrides)
        return f"{WALK}{entry}walk({value})" if marked else entry + value

    def result(self) -> Evaluated:
        """Wait for it. Raises ``SpecError`` for everything that Jsonnet or the limits object to."""
        try:
            out, err = self._process.communicate(timeout=WALL_SEC)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise self._exhausted(f"evaluation took longer than {WALL_SEC:.0f} s") from None
        lines = out.split(b"\n")
        if not lines[0]:
            raise self._exhausted(_cause_of_death(self._process.returncode, err))
        answer = json.loads(lines[0])
        if "error" in answer:
            raise self._engine_error(answer["error"], answer.get("refusal"))
        value = _parse(answer["json"], self._shown)
        exact: dict[Path, str] = {}
        if len(lines) > 1 and lines[1]:
            _flatten(json.loads(lines[1]), (), exact)
        positions = Positions(exact, value, self._shown, _shown_library(self._library))
        return Evaluated(value=value, positions=positions, digests=answer["imports"], entry=self._name)

    def close(self) -> None:
        """End the child if nobody waited for it. Idempotent."""
        self._process.kill()
        if self._process.stdout is not None and not self._process.stdout.closed:
            self._process.communicate()

    def _exhausted(self, what: str) -> SpecError:
        return refuse(
            what,
            position=self._shown,
            allowed=f"{WALL_SEC:.0f} s, {MEMORY_BYTES >> 30} GiB",
            fix="look for a loop or an unbounded recursion in the spec",
        )

    def _engine_error(self, text: str, refusal: str | None) -> SpecError:
        """Go-jsonnet's message as one problem: its first line, the innermost place in a file of ours, the fields on
        the way."""
        text = text.replace(self._library + os.sep, "<library>/").replace(self._root + os.sep, "")
        first, _, trace = text.partition("\n")
        what = re.sub(r"^(RUNTIME|STATIC) ERROR: ", "", first)
        position = ""
        for place in [_LOCATION.match(what), *(_LOCATION.match(line.strip()) for line in trace.splitlines())]:
            if place and place["file"] not in ("<command line>", "<std>", "<stdlib>"):
                position = f"{place['file']}:{place['line']}:{place['column']}"
                what = what.removeprefix(place[0]).lstrip("-0123456789:() ") if what.startswith(place[0]) else what
                break
        fields = [name or int(index) for name, index in _FIELD.findall(trace)]
        positions = Positions({}, None, self._shown, _shown_library(self._library))
        where = positions.displayed(position) if position else self._shown
        return SpecError([Problem(path=tuple(reversed(fields)), what=refusal or what.strip(), position=where)])


def evaluate(spec: FilePath, *, tlas: Mapping[str, str] | None = None, sets: Sequence[str] = ()) -> Evaluated:
    evaluation = Evaluation(spec, tlas=tlas, sets=sets)
    try:
        return evaluation.result()
    finally:
        evaluation.close()


def library_folder() -> FilePath:
    """The folder that ``import 'liverl.libsonnet'`` falls back to."""
    found = importlib.util.find_spec("specs")
    assert found is not None and found.submodule_search_locations, "the package specs is part of this program"
    return FilePath(next(iter(found.submodule_search_locations))) / "lib"


def _engine() -> FilePath:
    found = importlib.util.find_spec("_gojsonnet")
    assert found is not None and found.origin is not None, "gojsonnet is a declared dependency"
    return FilePath(found.origin)


def _shown_library(library: str) -> str:
    relative = os.path.relpath(library)
    return "<library>" if relative.startswith(os.pardir) else relative


def _cause_of_death(returncode: int, stderr: bytes) -> str:
    if returncode == -24:
        return f"evaluation used more than {CPU_SEC} s of CPU"
    if returncode < 0 or b"memory" in stderr or b"MemoryError" in stderr or returncode == 2:
        return "evaluation ran out of memory or stack"
    return f"the evaluation process ended with code {returncode}: {stderr.decode(errors='replace').strip()[-300:]}"


def _parse(text: str, name: str) -> Any:
    def integer(digits: str) -> int:
        number = int(digits)
        if abs(number) > 1 << 53:
            raise refuse(
                f"the integer {digits} is larger than 2^53 and would be rounded silently",
                position=name,
                fix="write it as a string",
            )
        return number

    try:
        return json.loads(text, parse_int=integer)
    except RecursionError:
        raise refuse("the value is nested too deeply", position=name, allowed="some hundred levels") from None


def _flatten(tree: Any, path: Path, found: dict[Path, str]) -> None:
    """Positions tree -> path -> place. An object's entry is ``[place or null, subtree]``, an array's its subtree."""
    if isinstance(tree, dict):
        for name, entry in tree.items():
            if not isinstance(entry, list) or len(entry) != 2:
                return
            if isinstance(entry[0], str):
                found[(*path, name)] = entry[0]
            _flatten(entry[1], (*path, name), found)
    elif isinstance(tree, list):
        for index, entry in enumerate(tree):
            _flatten(entry, (*path, index), found)


def _as_json(text: str) -> str:
    """Command-line values: JSON as it is, anything else as a string."""
    try:
        json.loads(text)
    except ValueError:
        return json.dumps(text)
    return text


@dataclass(frozen=True)
class Override:
    """One ``--set path=json``, applied inside Jsonnet, so that everything that derives from the value follows."""

    path: Path
    value: str

    def jsonnet(self, *, marked: bool) -> str:
        return self._at(self.path, marked)

    def _at(self, path: Path, marked: bool) -> str:
        name, rest = str(path[0]), path[1:]
        key = json.dumps(name)
        mark = (
            f"{json.dumps(MARK + name)}:: {json.dumps('--set ' + dotted(self.path))}, " if marked and not rest else ""
        )
        if not rest:
            return f"{{ {mark}{key}: {self.value} }}"
        if isinstance(rest[0], int):
            inner = f"item + {self._at(rest[1:], marked)}" if len(rest) > 1 else self.value
            change = f"function(i, item) if i == {rest[0]} then {inner} else item"
            return f"{{ {key}: std.mapWithIndex({change}, super[{key}]) }}"
        return f"{{ {key}+: {self._at(rest, marked)} }}"


def _override(text: str) -> Override:
    path_text, equals, value = text.partition("=")
    parts: list[str | int] = []
    for part in path_text.replace("[", ".").replace("]", "").split("."):
        parts.append(int(part) if part.isdigit() and parts else part)
    if (
        not equals
        or not all(part != "" for part in parts)
        or any(isinstance(a, int) and isinstance(b, int) for a, b in itertools.pairwise(parts))
    ):
        raise refuse(
            f"--set {text}",
            allowed="--set path.to.field=JSON",
            fix="for example --set trainer.optimizer.learning_rate=1e-4",
        )
    return Override(tuple(parts), _as_json(value))


def parse_tlas(pairs: Sequence[str]) -> dict[str, str]:
    """``["k=v", ...]`` of ``--tla`` -> mapping."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise refuse(f"--tla {pair}", allowed="--tla name=value")
        found[name] = value
    return found
