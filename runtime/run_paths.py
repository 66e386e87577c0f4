"""The one table of a run directory's paths, ``runs/<experiment>/<run-id>/``, and the variables that name it to
processes.

Only names of files and variables: knows nothing of their content.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

RUN_DIR = "LIVERL_RUN_DIR"
"""The run directory, in the environment of every process of a run."""
RAY_DIR = "LIVERL_RAY_DIR"
"""Ray's folder of this run: outside of it, because sockets need short paths."""
ATTEMPT = "LIVERL_ATTEMPT"
"""Number of this start of the trainer within the run (0, 1, ...): each start writes metric rows to files of its own."""
WORKER = "LIVERL_AGENT_LOOP_WORKER"
"""Name (``NUMBER.START``) of the agent-loop worker that a process is, or was started by; not set where there is one."""


def kept_folder(runs_dir: Path) -> Path:
    """What is worth sharing between the runs of a folder: fetched packages, and tasks verified in them. What a command
    makes for a spec lies there, so that its runs find it."""
    return runs_dir / ".cache"


@dataclass(frozen=True)
class RunPaths:
    """Where everything of one run lies. ``path`` is absolute."""

    path: Path

    @classmethod
    def of_process(cls) -> RunPaths:
        """Those of the run that this process belongs to. Raises ``KeyError`` outside a run."""
        return cls(Path(os.environ[RUN_DIR]))

    @property
    def record_file(self) -> Path:
        return self.path / "run.json"

    @property
    def heartbeat(self) -> Path:
        """Its time of change is the owner's newest sign of life."""
        return self.path / ".heartbeat"

    @property
    def bundle(self) -> Path:
        return self.path / "bundle"

    @property
    def verl_yaml(self) -> Path:
        return self.bundle / "verl.yaml"

    @property
    def runtime_json(self) -> Path:
        return self.bundle / "runtime.json"

    @property
    def policy(self) -> Path:
        return self.path / "policy"

    @property
    def supervised(self) -> Path:
        """The supervised stage before reinforcement: ``base``, a link to the policy that it begins with,
        ``demonstrations.parquet``, ``rows.jsonl``, ``record.json`` and ``result``, which ``policy`` leads to then."""
        return self.path / "supervised"

    @property
    def supervised_metrics(self) -> Path:
        """Rows of the supervised stage, by its own steps, in the form of ``metrics.jsonl``."""
        return self.supervised / "rows.jsonl"

    @property
    def sft_yaml(self) -> Path:
        return self.bundle / "sft.yaml"

    @property
    def tasks(self) -> Path:
        return self.path / "tasks"

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def status(self) -> Path:
        return self.path / "status.json"

    @property
    def curriculum(self) -> Path:
        """What a curriculum knows of each task, as of the newest step."""
        return self.data / "curriculum.json"

    @property
    def shares(self) -> Path:
        """Of each step's groups the share with a difference, where those without are left out."""
        return self.data / "shares.json"

    @property
    def baselines(self) -> Path:
        return self.path / "baselines.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def trials(self) -> Path:
        return self.path / "trials"

    @property
    def probe(self) -> Path:
        """Records of the trials that were played before the run."""
        return self.path / "probe"

    @property
    def abandoned(self) -> Path:
        """Trials of steps that were taken again, a folder for each resume."""
        return self.path / "abandoned"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def trainer_log(self) -> Path:
        return self.logs / "trainer.log"

    @property
    def supervised_log(self) -> Path:
        return self.logs / "supervised.log"

    @property
    def startup(self) -> Path:
        """What the trainer's processes have reached since its newest start."""
        return self.logs / "startup.jsonl"

    @property
    def rows(self) -> Path:
        """Folder of metric rows, a file for each writer and start; ``metrics.jsonl`` is made of them."""
        return self.logs / "rows"

    @property
    def state(self) -> Path:
        """Scratch of the running trainer: sandboxes, router file, reserve. Worthless after it."""
        return self.path / "state"

    @property
    def probe_state(self) -> Path:
        return self.state / "probe"

    def worker_state(self, name: str) -> Path:
        """Scratch of one of several agent-loop workers."""
        return self.state / "workers" / name

    @property
    def sandbox_states(self) -> list[Path]:
        """Every folder below which a process of the run may have kept its sandboxes' traces."""
        return [self.state, self.probe_state, *sorted(self.worker_state("any").parent.glob("*"))]

    @property
    def waits(self) -> Path:
        """What the processes of the run wait for right now, a file for each wait (``runtime/telemetry/waits.py``)."""
        return self.state / "waits"

    @property
    def router_yaml(self) -> Path:
        return self.state / "router.yaml"

    @property
    def engines(self) -> Path:
        """Folder of what leads to the inference servers of this start of the trainer: ``key``, the word that they ask
        for, and ``NAME.url`` for each, written as soon as it listens."""
        return self.state / "engines"

    def rows_file(self, source: str, *, attempt: int | None = None) -> Path:
        """Metric rows of one writer (``verl``, ``loop``, ``weights``) of one start of the trainer; None: of the start
        that this process belongs to."""
        return self.rows / f"{source}-{_attempt() if attempt is None else attempt:03d}.jsonl"

    @property
    def journal(self) -> Path:
        """The proxy's log of turns of the start that this process belongs to."""
        return self.path / "journal" / f"proxy-{_attempt():03d}.jsonl"

    def worker_journal(self, number: int) -> Path:
        """The same of one of several agent-loop workers."""
        return self.journal.with_name(f"{self.journal.stem}-worker-{number}{self.journal.suffix}")

    @property
    def trial_journals(self) -> Path:
        """Folder of what several agent-loop workers have played, a row of files for each start of each."""
        return self.path / "journal" / "workers"

    @property
    def groups_journal(self) -> Path:
        """What became of every group of trials, over all starts of the trainer."""
        return self.path / "journal" / "groups.log"


def _attempt() -> int:
    return int(os.environ.get(ATTEMPT, "0"))
