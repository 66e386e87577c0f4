"""Where the trainer's processes find and put things in the run directory; the directory itself comes from
``LIVERL_RUN_DIR``.

Only names of files and variables: knows nothing of their content.
"""

from __future__ import annotations

import os
from pathlib import Path

RUN_DIR = "LIVERL_RUN_DIR"
RAY_DIR = "LIVERL_RAY_DIR"
ATTEMPT = "LIVERL_ATTEMPT"
"""Number of this start of the trainer within the run (0, 1, ...): each start writes metric rows to files of its own."""


def run_dir() -> Path:
    """The run directory of this process. Raises ``KeyError`` outside a run."""
    return Path(os.environ[RUN_DIR])


def bundle(run: Path | None = None) -> Path:
    return (run or run_dir()) / "bundle"


def runtime_json(run: Path | None = None) -> Path:
    return bundle(run) / "runtime.json"


def policy(run: Path | None = None) -> Path:
    return (run or run_dir()) / "policy"


def checkpoints(run: Path | None = None) -> Path:
    return (run or run_dir()) / "checkpoints"


def trials(run: Path | None = None) -> Path:
    return (run or run_dir()) / "trials"


def state(run: Path | None = None) -> Path:
    """Scratch of the running trainer: sandboxes, router file, status. Worthless after it."""
    return (run or run_dir()) / "state"


def status_json(run: Path | None = None) -> Path:
    return (run or run_dir()) / "status.json"


def metrics_jsonl(run: Path | None = None) -> Path:
    return (run or run_dir()) / "metrics.jsonl"


def rows_folder(run: Path | None = None) -> Path:
    return (run or run_dir()) / "logs" / "rows"


def rows_file(source: str, *, run: Path | None = None, attempt: int | None = None) -> Path:
    """Metric rows of one writer (``verl``, ``loop``, ``weights``) of one start of the trainer."""
    number = int(os.environ.get(ATTEMPT, "0")) if attempt is None else attempt
    return rows_folder(run) / f"{source}-{number:03d}.jsonl"


def data(run: Path | None = None) -> Path:
    return (run or run_dir()) / "data"


def router_yaml(run: Path | None = None) -> Path:
    return state(run) / "router.yaml"


def engines(run: Path | None = None) -> Path:
    """What leads to the inference servers of this start: a key, and an address per replica."""
    return state(run) / "engines"


def engine_key(run: Path | None = None) -> Path:
    """Holds the word that the inference servers of this start ask for; for this user's eyes."""
    return engines(run) / "key"


def engine_address(name: str) -> Path:
    """Written by an inference server as soon as it listens; holds its URL."""
    return engines() / f"{name}.url"


def engine_addresses() -> dict[str, str]:
    """Name -> URL of every inference server that listens."""
    return {path.stem: path.read_text(encoding="ascii") for path in sorted(engines().glob("*.url"))}


def log_file(run: Path | None = None) -> Path:
    return (run or run_dir()) / "logs" / "trainer.log"


def journal(run: Path | None = None) -> Path:
    """The proxy's log of turns of this start of the trainer."""
    return (run or run_dir()) / "journal" / f"proxy-{int(os.environ.get(ATTEMPT, '0')):03d}.jsonl"


def engine_socket(name: str) -> Path:
    """Where an engine server listens; in Ray's folder, because a Unix socket's path must be short."""
    return Path(os.environ[RAY_DIR]) / f"{name}.sock"


def engine_sockets() -> dict[str, Path]:
    """Name -> socket of every engine server that listens."""
    return {path.stem: path for path in sorted(Path(os.environ[RAY_DIR]).glob("*.sock"))}
