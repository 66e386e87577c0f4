"""The page of one run as files that open without a server: the same scripts, and each answer of the server as a script
that holds one text. A browser lets a file load scripts beside it, and nothing else."""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import UserError
from runtime.page.library import Run
from runtime.page.server import ASSETS, Compare, as_json, asset
from runtime.page.trials import everything, whole_list
from runtime.report.panels import as_data
from runtime.report.trial import read_trial

_MARK = '<html lang="en" data-static>'
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; base-uri 'none';"
    " form-action 'none'; require-trusted-types-for 'script'; trusted-types liverl-data"
)


@dataclass(frozen=True)
class Written:
    """``trials``: how many can be opened, of ``of``."""

    folder: Path
    trials: int
    of: int
    bytes: int


def write_static(
    run: Run,
    folder: Path,
    *,
    trials: int,
    over: Sequence[Run] = (),
    compare: Compare = lambda runs: [],
    progress: Callable[[int], None] = lambda done: None,
) -> Written:
    """Write the page of ``run`` to ``folder``, with the newest ``trials`` trials. Runs ``over`` it can be laid over its
    curves and looked at, without their trials; ``compare`` says how their specs differ, as for the server. An earlier
    page of ours is replaced. Raises ``UserError`` where something else stands there."""
    folder = folder.absolute()
    if folder.is_symlink():
        raise UserError(f"{folder}: is a link; name the folder that it leads to, or another, with -o")
    if folder.exists() and not _ours(folder):
        raise UserError(f"{folder}: exists and is no page of ours; name another folder with -o, or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        (partial / "assets").mkdir(parents=True)
        (partial / "data").mkdir()
        (partial / "index.html").write_text(index_html(), encoding="utf-8")
        for name in (*ASSETS, "uPlot.LICENSE", "vendor.json"):
            (partial / "assets" / name).write_bytes(asset(name))
        held = total = 0
        for name, answer in _answers(run, trials, over, compare):
            (partial / "data" / f"{name}.js").write_bytes(script(name, answer))
            if name == "trials":
                total = len(answer["rows"])
            if name.startswith("trial-"):
                held += 1
                progress(held)
        size = sum(file.stat().st_size for file in partial.rglob("*") if file.is_file())
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Written(folder, held, total, size)


def index_html() -> str:
    """The page's own HTML, marked as a copy; its policy stands inside, for there is no server to send it."""
    html = asset("index.html").decode()
    policy = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    return html.replace('<html lang="en">', _MARK, 1).replace(
        '<meta charset="utf-8">', f'<meta charset="utf-8">\n{policy}', 1
    )


def script(name: str, answer: Any) -> bytes:
    """A text inside of a text: nothing that an agent wrote is ever read as code, not even as names of fields."""
    assert re.fullmatch(r"[a-z0-9-]+", name)
    text = as_json(as_json(answer).decode())
    # Both end a line of a script in old browsers.
    text = text.replace("\u2028".encode(), b"\\u2028").replace("\u2029".encode(), b"\\u2029")
    return b"LiveRL.receive(" + as_json(name) + b", " + text + b");\n"


def _answers(run: Run, limit: int, over: Sequence[Run], compare: Compare) -> Iterator[tuple[str, Any]]:
    yield "runs", [*({**one.brief(), "number": number} for number, one in enumerate(over, 1)), run.brief()]
    yield "panels", as_data()
    shown = [run, *over]
    yield (
        "differences",
        {one.name: compare([one, *(other for other in shown if other is not one)]) for one in shown if over},
    )
    for number, one in enumerate(over, 1):
        yield f"run{number}-overview", one.overview()
        yield f"run{number}-curves", one.curves()
        yield f"run{number}-supervised", one.supervised()
        yield f"run{number}-groups", one.groups()
        yield f"run{number}-diagnosis", one.diagnosis()
        with one.index() as index:
            yield f"run{number}-trials", whole_list(index)
    yield "overview", run.overview()
    yield "curves", run.curves()
    yield "supervised", run.supervised()
    yield "groups", run.groups()
    yield "diagnosis", run.diagnosis()
    with run.index() as index:
        listed = whole_list(index)
        chosen = listed["rows"][:limit]
        for number, row in enumerate(chosen, 1):
            row["file"] = str(number)
        yield "trials", listed
        for number, shown in enumerate(chosen, 1):
            row = index.one(f"{shown['step']}/{shown['trial_id']}")
            if row is None:  # gone since: an evaluation was taken up again
                continue
            yield f"trial-{number}", everything(run.directory.path, index, row)
            view = read_trial(index.folder(row))
            for sample in range(len(view.samples)):
                yield f"tokens-{number}-{sample}", run.tokens_of(view, sample)


def _ours(folder: Path) -> bool:
    try:
        return _MARK in (folder / "index.html").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return folder.is_dir() and not any(folder.iterdir())
