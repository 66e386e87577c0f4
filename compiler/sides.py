"""The two things that ``liverl diff`` compares: specs, bundles, or specs as git knows them at a revision.

Knows how to open them and what their plans derive; does not compare.
"""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compiler import bundle
from compiler.cost import Unknown, cost, training_seconds
from compiler.errors import SpecError, refuse
from compiler.library import find_spec
from compiler.overview import numbers
from compiler.pipeline import compile_in_memory
from compiler.plan import Plan, make_plan
from compiler.summary import amount
from compiler.validate import validate


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


def target_of(what: str) -> str | None:
    """The target of a bundle; None for everything else."""
    lock = bundle.read_lock(Path(what))
    return str(lock["target"]) if lock is not None and "target" in lock else None


def open_side(what: str, *, target: str, catalogue: Path | None = None) -> Side:
    """A spec file, a bundle folder, or ``rev:path`` (a spec as git knows it at a revision). Raises ``SpecError``.
    ``catalogue``: prices, as in ``compiler.cost``."""
    path = find_spec(Path(what))
    if path.is_dir():
        return side_of(what, _bundle_files(path), catalogue)
    if not path.exists() and ":" in what:
        return _at_revision(what, target=target, catalogue=catalogue)
    return side_of(what, compile_in_memory(path, target=target).files, catalogue)


def _bundle_files(folder: Path) -> dict[str, str]:
    """Every file that the bundle's lock lists."""
    lock = bundle.read_lock(folder)
    listed = lock.get("files") if lock is not None else None
    if not isinstance(listed, dict):
        fix = "compare the bundles of its points" if bundle.read_sweep_lock(folder) is not None else ""
        raise refuse(f"{folder} is a folder, but no bundle", allowed="a spec, a bundle folder, or rev:path", fix=fix)
    try:
        return {name: (folder / name).read_text(encoding="utf-8") for name in sorted([*listed, bundle.LOCK])}
    except (OSError, UnicodeDecodeError) as error:
        raise refuse(f"{folder}: {error}", fix="compile the spec again") from None


def side_of(name: str, files: Mapping[str, str], catalogue: Path | None = None) -> Side:
    """A bundle that is held in memory; ``resolved.json`` is what it must have. Raises ``SpecError``."""
    try:
        resolved = json.loads(files["resolved.json"])
    except (KeyError, ValueError) as error:
        raise refuse(f"{name}: resolved.json: {error}", fix="compile the spec again") from None
    plan = make_plan(validate(resolved))
    return Side(name, resolved, derived(plan), amounts(plan, catalogue), files)


def derived(plan: Plan) -> dict[str, Any]:
    """What the plan says in numbers, memory aside."""
    return {key: value for key, value in numbers(plan).items() if key != "policy_memory"}


def amounts(plan: Plan, catalogue: Path | None) -> dict[str, Amount]:
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


def _at_revision(what: str, *, target: str, catalogue: Path | None) -> Side:
    revision, _, name = what.partition(":")
    data = _archive(revision, str(Path(name).parent))
    if isinstance(data, str):
        raise refuse(
            f"{what}: no such file and no such revision ({data})", allowed="a spec, a bundle folder, or rev:path"
        )
    with tempfile.TemporaryDirectory(prefix="liverl-diff-") as scratch:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            archive.extractall(scratch, filter=_inside)
        library = (Path(scratch) / name).parent / "lib"
        try:
            compiled = compile_in_memory(
                Path(scratch) / name,
                target=target,
                library=library if (library / "liverl.libsonnet").is_file() else None,
            )
        except SpecError as error:
            there = f"{scratch}/"
            raise SpecError(
                replace(
                    problem,
                    what=problem.what.replace(there, f"{revision}:"),
                    position=problem.position.replace(there, f"{revision}:"),
                )
                for problem in error.problems
            ) from None
    return side_of(what, compiled.files, catalogue)


def _archive(revision: str, folder: str) -> bytes | str:
    """The folder as it was, as a tar, or git's last word on why there is none. Paths count from the working directory,
    or as git's own ``rev:path`` from the top of the repository."""
    if revision.startswith("-"):
        return "not a revision"
    command = ["git", "archive", "--format=tar", revision, folder]
    try:
        done = subprocess.run(command, capture_output=True)
        top = subprocess.run(["git", "rev-parse", "--show-toplevel"], capture_output=True, text=True)
        if done.returncode and top.returncode == 0:
            done = subprocess.run(command, capture_output=True, cwd=top.stdout.strip())
    except OSError as error:
        return f"git: {error.strerror}"
    if done.returncode:
        return ["", *done.stderr.decode(errors="replace").strip().splitlines()][-1]
    return done.stdout


def _inside(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
    """Links that lead out of the folder are left behind: no spec may import through them."""
    try:
        return tarfile.data_filter(member, folder)
    except tarfile.FilterError:
        return None
