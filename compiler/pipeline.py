"""From a spec file to a bundle: the stages of the compiler in order.

    load (Jsonnet, child process) -> validate -> plan -> check -> lower -> target -> bundle

Everything between load and bundle is a pure function of the spec. The later stages are imported while the child process
evaluates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from compiler.compiled import Bundle, Sweep
from compiler.errors import Problem, SpecError
from compiler.load import Evaluation, Outline


def compile_spec(
    spec: str | Path,
    *,
    target: str = "local",
    out: str | Path | None = None,
    tlas: Mapping[str, str] | None = None,
    sets: Sequence[str] = (),
    point: str | None = None,
) -> Bundle:
    """Compile a spec, or one ``point`` of a sweep, and write its bundle to ``out`` (default
    ``build/<name>/<target>``). Raises ``SpecError``; then nothing was written."""
    from compiler.bundle import write_bundle

    bundle = compile_in_memory(spec, target=target, tlas=tlas, sets=sets, point=point)
    folder = Path(out) if out is not None else Path("build") / bundle.name / bundle.target
    write_bundle(folder, bundle.files)
    return Bundle(bundle.name, bundle.target, bundle.files, bundle.warnings, folder)


def compile_all(
    spec: str | Path,
    *,
    target: str = "local",
    out: str | Path | None = None,
    tlas: Mapping[str, str] | None = None,
    sets: Sequence[str] = (),
) -> Bundle | Sweep:
    """``compile_spec`` for specs that may be a sweep: its points become the folders
    ``build/<name>/<target>/<point>``."""
    evaluation = Evaluation(Path(spec), tlas=tlas, sets=sets)
    from compiler.assemble import assemble
    from compiler.bundle import write_bundle
    from compiler.registry import find_target

    try:
        found = find_target(target)
        outcome = evaluation.outcome()
        if isinstance(outcome, Outline):
            from compiler.sweep import compile_sweep

            return compile_sweep(evaluation, outcome, target=found, out=Path(out) if out is not None else None)
    finally:
        evaluation.close()
    bundle = assemble(outcome, target=found)
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
    point: str | None = None,
) -> Bundle:
    """Compile without writing anything. ``library``: another folder for ``liverl.libsonnet`` than the installed one."""
    evaluation = Evaluation(Path(spec), tlas=tlas, sets=sets, library=library)
    from compiler.assemble import assemble
    from compiler.registry import find_target

    try:
        found = find_target(target)
        evaluated = evaluation.result(point=point)
    finally:
        evaluation.close()
    return assemble(evaluated, target=found)


def check_spec(
    spec: str | Path,
    *,
    target: str = "local",
    tlas: Mapping[str, str] | None = None,
    sets: Sequence[str] = (),
    point: str | None = None,
) -> list[Problem]:
    """Every problem of a spec and of every point of a sweep, fatal ones and warnings; nothing is written."""
    from compiler.assemble import assemble
    from compiler.registry import find_target

    try:
        found = find_target(target)
        evaluation = Evaluation(Path(spec), tlas=tlas, sets=sets)
        try:
            outcome = evaluation.outcome() if point is None else evaluation.result(point=point)
            if isinstance(outcome, Outline):
                from compiler.sweep import check_sweep

                return check_sweep(evaluation, outcome, target=found)
        finally:
            evaluation.close()
        return list(assemble(outcome, target=found).warnings)
    except SpecError as error:
        return list(error.problems)
