"""Following a RayJob from here: its state and its words until it ends, then its run's record brought home.

Speaks through ``kubectl`` alone. The job does not need us: whatever ends the following leaves it running.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from liverl.kubernetes_jobs import ENDED, kubectl
from runtime.errors import RunError
from runtime.launch.rundir import RunDirectory

POLL_SEC = 3.0
DEAF = 40
"""So many questions in a row may go unanswered: two minutes of an API server that is being replaced."""
LAST_WORDS_SEC = 10.0
_RUNS = "/runs"
_LEFT_THERE = ("checkpoints", "policy", "tasks", "data", "state", "journal")
"""Large, or worthless elsewhere; all of it stays on the volume."""


@dataclass(frozen=True)
class Job:
    """A RayJob; ``name`` is the experiment's too."""

    name: str
    namespace: str

    @property
    def removal(self) -> tuple[str, ...]:
        return ("--namespace", self.namespace, "delete", "rayjob", self.name)


def follow(job: Job, *, runs_dir: Path) -> None:
    """Wait for the job's end and print what it says. Then its run lies below ``runs_dir``, without its checkpoints, and
    of a job that succeeded the pods are gone. Raises ``RunError`` when it failed, or cannot be asked any more."""
    words: subprocess.Popen[bytes] | None = None
    shown, since, unanswered = "", "", 0
    try:
        while True:
            status, said = _status(job)
            unanswered = 0 if status is not None else unanswered + 1
            if unanswered > DEAF:
                raise RunError(f"the cluster does not answer: {said}; the job {job.name} goes on without us")
            if status is not None:
                state = str(status.get("jobDeploymentStatus") or "New")
                if state != shown:
                    print(f"job {job.name}: {state}", flush=True)
                    shown = state
                if state in ENDED:
                    break
                if state == "Running" and (words is None or words.poll() is not None):
                    # It ends with its connection, or with the submitter's pod, of which there may be another.
                    again = ["--since-time", since] if since else ["--tail=-1"]
                    words = subprocess.Popen(["kubectl", *_words(job), *again], stderr=subprocess.DEVNULL)
                    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            time.sleep(POLL_SEC)
        if words is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                words.wait(LAST_WORDS_SEC)
    finally:
        if words is not None and words.poll() is None:
            words.terminate()
            words.wait()
    _end(job, status, runs_dir=runs_dir)


def _end(job: Job, status: dict[str, Any], *, runs_dir: Path) -> None:
    try:
        print(f"its run: {_collect(job, runs_dir=runs_dir)} (checkpoints and task files stay on the volume)")
    except (RunError, OSError, tarfile.TarError) as error:
        print(f"its run stays on the volume: {error}", file=sys.stderr)
    if status.get("jobDeploymentStatus") != "Complete" or status.get("jobStatus") not in ("SUCCEEDED", None):
        why = " ".join(str(status[key]) for key in ("reason", "message") if status.get(key))
        raise RunError(f"the job {job.name} failed: {why or status.get('jobStatus') or 'no word of why'}")
    # Its pods would hold their nodes for an hour yet.
    if (done := kubectl(*job.removal)).returncode != 0:
        print(f"the job's pods remain: {done.stderr.strip()}", file=sys.stderr)


def _status(job: Job) -> tuple[dict[str, Any] | None, str]:
    """The job's status, or None and why there is none. Raises ``RunError`` when there is no job."""
    found = kubectl("--namespace", job.namespace, "get", "rayjob", job.name, "--ignore-not-found", "--output=json")
    if found.returncode != 0:
        return None, (found.stderr.strip().splitlines() or ["no words"])[-1]
    if not found.stdout.strip():
        raise RunError(f"the job {job.name} was deleted; its runs stay on the volume")
    return json.loads(found.stdout).get("status", {}), ""


def _words(job: Job) -> list[str]:
    chosen = f"liverl/experiment={job.name},liverl/role=submitter"
    return ["--namespace", job.namespace, "logs", "--follow", "--ignore-errors", "--selector", chosen]


def _collect(job: Job, *, runs_dir: Path) -> Path:
    """The newest run of the experiment as its head's pod sees it, copied below ``runs_dir``."""
    chosen = f"liverl/experiment={job.name},liverl/role=head"
    found = kubectl(
        *("--namespace", job.namespace, "get", "pods", "--selector", chosen, "--field-selector=status.phase=Running"),
        "--output=jsonpath={.items[*].metadata.name}",
    )
    pods = found.stdout.split()
    if found.returncode != 0 or not pods:
        raise RunError(found.stderr.strip() or "its head's pod is gone")
    left = " ".join(f"--exclude='*/{name}'" for name in _LEFT_THERE)
    script = f'cd {_RUNS}/{job.name} && newest=$(ls -t */.heartbeat | head -n 1) && tar -cf - {left} "${{newest%/*}}"'
    command = ["kubectl", "--namespace", job.namespace, "exec", pods[-1], "--container", "ray-head", "--"]
    target = runs_dir.absolute() / job.name
    arrived = target / ".arriving"
    shutil.rmtree(arrived, ignore_errors=True)
    arrived.mkdir(parents=True)
    try:
        with subprocess.Popen([*command, "sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as sent:
            assert sent.stdout is not None and sent.stderr is not None
            try:
                with tarfile.open(fileobj=sent.stdout, mode="r|") as archive:
                    archive.extractall(arrived, filter="data")
            except tarfile.ReadError as error:
                raise RunError(sent.stderr.read().decode(errors="replace").strip() or str(error)) from error
        (folder,) = arrived.iterdir()
        record = RunDirectory(folder).read()
        place = target / folder.name
        if place.exists() and RunDirectory(place).read().here and not record.here:
            raise RunError(f"{place} is a run of this machine")
        shutil.rmtree(place, ignore_errors=True)
        folder.rename(place)
    finally:
        shutil.rmtree(arrived, ignore_errors=True)
    return place
