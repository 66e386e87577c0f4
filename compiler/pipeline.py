"""From a spec file to a bundle: the stages of the compiler in order.

    load (Jsonnet, child process) -> validate -> plan -> check -> lower -> target -> bundle

Everything between load and bundle is a pure function of the spec.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compiler.errors import Problem, SpecError
from compiler.load import Evaluated, Evaluation, Positions

VERSION = "0.1.0"


@dataclass(frozen=True)
class Bundle:
    """A compiled experiment. ``files`` maps names in the bundle to text, the lock among them; ``folder`` is where it
    was written, if it was."""

    name: str
    target: str
    files: Mapping[str, str]
    warnings: tuple[Problem, ...]
    folder: Path | None = None


def compile_spec(
    spec: str | Path,
    *,
    target: str = "local",
    out: str | Path | None = None,
    tlas: Mapping[str, str] | None = None,
    sets: Sequence[str] = (),
) -> Bundle:
    """Compile a spec and write its bundle to ``out`` (default ``build/<name>/<target>``). Raises ``SpecError``; then
    nothing was written."""
    from compiler.bundle import write_bundle

    bundle = compile_in_memory(spec, target=target, tlas=tlas, sets=sets)
    folder = Path(out) if out is not None else Path("build") / bundle.name / bundle.target
    write_bundle(folder, bundle.files)
    return Bundle(bundle.name, bundle.target, bundle.files, bundle.warnings, folder)


def compile_in_memory(
    spec: str | Path,
    *,
    target: str = "local",
    tlas: Mapping[str, str] | None = None,
    sets: Sequence[str] = (),
    library: Path | None = None,
) -> Bundle:
    """Compile without writing anything. ``library``: another folder for ``liverl.libsonnet`` than the installed one."""
    # The child process evaluates while this one imports the models.
    evaluation = Evaluation(Path(spec), tlas=tlas, sets=sets, library=library)
    from compiler.assemble import assemble
    from compiler.registry import find_target

    try:
        found = find_target(target)
        evaluated = evaluation.result()
    finally:
        evaluation.close()
    return assemble(evaluated, target=found)


def check_spec(
    spec: str | Path, *, target: str = "local", tlas: Mapping[str, str] | None = None, sets: Sequence[str] = ()
) -> list[Problem]:
    """Every problem of a spec, fatal ones and warnings; nothing is written."""
    try:
        return list(compile_in_memory(spec, target=target, tlas=tlas, sets=sets).warnings)
    except SpecError as error:
        return list(error.problems)


def located(problems: Sequence[Problem], positions: Positions) -> list[Problem]:
    """The problems with ``file:line:column`` of the spec."""
    return [problem if problem.position else problem.at(positions.display(problem.path)) for problem in problems]


__all__ = ["Bundle", "Evaluated", "check_spec", "compile_in_memory", "compile_spec", "located"]
