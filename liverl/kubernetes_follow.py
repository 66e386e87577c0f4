"""Following a RayJob from here: its state and its words until it ends, then its run's record brought home.

Speaks through ``kubectl`` alone. The job does not need us: whatever ends the following leaves it running.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from liverl.kubernetes_jobs import ENDED, REPORTED, Job, get, head_pod, kubectl
from runtime.errors import RunError, UserError
from runtime.launch.rundir import RunDirectory

POLL_SEC = 3.0
DEAF = 40
"""So many questions in a row may go unanswered: two minutes of an API server that is being replaced, nine of one that
is silent."""
LAST_WORDS_SEC = 10.0
_RUNS = "/runs"
_WHOLE = "liverl: the copy is whole"
"""Last words of what packs a run."""
_LEFT_THERE = ("checkpoints", "policy", "tasks", "data", "state", "journal")
"""Large, or worthless elsewhere; all of it stays on the volume."""


def follow(job: Job, *, runs_dir: Path) -> None:
    """Wait for the job's end and print what it says. Then its run lies below ``runs_dir``, without its checkpoints, and
    of a job that succeeded the pods are gone. Raises ``RunError`` when it failed, or cannot be asked any more."""
    words: subprocess.Popen[bytes] | None = None
    shown, heard, unanswered = "", 0.0, 0
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
                    # Reckoned by the node's own clock, which may differ from ours.
                    missed = math.ceil(time.monotonic() - heard) + 1
                    again = ["--tail=-1"] if words is None else [f"--since={missed}s"]
                    words = subprocess.Popen(["kubectl", *_words(job), *again], stderr=subprocess.DEVNULL)
            if words is not None and words.poll() is None:
                heard = time.monotonic()
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
    # What was said of the run must not hide how the job ended.
    try:
        place = _collect(job, since=status.get("startTime"), runs_dir=runs_dir)
        print(f"its run: {place} (checkpoints and task files stay on the volume)")
    except (RunError, UserError, OSError, tarfile.TarError) as error:
        print(f"no run is brought home, what there is stays on the volume: {error}", file=sys.stderr)
    if status.get("jobDeploymentStatus") != "Complete" or status.get("jobStatus") not in ("SUCCEEDED", None):
        why = " ".join(str(status[key]) for key in ("reason", "message") if status.get(key))
        # Whoever cannot note it is told once more.
        kubectl(*job.place, "annotate", "--overwrite", "rayjob", job.name, f"{REPORTED}=true")
        raise RunError(f"the job {job.name} failed: {why or status.get('jobStatus') or 'no word of why'}")
    # Its pods would hold their nodes for an hour yet.
    if (done := kubectl(*job.removal)).returncode != 0:
        print(f"the job's pods remain: {done.stderr.strip()}", file=sys.stderr)


def _status(job: Job) -> tuple[dict[str, Any] | None, str]:
    """The job's status, or None and why there is none. Raises ``RunError`` when there is no job."""
    found = get(*job.place, "get", "rayjob", job.name, "--ignore-not-found", "--output=json")
    if found.returncode != 0:
        return None, (found.stderr.strip().splitlines() or ["no words"])[-1]
    if not found.stdout.strip():
        raise RunError(f"the job {job.name} was deleted; its runs stay on the volume")
    return json.loads(found.stdout).get("status", {}), ""


def _words(job: Job) -> list[str]:
    chosen = f"liverl/experiment={job.name},liverl/role=submitter"
    # Each eviction leaves a pod of the submitter, and kubectl alone would follow five.
    return [*job.place, "logs", "--follow", "--ignore-errors", "--max-log-requests=25", "--selector", chosen]


def _collect(job: Job, *, since: str | None, runs_dir: Path) -> Path:
    """The newest run of the experiment as its head's pod sees it, copied below ``runs_dir``. ``since``: when the job
    began; a run whose last sign of life is older is another job's."""
    pod, why = head_pod(job)
    if pod is None:
        raise RunError(why)
    target = runs_dir.absolute() / job.name
    arrived = target / ".arriving"
    shutil.rmtree(arrived, ignore_errors=True)
    arrived.mkdir(parents=True)
    command = ["kubectl", *job.place, "exec", pod, "--container", "ray-head", "--", "sh", "-c", _script(job, since)]
    try:
        with tempfile.TemporaryFile() as said:
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said) as sent:
                assert sent.stdout is not None
                broken = ""
                try:
                    with tarfile.open(fileobj=sent.stdout, mode="r|") as archive:
                        archive.extractall(arrived, filter="data")
                except tarfile.ReadError as error:
                    broken = str(error)
            said.seek(0)
            words = said.read().decode(errors="replace").strip()
            # Cut off between two files it is whole to who reads it, and kubectl may call a lost stream success.
            if broken or sent.returncode != 0 or not words.endswith(_WHOLE):
                raise RunError(words.removesuffix(_WHOLE).strip() or broken or "the copy was cut off")
        came = list(arrived.iterdir())
        if len(came) != 1:
            raise RunError(f"{len(came)} folders came, not one run")
        folder = came[0]
        record = RunDirectory(folder).read()
        place = target / folder.name
        if place.exists() and RunDirectory(place).read().here and not record.here:
            raise RunError(f"{place} is a run of this machine")
        shutil.rmtree(place, ignore_errors=True)
        folder.rename(place)
    finally:
        shutil.rmtree(arrived, ignore_errors=True)
    return place


def _script(job: Job, since: str | None) -> str:
    """What the head's pod runs. tar says 1 of files that change while it reads; kubectl says it when it is cut off, so
    that 1 must not be passed on."""
    left = " ".join(f"--exclude='*/{name}'" for name in _LEFT_THERE)
    none = '{ echo "the job made no run" >&2; exit 3; }'
    began = int(datetime.fromisoformat(since).timestamp()) if since else 0
    return (
        f"cd {_RUNS}/{job.name} 2> /dev/null || {none}; newest=$(ls -t */.heartbeat 2> /dev/null | head -n 1); "
        f'[ -n "$newest" ] && [ "$(stat -c %Y "$newest")" -ge {began} ] || {none}; '
        f'{{ tar -cf - {left} "${{newest%/*}}" || [ $? = 1 ]; }} && echo "{_WHOLE}" >&2'
    )
