"""What differs between two compiled experiments, by meaning: spec fields, the numbers that follow, the artifact
values that move."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiler import bundle, emit
from compiler.cost import Unknown, cost, training_seconds
from compiler.errors import refuse
from compiler.explain import flatten
from compiler.overview import numbers
from compiler.pipeline import compile_in_memory
from compiler.plan import Plan, make_plan
from compiler.summary import amount
from compiler.validate import validate

_MISSING = "(none)"
_UNCOMPARED = (bundle.LOCK, bundle.MAP, "SUMMARY.md", "resolved.json")


@dataclass(frozen=True)
class Amount:
    """A quantity and how it is shown; None: unknown."""

    value: float | None
    text: str


@dataclass(frozen=True)
class Side:
    """One of the two: its resolved spec, what the plan derives, and the text of its artifacts."""

    name: str
    resolved: Mapping[str, Any]
    derived: Mapping[str, Any]
    amounts: Mapping[str, Amount]
    """Memory and money, by what it is for."""
    files: Mapping[str, str]


@dataclass(frozen=True)
class Change:
    path: str
    old: str
    new: str


@dataclass(frozen=True)
class Difference:
    """``facts``: spec fields; ``follows``: derived numbers; ``amounts``: memory and cost; ``artifacts``: file -> values
    in it (empty: only other text changed)."""

    a: str
    b: str
    facts: tuple[Change, ...]
    follows: tuple[Change, ...]
    amounts: tuple[Change, ...]
    artifacts: Mapping[str, tuple[Change, ...]]


def open_side(what: str, *, target: str, catalogue: Path | None = None) -> Side:
    """A spec file, a bundle folder, or ``rev:path`` (a spec as git knows it at a revision). Raises ``SpecError``.
    ``catalogue``: prices, as in ``compiler.cost``."""
    path = Path(what)
    if path.is_dir():
        if bundle.read_lock(path) is None:
            raise refuse(f"{what} is a folder, but no bundle", allowed="a spec, a bundle folder, or rev:path")
        files = {
            str(file.relative_to(path)): file.read_text(encoding="utf-8")
            for file in sorted(path.rglob("*"))
            if file.is_file()
        }
        return _side(what, files, catalogue)
    if not path.exists() and ":" in what:
        return _at_revision(what, target=target, catalogue=catalogue)
    return _side(what, compile_in_memory(path, target=target).files, catalogue)


def _side(name: str, files: Mapping[str, str], catalogue: Path | None) -> Side:
    resolved = json.loads(files["resolved.json"])
    plan = make_plan(validate(resolved))
    derived = {key: value for key, value in numbers(plan).items() if key != "policy_memory"}
    return Side(name, resolved, derived, _amounts(plan, catalogue), files)


def _amounts(plan: Plan, catalogue: Path | None) -> dict[str, Amount]:
    memory, price, seconds = plan.policy_memory, cost(plan, catalogue), training_seconds(plan)
    found: dict[str, Amount] = {}
    if memory is not None:
        found["parameters"] = Amount(memory.parameters, f"{memory.parameters:,}")
        for part in ("weights", "gradients", "optimizer", "activations", "critic", "reference", "rollout_weights",
                     "kv_cache_per_replica", "trainer_total"):  # fmt: skip
            size = getattr(memory, part)
            found[f"memory: {part.replace('_', ' ')}"] = Amount(size, amount(size))
    if seconds is not None:
        found["trainer's share of a step"] = Amount(seconds, f"{seconds:,.0f} s")
    if isinstance(price, Unknown):
        found["cost per hour"] = Amount(None, f"unknown: {price.why}")
    else:
        found["cost per hour"] = Amount(
            price.hourly, f"${price.hourly:,.2f} ({price.machines} x {price.instance_type})"
        )
        most = price.at_most(plan.spec.cluster.deadline_sec)
        found["cost until the deadline"] = Amount(most, f"${most:,.2f}")
    return found


def _amount_changes(old: Mapping[str, Amount], new: Mapping[str, Amount]) -> Iterator[Change]:
    none = Amount(None, _MISSING)
    for name in {**old, **new}:
        was, now = old.get(name, none), new.get(name, none)
        if was == now:
            continue
        share = f" ({now.value / was.value - 1:+.0%})" if was.value and now.value is not None else ""
        yield Change(name, was.text, now.text + share)


def _at_revision(what: str, *, target: str, catalogue: Path | None) -> Side:
    revision, _, name = what.partition(":")
    folder = str(Path(name).parent)
    git = subprocess.run(["git", "archive", "--format=tar", revision, folder], capture_output=True)
    if git.returncode:
        reason = git.stderr.decode(errors="replace").strip().splitlines() or [""]
        raise refuse(
            f"{what}: no such file and no such revision ({reason[-1]})", allowed="a spec, a bundle folder, or rev:path"
        )
    with tempfile.TemporaryDirectory(prefix="liverl-diff-") as scratch:
        with tarfile.open(fileobj=io.BytesIO(git.stdout)) as archive:
            archive.extractall(scratch, filter="data")
        library = Path(scratch) / folder / "lib"
        compiled = compile_in_memory(
            Path(scratch) / name, target=target, library=library if (library / "liverl.libsonnet").is_file() else None
        )
    return _side(what, compiled.files, catalogue)


def compare(a: Side, b: Side) -> Difference:
    artifacts = {}
    for name in sorted(set(a.files) | set(b.files)):
        old, new = a.files.get(name, ""), b.files.get(name, "")
        if name not in _UNCOMPARED and old != new:
            structured = name.endswith((".yaml", ".json"))
            artifacts[name] = tuple(_changes(_parsed(old), _parsed(new)) if structured else _lines(old, new))
    return Difference(
        a=a.name,
        b=b.name,
        facts=tuple(_changes(a.resolved, b.resolved)),
        follows=tuple(_changes(a.derived, b.derived)),
        amounts=tuple(_amount_changes(a.amounts, b.amounts)),
        artifacts=artifacts,
    )


def render(difference: Difference, *, markdown: bool) -> str:
    """For a terminal, or as a pull request comment."""
    if not difference.facts and not difference.artifacts:
        return f"{difference.a} and {difference.b} compile to the same artifacts.\n"
    title = f"{difference.a} -> {difference.b}"
    sections: list[tuple[str, tuple[Change, ...]]] = [
        ("Spec", difference.facts),
        ("What follows", difference.follows),
        ("Memory and cost", difference.amounts),
    ]
    sections += [(f"Artifact {name}", changes) for name, changes in difference.artifacts.items()]
    out = [f"### `{title}`" if markdown else title]
    for heading, changes in sections:
        if not changes and heading in ("What follows", "Memory and cost"):
            continue
        out += ["", f"**{heading}**" if markdown else f"{heading}:"]
        if markdown:
            out += ["", "| | before | after |", "|---|---|---|"]
            out += [f"| `{change.path}` | `{_cell(change.old)}` | `{_cell(change.new)}` |" for change in changes]
        else:
            out += [f"  {change.path}: {change.old} -> {change.new}" for change in changes]
        if not changes:
            out.append("only comments or formatting" if heading != "Spec" else "no field changed")
    return "\n".join(out) + "\n"


def _changes(old: Any, new: Any) -> list[Change]:
    before, after = dict(flatten(old)), dict(flatten(new))
    paths = [*before, *(path for path in after if path not in before)]
    changes = []
    for path in paths:
        was, now = _text(before, path), _text(after, path)
        if was != now:
            changes.append(Change(path, was, now))
    return changes


def _lines(old: str, new: str) -> Iterator[Change]:
    """Lines that one of two texts (a script, a Dockerfile) has and the other has not."""
    before, after = old.splitlines(), new.splitlines()
    for number, line in enumerate(before, 1):
        if line not in after:
            yield Change(f"line {number}", _short(line), _MISSING)
    for number, line in enumerate(after, 1):
        if line not in before:
            yield Change(f"line {number}", _MISSING, _short(line))


def _text(leaves: Mapping[str, Any], path: str) -> str:
    if path not in leaves:
        return _MISSING
    return _short(json.dumps(leaves[path], ensure_ascii=False))


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("`", "'")


def _parsed(text: str) -> Any:
    documents = emit.all_documents(text)
    return documents[0] if len(documents) == 1 else documents
