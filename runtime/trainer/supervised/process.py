"""Runs verl's unmodified SFT trainer on a run directory and follows it: a process per rank, ended together.

What was trained is taken up again from the newest checkpoint (verl's own, ``trainer.resume_mode``). Knows neither
tasks nor where demonstrations come from.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from runtime import run_paths
from runtime.config import SupervisedStage, load_runtime_config
from runtime.errors import RunError
from runtime.files import as_umask_says
from runtime.run_paths import RunPaths
from runtime.trainer import stable
from runtime.trainer.diagnosis import diagnose, read_tail
from runtime.trainer.environment import ray_dir, trainer_environment
from runtime.trainer.platform import find_platform
from runtime.trainer.process import POLL_SEC, check_disk, clear, end_child, make_scratch, start_child
from runtime.trainer.supervised import rows

PLUGIN = "runtime.trainer.supervised.plugin"
COMPILE = "LIVERL_SUPERVISED_COMPILE"
"""Set where the model's layers are compiled."""


@dataclass(frozen=True)
class Length:
    """How long a stage takes. ``packs``: per optimizer step, of all ranks."""

    steps: int
    packs: int


def length_of(stage: SupervisedStage, *, packs: int, ranks: int) -> Length:
    """For ``packs`` packs of demonstrations in all. Raises ``ValueError`` where there are fewer than ranks."""
    wanted = max(1, stage.tokens_per_batch // stage.tokens_per_pass)
    batch = min(wanted, packs) // ranks * ranks
    if batch == 0:
        raise ValueError(f"the demonstrations fill {packs} packs, one for each of {ranks} ranks is needed")
    # As verl counts: every rank gets as many as all others, and a batch that is not full is left out.
    per_epoch = (packs // ranks) // (batch // ranks)
    return Length(stage.steps or per_epoch * stage.epochs, batch)


def supervise(paths: RunPaths, length: Length, *, stage: SupervisedStage, on_progress: Callable[[str], None]) -> None:
    """Train for ``length`` from ``supervised/base`` on ``supervised/demonstrations.parquet``; ``supervised/result`` is
    then a Hugging Face folder. Raises ``RunError`` when the trainer fails."""
    checkpoints = paths.supervised / "checkpoints"
    if _saved(checkpoints) != length.steps:
        clear(paths.path)
        make_scratch(paths)
        log_from = paths.supervised_log.stat().st_size if paths.supervised_log.exists() else 0
        try:
            codes = _attempt(paths, length, stage, on_progress)
        finally:
            clear(paths.path)
        if any(codes) or _saved(checkpoints) != length.steps:
            text = read_tail(paths.supervised_log, since=log_from)
            code = next(filter(None, codes), 0)
            raise RunError(f"the supervised stage: {diagnose(text, exit_code=code)} (log: {paths.supervised_log})")
    publish(paths, checkpoints / f"global_step_{length.steps}" / "huggingface")


def publish(paths: RunPaths, trained: Path) -> None:
    """``supervised/result``: the trained weights with everything else of the policy that they were made from."""
    result, partial = paths.supervised / "result", paths.supervised / ".result.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for file in sorted((paths.supervised / "base").iterdir()):
        if file.is_file() and not _is_weights(file.name):
            shutil.copy(file, partial / file.name)
    for file in sorted(trained.iterdir()):
        if _is_weights(file.name):
            shutil.copy(file, partial / file.name)
    stable.name_true_dtype(partial)
    as_umask_says(partial)
    shutil.rmtree(result, ignore_errors=True)
    partial.rename(result)


def _is_weights(name: str) -> bool:
    return name.endswith((".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".gguf", ".pt", ".pth"))


def _saved(checkpoints: Path) -> int | None:
    """The step of verl's newest whole checkpoint."""
    try:
        return int((checkpoints / stable.LATEST).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _attempt(
    paths: RunPaths, length: Length, stage: SupervisedStage, on_progress: Callable[[str], None]
) -> Sequence[int]:
    trainer = yaml.safe_load(paths.sft_yaml.read_text(encoding="utf-8"))["trainer"]
    ranks, folder = int(trainer["n_gpus_per_node"]), paths.supervised / "rows"
    folder.mkdir(parents=True, exist_ok=True)
    attempt = len(list(folder.iterdir()))
    environment = _environment(paths, stage, device=trainer["device"], attempt=attempt, ranks=ranks)
    command = _command(paths, length)
    children = []
    follower = rows.Follower(folder, paths.supervised_metrics)
    try:
        for rank in range(ranks):
            own = {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            children.append(start_child(command, paths, environment=own, log=paths.supervised_log))
        while any(child.poll() is None for child in children) and not any(child.poll() for child in children):
            if follower.poll():
                on_progress(follower.words(length.steps))
            check_disk(paths)
            time.sleep(POLL_SEC)
        return [child.poll() or 0 for child in children]
    finally:
        # One that fails leaves the others waiting for it.
        for child in children:
            end_child(child)
        if follower.poll():
            on_progress(follower.words(length.steps))


def _environment(
    paths: RunPaths, stage: SupervisedStage, *, device: str, attempt: int, ranks: int
) -> Mapping[str, str]:
    platform = find_platform(device)
    given = load_runtime_config(paths.runtime_json).env
    made = trainer_environment(paths, platform=platform, attempt=attempt, loggers=["file"], given_by_spec=given)
    return {
        **made,
        "VERL_FILE_LOGGER_PATH": str(paths.supervised / "rows" / f"{attempt:03d}.jsonl"),
        "VERL_USE_EXTERNAL_MODULES": f"{made['VERL_USE_EXTERNAL_MODULES']},{PLUGIN}",
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        # They meet in a file: a port that was free a moment ago may be another's by now.
        "DIST_INIT_METHOD": f"file://{ray_dir(paths.path) / 'meeting'}",
        # verl notes them, and meets elsewhere.
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
        **({COMPILE: "1"} if stage.compile else {}),
    }


def _command(paths: RunPaths, length: Length) -> list[str]:
    """verl's own entry point on the bundle's ``sft.yaml``."""
    return [
        sys.executable,
        "-m",
        "verl.trainer.sft_trainer",
        "--config-dir",
        str(paths.bundle),
        "--config-name",
        "sft",
        f"hydra.run.dir=${{oc.env:{run_paths.RUN_DIR}}}/{paths.state.relative_to(paths.path)}/hydra",
        "hydra.output_subdir=null",
        "hydra/job_logging=none",
        "hydra/hydra_logging=none",
        f"trainer.total_training_steps={length.steps}",
        f"data.train_batch_size={length.packs}",
    ]
