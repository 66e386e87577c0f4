"""The environment and arguments of the trainer's child process. Pure functions; starts nothing."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import orjson

from runtime import run_paths
from runtime.processes import is_same_process
from runtime.run_paths import RunPaths
from runtime.trainer import joined_ray
from runtime.trainer.platform import Platform

_NOT_INHERITED = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "RAY_ADDRESS", joined_ray.JOB_CONFIG)
"""Import paths that could shadow our packages, and a Ray cluster of someone else."""
_RAY_DIRS = Path("/tmp")
HEAD_LOST_SEC = 20
"""Without the head service of its Ray, before the trainer ends. A service that is only slow keeps its connections."""
OWNER = "liverl-owner.json"
"""In a run's folder of Ray: whose it is."""


def ray_dir(run: Path) -> Path:
    """Where Ray keeps its sockets for this run: short, because a Unix socket's path may have about 107 characters."""
    digest = hashlib.sha256(str(run.absolute()).encode()).hexdigest()[:8]
    return _RAY_DIRS / f"lr-{digest}"


def runs_here() -> Iterator[tuple[Path, Path, bool]]:
    """Folders of Ray on this machine, the run of each, and whether its launcher lives."""
    for folder in sorted(_RAY_DIRS.glob("lr-????????")):
        try:
            owner = orjson.loads((folder / OWNER).read_bytes())
            run, pid, start = Path(owner["run"]), int(owner["pid"]), int(owner["start"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        yield folder, run, is_same_process(pid, start)


def ray_token(folder: Path) -> Path:
    """What the processes of a Ray of our own know each other by. Ray would leave a file in the home directory."""
    return folder / "token"


def trainer_environment(
    paths: RunPaths,
    *,
    platform: Platform,
    attempt: int,
    loggers: Collection[str] = (),
    given_by_spec: Mapping[str, str] | None = None,
    inherited: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Variables of the trainer and, through Ray, of every process it starts. ``loggers``: verl's backends of this run;
    those that report elsewhere are switched off unless they are named. ``given_by_spec`` holds where it differs
    (``runtime.config.variables`` says where it may)."""
    dropped = {*_NOT_INHERITED, *platform.not_inherited}
    given = os.environ if inherited is None else inherited
    environment = {key: value for key, value in given.items() if key not in dropped}
    own = {
        run_paths.RUN_DIR: str(paths.path),
        run_paths.RAY_DIR: str(ray_dir(paths.path)),
        run_paths.ATTEMPT: str(attempt),
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        # INFO crashes verl 0.9.1 in separate_async mode (a logger call given flush=True).
        "VERL_LOGGING_LEVEL": "WARN",
        "VERL_FILE_LOGGER_PATH": str(paths.rows_file("verl", attempt=attempt)),
        # Nothing may be fetched or reported, and nothing written outside the run directory and Ray's own folder.
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HOME": str(paths.state / "hf"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": str(ray_dir(paths.path)),
        # verl's checkpoint locks and torch's caches; short as well, for sockets of multiprocessing.
        "TMPDIR": str(ray_dir(paths.path) / "tmp"),
        **_trackers(paths, loggers),
        "MPLCONFIGDIR": str(paths.state / "mpl"),
        "TOKENIZERS_PARALLELISM": "false",
        # Ray starts its workers at nice 15, behind everything else on the machine; they are the run itself.
        "RAY_worker_niceness": "0",
        # Ray: every log line kept, no second look at memory that the sandboxes' limits already bound, patience on
        # slow machines.
        "RAY_DEDUP_LOGS": "0",
        "RAY_memory_monitor_refresh_ms": "0",
        "RAY_worker_register_timeout_seconds": "300",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_DISABLE_IMPORT_WARNING": "1",
        **platform.environment(paths),
        **(given_by_spec or {}),
    }
    joined = (
        {joined_ray.JOB_CONFIG: joined_ray.job_config(own, inherited=given)}
        if given.get(joined_ray.ADDRESS)
        # Nobody starts the head service of a Ray of our own again.
        else {"RAY_gcs_rpc_server_reconnect_timeout_s": str(HEAD_LOST_SEC)}
    )
    token = {}
    if not {joined_ray.ADDRESS, "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & environment.keys():
        token = {"RAY_AUTH_TOKEN_PATH": str(ray_token(ray_dir(paths.path)))}
    return {**environment, **own, **joined, **token}


def _trackers(paths: RunPaths, loggers: Collection[str]) -> dict[str, str]:
    """Where experiment trackers write on this machine: below the run directory, whatever their own habit."""
    logs = paths.logs
    places = {
        "TENSORBOARD_DIR": str(logs / "tensorboard"),
        "WANDB_DIR": str(logs),
        "SWANLAB_LOG_DIR": str(logs / "swanlab"),
        "TRACKIO_DIR": str(logs / "trackio"),
    }
    if "mlflow" in loggers and not os.environ.get("MLFLOW_TRACKING_URI"):
        places["MLFLOW_TRACKING_URI"] = f"sqlite:///{logs / 'mlflow.db'}"
    if "wandb" not in loggers:
        places["WANDB_MODE"] = "disabled"
    return places


def trainer_command(paths: RunPaths, overrides: Sequence[str] = ()) -> list[str]:
    """verl's own entry point on the bundle's ``verl.yaml``. Hydra's output folders are switched off."""
    return [
        sys.executable,
        "-m",
        "verl.trainer.main_ppo",
        "--config-dir",
        str(paths.bundle),
        "--config-name",
        "verl",
        # By its variable: a folder's name would have to be quoted for Hydra's grammar and for OmegaConf's.
        f"hydra.run.dir=${{oc.env:{run_paths.RUN_DIR}}}/{paths.state.relative_to(paths.path)}/hydra",
        "hydra.output_subdir=null",
        "hydra/job_logging=none",
        "hydra/hydra_logging=none",
        # Resuming relies on the marker: not a matter of the spec.
        "trainer.checkpoint_callback_class=runtime.trainer.stable.StableMarker",
        # The verifier grades inside the agent loop: a reward worker would be one more process that imports verl for
        # nothing.
        "reward.num_workers=0",
        *overrides,
    ]
