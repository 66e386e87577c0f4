"""Commands that we suggest to people, written so that they work where they stand: pasted into the shell and the folder
that this process was started from.

Knows how this program was called, shells and paths; not what any command does.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

PROGRAM = "liverl"
RUNS_DIR = "LIVERL_RUNS_DIR"
"""Variable that names the folder of all runs, where no option does."""


def liverl(*words: str | Path) -> str:
    """A command of ours, its words quoted for a shell. Paths are shown as ``shown`` has it."""
    return " ".join([*_program(), *(shlex.quote(shown(word) if isinstance(word, Path) else word) for word in words)])


def on_run(command: str, run: Path, *options: str) -> str:
    """A command of ours about a run, which is named by its folder: an id would be looked for below another one."""
    return liverl(*command.split(), *options, run)


def experiment(spec: str, options: Sequence[str], bundle: Path) -> tuple[str | Path, ...]:
    """The words that name the experiment of a run to a command: its spec with the options that it was compiled with, or
    its bundle, where that spec is no more. ``spec``: a name of the library, an absolute path, or ""."""
    if spec and os.sep not in spec:
        return (spec, *options)
    return (Path(spec), *options) if spec and Path(spec).is_file() else (bundle,)


def elsewhere(runs_dir: Path) -> tuple[str | Path, ...]:
    """The option that a command needs to use ``runs_dir``; nothing where it is the one that is taken anyway."""
    return () if _absolute(runs_dir) == _absolute(default_runs_dir()) else ("--runs-dir", runs_dir)


def default_runs_dir() -> Path:
    return Path(os.environ.get(RUNS_DIR) or "runs")


def pip(*requirements: str) -> str:
    """What installs Python packages where this program runs."""
    return shlex.join([_here(Path(sys.executable)), "-m", "pip", "install", *requirements])


def install(*, gpu: bool = False) -> str:
    """What installs everything that training needs: the checkout's own way, or pip's."""
    checkout, target = Path(__file__).parents[1], "install-gpu" if gpu else "install"
    if (checkout / "Makefile").is_file() and (checkout / "pyproject.toml").is_file():
        folder = shown(checkout)
        return shlex.join(["make", *([] if folder == "." else ["-C", folder]), target])
    return pip("liverl[train]")


def shown(path: Path) -> str:
    """A path as one would type it here: relative where it lies below the current folder, else absolute."""
    absolute, here = Path(os.path.normpath(_absolute(path))), _absolute(Path())
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(absolute)


def _absolute(path: Path) -> Path:
    """``path.absolute()``, also where the current folder is gone, as that of a job may be before its end: then what was
    relative to it leads nowhere and stays as it is."""
    try:
        return path.absolute()
    except FileNotFoundError:
        return path


def beside(program: str) -> str | None:
    """The path of a program that was installed with this one, in the same environment."""
    return shutil.which(program, path=str(Path(sys.executable).parent))


def _program() -> list[str]:
    """``liverl`` where the shell finds this very program under that name, else its path."""
    called = Path(sys.argv[0])
    script = str(_absolute(called)) if called.name == PROGRAM and called.is_file() else beside(PROGRAM)
    if script is None:
        return [shlex.quote(_here(Path(sys.executable))), "-m", PROGRAM]
    found = shutil.which(PROGRAM)
    if found is not None and Path(found).samefile(script):
        return [PROGRAM]
    return [shlex.quote(_here(Path(script)))]


def _here(program: Path) -> str:
    """A program's path, which a shell must not look up on its PATH."""
    path = shown(program)
    return path if os.sep in path else f".{os.sep}{path}"
