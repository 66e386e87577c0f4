"""Jsonnet to JSON: evaluates a spec in a limited child process and says where each value came from.

Knows files, time and memory limits and Jsonnet's error texts; knows nothing of the fields of a spec.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Any

from compiler import evaluator, positions
from compiler.errors import Path, Problem, SpecError, refuse
from compiler.evaluator import MEMORY_BYTES
from compiler.instrument import MARK, WALK
from compiler.library import find_spec, library_folder, names, specs_folder
from compiler.overrides import as_json, override
from compiler.positions import Positions

WALL_SEC = 8.0
"""For one evaluation: a spec, or a batch of a sweep's points. The command as a whole ends within 10 s on a machine that
does nothing else; where others keep it from the cores, its CPU time is what counts, and ``STARVED_SEC`` the end."""
STARVED_SEC = 300.0
WALL_PER_POINT_SEC = 0.1
"""What each point of a sweep adds to the time of its evaluation and of the whole."""
CPU_SEC = 7
CPU_PER_POINT_SEC = 0.05
MAX_POINTS = 10_000
BATCHES = 2
MIN_BATCH, MAX_BATCH = 24, 2_500
"""A sweep is evaluated in a few batches, one while the points of another are compiled: every evaluation computes the
names of all points anew, so the cost of a point stays the same only when their number does."""
MAX_FAILURES = 8
"""Points that do not evaluate, until the search for more of them ends."""

_LOCATION = re.compile(r"(?P<file>[^\s:()][^\n:()]*):\(?(?P<line>\d+):(?P<column>\d+)\)?")
_FIELD = re.compile(r'Field "((?:[^"\\]|\\.)*)"|Array element (\d+)')


SWEEP = MARK + "sweep"
_OUTLINE = f"""
local swept = std.isObject(whole) && std.objectHas(whole, 'sweep');
local points = if swept then whole.sweep else whole;
local named(value) = if std.isObject(value) && std.objectHas(value, 'name') then value.name else null;
if !swept && !std.isArray(whole) then point(whole) else {{
  {json.dumps(SWEEP)}: {{
    nested: swept,
    keyed: std.isObject(points),
    name: if swept then named(whole) else null,
    points: if std.isObject(points) then std.objectFields(points)
            else if std.isArray(points) then std.map(named, points)
            else null,
    extra: if swept then std.setDiff(std.objectFields(whole), ['$schema', 'name', 'sweep']) else [],
  }},
}}
"""
_VISIBLE_OUTLINE = """
local swept = std.isObject(whole) && std.objectHas(whole, 'sweep');
if !swept && !std.isArray(whole) then point(whole) else null
"""
_WALKED_OUTLINE = """
local swept = std.isObject(whole) && std.objectHas(whole, 'sweep');
local points = if swept then whole.sweep else whole;
local flat(value) =
  if std.isObject(value) then { [key]: [place(value, key), null] for key in std.objectFields(value) }
  else if std.isArray(value) then std.map(flat, value)
  else null;
if !swept && !std.isArray(whole) then walk(point(whole))
else if swept then { [key]: [place(whole, key), if key == 'sweep' then flat(points) else null]
                     for key in std.objectFields(whole) }
else flat(points)
"""


@dataclass(frozen=True)
class Evaluated:
    """A spec's plain value. ``digests`` maps every file that was read (names as in ``Positions``) to its sha256;
    ``entry`` is the spec itself."""

    value: Any
    positions: Positions
    digests: Mapping[str, str]
    entry: str


@dataclass(frozen=True)
class Outline:
    """A spec that is a sweep, before its points are evaluated.

    Either ``{name: ..., sweep: {point: spec, ...}}``, whose points are experiments called ``<name>-<point>``, or an
    array of specs (also as ``sweep``) that bring names of their own. ``points`` are the names in order, None where an
    element has none; ``extra`` are fields beside ``name`` and ``sweep``.
    """

    name: Any
    points: tuple[Any, ...]
    keyed: bool
    """The points are fields of an object."""
    prefix: Path
    extra: tuple[str, ...]
    positions: Positions
    digests: Mapping[str, str]
    entry: str

    def path(self, index: int) -> Path:
        """Where the point stands in the spec."""
        return (*self.prefix, self.points[index] if self.keyed else index)


class Exhausted(SpecError):
    """A spec that needs more time or memory than specs get."""


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
        """Start it. ``tlas``: arguments of a spec that is a function; ``sets``: overrides ``path=json``, which of a
        sweep change every point unless the path begins with ``sweep``. Both take JSON or else a plain string."""
        spec = find_spec(spec)
        if why := _no_file(spec):
            allowed = f"the path of a Jsonnet spec, or one that comes with LiveRL: {', '.join(names())}"
            raise refuse(f"{spec}: {why}", allowed=allowed)
        real = spec.resolve()
        self._name = real.name
        self._root = str(real.parent)
        self._shown = str(spec)
        # A link's file imports what lies beside the file, and that is where its lines are.
        same = spec.absolute().parent.resolve() == real.parent
        self._folder = str(spec.parent) if same else os.path.relpath(real.parent)
        self._library = str((library or library_folder()).resolve())
        self._specs = "" if library else str(specs_folder().resolve())
        self._arguments = {name: as_json(text, f"--tla {name}: ") for name, text in (tlas or {}).items()}
        self._overrides = [override(text) for text in sets]
        self._evaluator: evaluator.Evaluator | None = None
        self._asked_sec = 0.0
        """CPU time of the questions of this sweep, in the children."""
        self._ask(_OUTLINE, _VISIBLE_OUTLINE)

    def _program(self, marks: str = "") -> str:
        """Jsonnet that binds ``whole``, the spec's value, and ``point(value)``, the overrides of a point."""
        call = ", ".join(f"{name}={value}" for name, value in self._arguments.items())
        plain = 'error "this spec is no function, so it takes no --tla arguments"' if self._arguments else "spec"
        outer = [override for override in self._overrides if override.path[0] == "sweep"]
        inner = [override for override in self._overrides if override.path[0] != "sweep"]
        whole = f"(if std.isFunction(spec) then spec({call}) else {plain})"
        whole += "".join(f" + {override.jsonnet(marks)}" for override in outer)
        point = "value" + "".join(f" + {override.jsonnet(marks)}" for override in inner)
        return (
            f"{WALK if marks == 'hidden' else ''}local spec = import {json.dumps(self._name)};\n"
            f"local whole = {whole};\nlocal point(value) = {point};\n"
        )

    def _ask(self, expression: str, visible_expression: str, points: int = 0) -> None:
        self._deadline = time.monotonic() + WALL_SEC + WALL_PER_POINT_SEC * points
        self._points = points
        self._request = self._asking(self._program() + expression, visible_expression, "visible")
        self._evaluator = evaluator.borrow()
        self._used_before = self._evaluator.cpu_sec()
        self._evaluator.ask(self._request)

    def _asking(self, expression: str, marked_expression: str, marks: str) -> list[str]:
        seconds = CPU_SEC + int(CPU_PER_POINT_SEC * self._points)
        return [
            str(seconds), self._root, self._library, self._specs,
            expression, self._program(marks) + marked_expression, marks,
        ]  # fmt: skip

    def _answer(self) -> tuple[Any, Any, Mapping[str, str]]:
        """The value, the same with visible marks (None without them), and digests. Raises ``SpecError`` for everything
        that Jsonnet or the limits object to."""
        child = self._evaluator
        assert child is not None, "every question has one answer"
        self._evaluator = None
        marked: Any = None
        try:
            try:
                kind, text, refusal, *files = child.answer(self._deadline, self._deadline + STARVED_SEC)
            except evaluator.Ended as ended:
                if ended.returncode != 0:
                    raise
                child.close()  # it had just left for want of questions
                child = evaluator.Evaluator()
                child.ask(self._request)
                kind, text, refusal, *files = child.answer(self._deadline, self._deadline + STARVED_SEC)
            marked = self._marked(child)
            self._asked_sec += max(0.0, child.cpu_sec() - self._used_before)
        except TimeoutError:
            child.retired = True
            raise self._exhausted(f"evaluation took longer than {WALL_SEC:.0f} s") from None
        except evaluator.Ended as ended:
            child.retired = True
            raise self._exhausted(_cause_of_death(ended.returncode, ended.stderr)) from None
        except BaseException:
            child.retired = True
            raise
        finally:
            evaluator.give_back(child)
        if kind == "error":
            raise self._engine_error(text, refusal)
        return _parse(text, self._shown), marked, dict(zip(files[::2], files[1::2], strict=True))

    def _marked(self, child: evaluator.Evaluator) -> Any:
        """The answer's second part."""
        try:
            text, retired = child.answer(self._deadline, self._deadline + STARVED_SEC)
        except (evaluator.Ended, TimeoutError):
            child.retired = True
            return None
        child.retired = bool(retired)
        return positions.parsed(text)

    def _walked(self, walk_expression: str) -> Any:
        """Positions by way of hidden marks: a question of its own, within the time of the last one."""
        child = evaluator.borrow()
        try:
            child.ask(self._asking("", walk_expression, "hidden"))
            return self._marked(child)
        finally:
            evaluator.give_back(child)

    def _positions(self, exact: dict[Path, str], value: Any) -> Positions:
        return Positions(exact, value, self._shown, self._folder, _shown_library(self._library))

    def _walked_positions(self, tree: Any, value: Any) -> Positions:
        exact: dict[Path, str] = {}
        positions.flatten(tree, (), exact)
        return self._positions(exact, value)

    def outcome(self) -> Evaluated | Outline:
        """Wait for it. Raises ``SpecError`` for everything that Jsonnet or the limits object to."""
        value, marked, digests = self._answer()
        if not (isinstance(value, dict) and SWEEP in value):
            exact: dict[Path, str] = {}
            if positions.separate(marked, value, (), exact):
                return Evaluated(value, self._positions(exact, value), digests, self._name)
            walked = self._walked_positions(self._walked(_WALKED_OUTLINE), value)
            return Evaluated(value, walked, digests, self._name)
        found = value[SWEEP]
        if not isinstance(found["points"], list):
            raise refuse(
                "sweep is neither an object nor an array", path=("sweep",), position=self._shown,
                allowed="{ sweep: { point: spec, ... } }, or an array of specs",
            )  # fmt: skip
        if not 0 < len(found["points"]) <= MAX_POINTS:
            raise refuse(
                f"a sweep of {len(found['points'])} points", path=("sweep",), position=self._shown,
                allowed=f"1 to {MAX_POINTS:,} points",
            )  # fmt: skip
        prefix = ("sweep",) if found["nested"] else ()
        return Outline(
            name=found["name"],
            points=tuple(found["points"]),
            keyed=found["keyed"],
            prefix=prefix,
            extra=tuple(found["extra"]),
            positions=self._walked_positions(self._walked(_WALKED_OUTLINE), None),
            digests=digests,
            entry=self._name,
        )

    def result(self, *, point: str | None = None) -> Evaluated:
        """One experiment: the spec, or the ``point`` of a sweep."""
        found = self.outcome()
        if not isinstance(found, Outline):
            if point is not None:
                raise refuse(f"--point {point}: this spec is no sweep", position=self._shown, fix="leave --point out")
            return found
        if point not in found.points or point is None:
            close = difflib.get_close_matches(point or "", [str(name) for name in found.points], n=1)
            raise refuse(
                f"--point {point}: no such point" if point else f"this spec is a sweep of {len(found.points)} points",
                position=self._shown,
                allowed=_some(found.points) if point else "one experiment",
                fix=(f"did you mean {close[0]}?" if close else "")
                if point
                else "compile it and name the bundle of a point; compile, check, plan and explain take --point "
                f"{found.points[0]} too",
            )
        _, one = next(self.points(found, [found.points.index(point)], name=self.sweep_name(found)))
        if isinstance(one, SpecError):
            raise one
        return one

    def sweep_name(self, outline: Outline) -> str:
        """The sweep's ``name``, or the spec file's name without its ending. Raises ``SpecError`` for what is no
        name."""
        name = self._name.split(".")[0] if outline.name is None else outline.name
        if isinstance(name, str) and re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name) and len(name) <= 50:
            return name
        raise refuse(
            f"{json.dumps(name, ensure_ascii=False)} is no name for a sweep",
            path=("name",),
            position=outline.positions.display(("name",)),
            allowed="lower-case letters, digits and '-', at most 50",
            fix="change name" if outline.name is not None else "write { name: 'my-sweep', sweep: ... }",
        )

    def points(
        self, outline: Outline, indices: Sequence[int], *, name: str
    ) -> Iterator[tuple[int, Evaluated | SpecError]]:
        """The points in order, each with its index, or what is wrong with it. While the caller works on a batch, the
        next one is evaluated.
        ``name``: the sweep's."""
        enough = WALL_SEC + WALL_PER_POINT_SEC * len(indices)
        began, self._asked_sec = time.process_time(), 0.0
        size = min(MAX_BATCH, max(MIN_BATCH, -(-len(indices) // BATCHES)))
        waiting = [indices[start : start + size] for start in range(0, len(indices), size)]
        failures = 0
        self._ask_points(outline, waiting[0], name)
        while waiting:
            batch = waiting.pop(0)
            # The batch may have waited for its reader.
            self._deadline = time.monotonic() + WALL_SEC + WALL_PER_POINT_SEC * len(batch)
            found: list[tuple[int, Evaluated | SpecError]] = []
            try:
                values, marked, digests = self._answer()
            except Exhausted:
                raise  # looking for the point that did it would take as long again, many times
            except SpecError as error:
                if len(batch) > 1 and failures < MAX_FAILURES:
                    # One bad point must not hide what is wrong with the others.
                    waiting[:0] = [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
                else:
                    failures += 1
                    found = [(batch[0], _without_batch(error))]
            else:
                for index, value, places in zip(
                    batch, values, self._batch_positions(outline, batch, name, values, marked), strict=True
                ):
                    found.append((index, Evaluated(value, places, digests, self._name)))
            if waiting:
                self._ask_points(outline, waiting[0], name)
            yield from found
            if time.process_time() - began + self._asked_sec > enough:
                raise self._exhausted("the sweep took too long", wall=enough)

    def _batch_positions(
        self, outline: Outline, batch: Sequence[int], name: str, values: Sequence[Any], marked: Any
    ) -> list[Positions]:
        exacts: list[dict[Path, str]] = [{} for _ in values]
        trees: list[Any] = marked if isinstance(marked, list) and len(marked) == len(values) else [None] * len(values)
        if all(
            positions.separate(tree, value, (), exact) for tree, value, exact in zip(trees, values, exacts, strict=True)
        ):
            return [self._positions(exact, value) for exact, value in zip(exacts, values, strict=True)]
        walked = self._walked(f"walk({self._several(outline, batch, name, 'hidden')})")
        trees = walked if isinstance(walked, list) and len(walked) == len(values) else [None] * len(values)
        return [self._walked_positions(tree, value) for tree, value in zip(trees, values, strict=True)]

    def _several(self, outline: Outline, batch: Sequence[int], name: str, marks: str = "") -> str:
        """Jsonnet of the points of a batch."""
        holder = "whole.sweep" if outline.prefix else "whole"
        if not outline.keyed:
            return "[" + ", ".join(f"point({holder}[{index}])" for index in batch) + "]"
        points = []
        for index in batch:
            key = str(outline.points[index])
            place = ""
            if marks == "hidden":
                place = f"{json.dumps(MARK + 'name')}:: place({holder}, {json.dumps(key)}), "
            elif marks and (found := outline.positions.exact.get(outline.path(index))):
                place = f"{json.dumps(MARK + 'name')}: {json.dumps(found + MARK)}, "
            points.append(f"point({holder}[{json.dumps(key)}] + {{ {place}name: {json.dumps(f'{name}-{key}')} }})")
        return "[" + ", ".join(points) + "]"

    def _ask_points(self, outline: Outline, batch: Sequence[int], name: str) -> None:
        self._ask(
            self._several(outline, batch, name), self._several(outline, batch, name, "visible"), points=len(batch)
        )

    def close(self) -> None:
        """End the child if nobody waited for it. Idempotent."""
        if self._evaluator is not None:
            self._evaluator.close()
            self._evaluator = None

    def _exhausted(self, what: str, wall: float | None = None) -> Exhausted:
        allowed = f"{wall or WALL_SEC:.0f} s, {MEMORY_BYTES >> 30} GiB"
        fix = "look for a loop or an unbounded recursion in the spec"
        return Exhausted([Problem((), what, allowed, fix, position=self._shown)])

    def _engine_error(self, text: str, refusal: str) -> SpecError:
        """Go-jsonnet's message as one problem: its first line, the innermost place in a file of ours, the fields on
        the way."""
        text = text.replace(self._library + os.sep, "<library>/").replace(self._root + os.sep, "")
        if self._specs:
            text = text.replace(self._specs + os.sep, "<specs>/")
        first, _, trace = text.partition("\n")
        what = re.sub(r"^(RUNTIME|STATIC) ERROR: ", "", first)
        if override_error := re.match(r"(--set [^:]+): ", what):
            return SpecError([Problem((), what[override_error.end() :], position=override_error[1])])
        position, fix = "", ""
        if missing := re.match(r"Missing argument: (\w+)", what):
            fix = f"give it as --tla {missing[1]}=VALUE"
        elif extra := re.match(r"function has no parameter (\w+)", what):
            what, fix = f"--tla {extra[1]}: the spec's function has no such parameter", "see its first lines"
        for place in [_LOCATION.match(what), *(_LOCATION.match(line.strip()) for line in trace.splitlines())]:
            if place and place["file"] not in ("<command line>", "<std>", "<stdlib>"):
                position = f"{place['file']}:{place['line']}:{place['column']}"
                what = what.removeprefix(place[0]).lstrip("-0123456789:() ") if what.startswith(place[0]) else what
                break
        fields = [name or int(index) for name, index in _FIELD.findall(trace)]
        nowhere = self._positions({}, None)
        where = nowhere.displayed(position) if position else self._shown
        return SpecError([Problem(tuple(reversed(fields)), refusal or what.strip(), fix=fix, position=where)])


def _without_batch(error: SpecError) -> SpecError:
    """The problems of a point that was evaluated as the one element of a batch."""
    return SpecError(
        replace(problem, path=problem.path[1:]) if problem.path[:1] == (0,) else problem for problem in error.problems
    )


def evaluate(
    spec: FilePath, *, tlas: Mapping[str, str] | None = None, sets: Sequence[str] = (), point: str | None = None
) -> Evaluated:
    """One experiment. Raises ``SpecError``."""
    evaluation = Evaluation(spec, tlas=tlas, sets=sets)
    try:
        return evaluation.result(point=point)
    finally:
        evaluation.close()


def _no_file(spec: FilePath) -> str:
    """Why a path names no spec; empty where it names a file."""
    try:
        if spec.is_file():
            str(spec).encode()
            return ""
        return "a folder, not a file" if spec.is_dir() else "not a regular file" if spec.exists() else "no such file"
    except OSError as error:
        return os.strerror(error.errno or 0)
    except UnicodeEncodeError:
        return "its name is not UTF-8"


def _some(names: Sequence[Any]) -> str:
    shown = [str(name) for name in names[:12]]
    return ", ".join(shown) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


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
    try:
        return json.loads(text)
    except RecursionError:
        raise refuse("the value is nested too deeply", position=name, allowed="some hundred levels") from None
