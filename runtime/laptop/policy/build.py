"""Builds a new policy: surveys the demonstration repositories, trains the tokenizer, runs the supervised warm start.

The result is an ordinary Hugging Face folder. It does not know reinforcement, nor which tasks will be trained on.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from runtime.config import NewPolicy, ShellScaffold
from runtime.errors import RunError, UserError
from runtime.laptop.compact import CHAT_TEMPLATE
from runtime.laptop.policy.demonstrations import walk
from runtime.laptop.policy.grounds import survey_grounds
from runtime.laptop.policy.tokenizer import END, PAD, ROLES, train_tokenizer
from runtime.laptop.tools.debugger import NOTHING, SOLVED, UNDONE
from runtime.laptop.tools.repairs import REPAIRS
from runtime.task import Task

Say = Callable[[str], None]

TOKENIZER_WALKS: Final = 600
LINGER_SEC: Final = 30
"""How long the other training processes may take to end once the policy is written."""
LEFT_BEHIND: Final = ("warm_start.json", "trainer", "meeting")


def build_policy(
    config: NewPolicy,
    tasks: list[Task],
    out: Path,
    *,
    shell: ShellScaffold,
    seed: int,
    on_progress: Say,
    on_tokenizer: Callable[[Path], None],
) -> None:
    """Write the Hugging Face folder ``out``. ``tasks`` are the demonstrations' tasks where they are not generated here;
    demonstrators have the tools and the budget of ``shell``. ``on_tokenizer`` gets the folder as soon as the tokenizer
    is in it, minutes before the weights: what it raises ends the work.

    Raises ``UserError`` when no demonstration can be made or the vocabulary is too small for the tools' words,
    ``RunError`` when training fails (``out``/warm_start.log).
    """
    out.mkdir(parents=True, exist_ok=True)
    on_progress("surveying repositories for demonstrations")
    grounds = survey_grounds(config, tasks, shell, on_progress)
    if not grounds:
        raise UserError("policy.warm_start.demonstrations: no task there can be repaired with the structured tools")
    _someone_knows(config.warm_start.informed_families, {ground.family for ground in grounds})
    rng = random.Random(f"{seed}/tokenizer")
    architecture, warm = config.architecture, config.warm_start
    walks = [
        walk(rng.choice(grounds), rng, informed=1.0, max_edits=shell.max_edits, max_turns=shell.max_turns)
        for _ in range(TOKENIZER_WALKS)
    ]
    words = ["run", "next", "submit", *REPAIRS, "high", "low", "error", "wrong", "again", UNDONE]
    try:
        tokenizer = train_tokenizer(
            (text for parts in walks for role, text in parts if role != "assistant"),
            [*words, *(f"{text}".split()[0] for text in (SOLVED, NOTHING))],
            vocabulary_size=architecture.vocabulary_size,
        )
    except ValueError as error:
        raise UserError(f"policy.architecture.vocabulary_size: {error}; raise it") from None
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        unk_token=PAD,  # else the class that transformers picks for Qwen2 adds a token of its own
        additional_special_tokens=list(ROLES.values()),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(out)
    on_tokenizer(out)
    processes = processes_for(warm.batch_size)
    settings = {
        **architecture.model_dump(),
        **warm.model_dump(exclude={"demonstrations"}),
        "seed": seed,
        "max_edits": shell.max_edits,
        "max_turns": shell.max_turns,
        "processes": processes,
        "grounds": [asdict(ground) for ground in grounds],
    }
    (out / "warm_start.json").write_text(json.dumps(settings))
    _train(out, processes, on_progress)
    for name in LEFT_BEHIND:
        path = out / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _someone_knows(known: Sequence[str], families: set[str]) -> None:
    """Demonstrators who are said to know families that do not occur would all search blindly, without a word."""
    if known and not families & set(known):
        raise UserError(
            f"policy.warm_start.informed_families: none of the demonstrations is of {', '.join(known)}; "
            f"they are of {', '.join(sorted(families))}; [] for all"
        )


def processes_for(batch_size: int) -> int:
    """One training process per core, as many as divide the batch evenly."""
    cores = len(os.sched_getaffinity(0))
    return max(count for count in range(1, min(cores, 8) + 1) if batch_size % count == 0)


def _train(folder: Path, processes: int, on_progress: Say) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MASTER_PORT")}
    environment |= {
        "OMP_NUM_THREADS": "1",
        "PYTHONSAFEPATH": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }
    if processes > 1:
        # accelerate asks for an address; the processes meet in a file (``train.py``).
        environment |= {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": str(processes)}
    command = [sys.executable, "-m", "runtime.laptop.policy.train", str(folder)]
    children: list[subprocess.Popen[str]] = []
    with (folder / "warm_start.log").open("w") as log:
        try:
            for rank in range(processes):
                own = environment | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {})
                children.append(
                    subprocess.Popen(
                        command,
                        env=own,
                        cwd=folder,
                        text=True,
                        stderr=log,
                        stdout=subprocess.PIPE if rank == 0 else log,
                    )
                )
            # One that fails leaves the others waiting for it: they end with it.
            threading.Thread(target=_end_together, args=(children,), daemon=True).start()
            for line in _lines(children[0]):
                log.write(line)
                if line.startswith("progress "):
                    _, step, steps, loss = line.split()
                    on_progress(f"supervised warm start {step}/{steps}, loss {loss}")
            codes = [children[0].wait(), *(_ended(child) for child in children[1:])]
        finally:
            for child in children:
                if child.poll() is None:
                    child.kill()
                    child.wait()
    if any(codes):
        tail = (folder / "warm_start.log").read_text(errors="replace")[-1500:]
        raise RunError(f"the supervised warm start ended with {codes}; its last words:\n{tail}")


def _lines(child: subprocess.Popen[str]) -> Iterator[str]:
    assert child.stdout is not None
    with child.stdout:
        yield from child.stdout


def _ended(child: subprocess.Popen[str]) -> int:
    """The exit code of a process whose work is done; one that does not end by itself is ended by the caller."""
    try:
        return child.wait(LINGER_SEC)
    except subprocess.TimeoutExpired:
        return 0


def _end_together(children: Sequence[subprocess.Popen[str]]) -> None:
    waiting = list(children)
    while waiting:
        time.sleep(0.5)
        if any(child.poll() for child in waiting):
            for child in children:
                child.kill()
            return
        waiting = [child for child in waiting if child.poll() is None]
