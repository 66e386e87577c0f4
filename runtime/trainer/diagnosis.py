"""What to tell a person when the trainer has died: known signatures of its log, in words, with what to do.

Reads text only. The first signature that matches wins; the order is from specific to general.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from runtime import suggest
from runtime.trainer.halt import HALTED

_TAIL_BYTES = 512 * 1024
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_PREFIX = re.compile(r"\([^()\s]+ pid=\d+\) ?")

SLOW_STARTS = (
    "The current node timed out during startup",
    "while waiting for node to startup",
    "Timed out waiting for node info for node_id=",
    "not found in NodeInfo, ",
    "from GCS. Did GCS start successfully?",
    "Failed to start GCS. ",
)
"""What Ray says, all of it before a trainer begins, when a part of its own node takes longer than a constant of Ray's
allows: the node itself, what it knows of itself, its store of keys."""
_SLOW_START = "|".join(map(re.escape, SLOW_STARTS))
AGENTS_DIED = "AgentsDied"
"""How the agent loop marks a batch in which no agent lived. It may be the last one, and then nothing else fails."""

_SIGNATURES: Sequence[tuple[str, str]] = (
    (
        rf"{AGENTS_DIED}: (?P<detail>.*)",
        "{detail}; trials/<step>/*/agent has what they said, and nothing trained on this is worth keeping",
    ),
    (
        rf"{HALTED}: (?P<detail>.*)",
        "{detail}",
    ),
    (
        # Before what else fails without it.
        r"Failed to connect to GCS within (?P<seconds>\d+) seconds",
        "the head service of the run's Ray (gcs_server) has been gone for {seconds} s: it was killed, or its machine "
        "is lost; checkpoints and finished trials are kept, resume the run",
    ),
    (
        r"(?:RefillBudget|WaitedTooLong): (?P<detail>.*)",
        "{detail}",
    ),
    (
        r"AgentLoopEnded: (?P<detail>.*)",
        "the agent loop ended, which nothing should make it do (a bug: please report): {detail}",
    ),
    (
        r"WeightMismatch: (?P<detail>.*)",
        "a replica served other weights than the trainer sent: {detail}",
    ),
    (
        r"OtherTasks: (?P<detail>.*)",
        "{detail}",
    ),
    (
        r"No space left on device|ENOSPC",
        "the disk is full; free some space and resume",
    ),
    (
        r"AF_UNIX path length cannot exceed|socket path .* too long",
        "Ray's socket path is too long; set TMPDIR to a short path",
    ),
    (
        r"NothingToScore: (?P<detail>.*)",
        "validation at {detail}; trials/<step>/*/trial.json say why",
    ),
    (
        r"no materializable trajectories",
        "every trial of a step failed, so there was nothing to train on; trials/<step>/*/trial.json say why",
    ),
    (
        r"Failed to register worker|worker_register_timeout|The node with node id .* has been marked dead",
        "Ray lost a worker while starting (too little memory or a very busy machine)",
    ),
    (
        _SLOW_START,
        "Ray gave its own node too little time to come up (30 s for most parts), several times: the machine is too"
        " busy; resume when it is not",
    ),
    (
        r"OutOfMemoryError|MemoryError|Cannot allocate memory|killed due to the node running low on memory",
        "the machine ran out of memory; use fewer replicas, a smaller concurrency or a smaller micro batch",
    ),
    (
        r"(?P<detail>(?:ConfigComposition|ConfigAttribute|MissingConfig|Could not override|Key .* is not in struct).*)",
        "verl refused the configuration: {detail}",
    ),
    (
        r"ModuleNotFoundError: (?P<detail>No module named .*)",
        "a Python package is missing in the trainer's processes: {detail}; {doctor} says what installs it",
    ),
    (
        # The death of an agent-loop worker is survived.
        r"ActorDiedError: The actor died unexpectedly[^\n]*\n\s+class_name: (?!WorkerProcess)(?P<name>\w+)"
        r"(?:\n\s+(?!pid: )[^\n]*)*\n\s+pid: (?P<pid>\d+)(?:\n\s+(?!ip: )[^\n]*)*\n\s+ip: (?P<host>\S+)",
        "a process of the trainer ({name}, pid {pid} on {host}) was killed or crashed: by the kernel for want of "
        "memory, which its log says (dmesg), or by somebody; checkpoints and finished trials are kept, resume the run",
    ),
    (
        r"(?P<detail>\w*(?:Error|Exception): .*)",
        "{detail}",
    ),
)


def read_tail(log: Path, *, since: int = 0) -> str:
    """The end of a log without colours and Ray's process prefixes. ``since``: bytes of earlier starts."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(since, log.stat().st_size - _TAIL_BYTES))
            text = stream.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    return _PREFIX.sub("", _COLOUR.sub("", text))


def ray_was_slow(text: str) -> bool:
    """Whether Ray's node was given up before the trainer began: nothing is lost by another start."""
    return re.search(_SLOW_START, text) is not None


def ended_by_itself(text: str) -> bool:
    """Whether the agent loop ended the run for a reason of ``health``."""
    return AGENTS_DIED not in text and f"{HALTED}: " in text


def diagnose(text: str, *, exit_code: int) -> str:
    """One sentence on why the trainer ended with ``exit_code``."""
    for pattern, message in _SIGNATURES:
        found = list(re.finditer(pattern, text))
        if found:
            # The last one: earlier errors may have been survived.
            named = {key: value.strip() for key, value in found[-1].groupdict().items() if value}
            return message.format(**{"doctor": f"`{suggest.liverl('doctor')}`", **named})
    if exit_code < 0:
        return f"the trainer was killed by signal {-exit_code}"
    return f"the trainer ended with exit code {exit_code}"
