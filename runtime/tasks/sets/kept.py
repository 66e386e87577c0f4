"""A published set's directories, made once and kept below the cache, under all that they depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from runtime.config import PublishedSource, TerminalBenchSource
from runtime.files import write_whole
from runtime.grading import swebench_log
from runtime.tasks.directories import OnProblem
from runtime.tasks.kept import kept, source_digest
from runtime.tasks.sets.load import Wanted, import_rows
from runtime.tasks.sets.terminal_bench import import_folders

_LEFT_OUT = "left-out.json"


def set_directories(
    source: PublishedSource | TerminalBenchSource,
    *,
    cache: Path,
    say: Callable[[str], None],
    on_problem: OnProblem,
) -> list[Path]:
    """The task directories, in a fixed order; rows that make no task are named, each time. Raises as ``import_rows``
    and ``import_folders``."""
    near = source.path if isinstance(source, TerminalBenchSource) else source.rows
    said = {
        "source": source.model_dump(mode="json"),
        "content": _digest(Path(near).expanduser()) if near is not None else "",
        "swebench": swebench_log.installed(),
        "version": source_digest(Path(__file__).parent),
    }

    def make(out: Path) -> None:
        problems: list[str] = []
        if isinstance(source, TerminalBenchSource):
            made = import_folders(
                Path(source.path).expanduser(),
                out,
                instances=source.instances,
                limit=source.limit,
                on_problem=problems.append,
            )
        else:
            made = import_rows(source.type, wanted(source), out, cache=cache, on_problem=problems.append, say=say)
        found = {"tasks": [path.name for path in made], "left_out": problems}
        write_whole(out / _LEFT_OUT, json.dumps(found).encode())

    folder = kept(cache, source.type, json.dumps(said, sort_keys=True), make)
    found = json.loads((folder / _LEFT_OUT).read_bytes())
    for problem in found["left_out"]:
        on_problem(problem)
    return [folder / name for name in found["tasks"]]


def wanted(source: PublishedSource) -> Wanted:
    return Wanted(
        rows=Path(source.rows).expanduser() if source.rows is not None else None,
        dataset=source.dataset,
        split=source.split,
        revision=source.revision,
        instances=source.instances,
        repositories=source.repositories,
        limit=source.limit,
    )


def _digest(path: Path) -> str:
    total = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file()):
        with file.open("rb") as stream:
            total.update(str(file.relative_to(path)).encode() + b"\0")
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()
