"""Task sets that are made once and kept below a cache, under all that they depend on.

A set appears there whole: a run that is killed while making one leaves nothing that a later one could take for a set.
It does not know what is in a set.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.config import Environment, TaskSet

_WRITERS = ("write.py", "git_directory.py")
NO_MATTER = {"agent_timeout_sec", "max_sandboxes", "machine_sandboxes", "warm_sandboxes", "reuse_verdicts", "images"}
"""Fields of the environment that do not decide which tests pass, and so which tasks there are."""


def description(task_set: TaskSet, *, generator: Path, environment: Environment | None = None) -> str:
    """What a generated set depends on: what it is asked to be, the generator's own modules, and, for one that is found
    by running tests (``environment``), Python and the boxes that they run in. Another description, another set."""
    # The set's name is written into its tasks, as the name under which they are scored.
    said = {
        "name": task_set.name,
        "source": task_set.source.model_dump(mode="json"),
        "version": source_digest(generator),
    }
    if environment is not None:
        said["python"] = ".".join(map(str, sys.version_info[:3]))
        said["environment"] = environment.model_dump(mode="json", exclude=NO_MATTER)
    return json.dumps(said, sort_keys=True)


def source_digest(folder: Path) -> str:
    """SHA-256 over a generator's own modules and the writer: another program, another set."""
    whole = hashlib.sha256()
    here = Path(__file__).parent
    for path in [*sorted(folder.rglob("*.py")), *(here / name for name in _WRITERS)]:
        whole.update(path.name.encode() + b"\0" + path.read_bytes())
    return whole.hexdigest()


def kept(cache: Path, kind: str, said: str, make: Callable[[Path], None], *, flush: bool = True) -> Path:
    """The folder of a described set, made by ``make(empty folder)`` unless it is there. One process makes, others
    wait. ``flush``: so that a power cut cannot leave it half written; False for what belongs to one run and is made
    in seconds, where waiting for all that a machine has yet to write can take longer."""
    home = cache / "tasks"
    folder = home / f"{kind}-{hashlib.sha256(said.encode()).hexdigest()[:16]}"
    home.mkdir(parents=True, exist_ok=True)
    with _lock(home / f".{folder.name}.lock"):
        if not folder.is_dir():
            staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=home))
            try:
                make(staging)
                (staging / "set.json").write_text(said + "\n")
                staging.chmod(0o755)
                if flush:
                    os.sync()  # hundreds of small files: one flush before the name makes them count
                staging.rename(folder)
            except BaseException:
                shutil.rmtree(staging, ignore_errors=True)
                raise
    return folder


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
