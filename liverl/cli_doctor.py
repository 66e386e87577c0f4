"""``liverl doctor``: what this machine can run, what is missing, and the command that installs it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from liverl.exits import MACHINE
from liverl.options import RunsDir

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runtime.config import RuntimeConfig
    from runtime.launch.machine import Check


def register(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor(
    spec: Annotated[
        Path | None, typer.Argument(metavar="[SPEC]", help="Judge for this spec or bundle; default: for any.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option("--model", metavar="DIR", help="Judge this model folder's chat template; default: the spec's."),
    ] = None,
    runs_dir: RunsDir = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array instead of a table.")] = False,
) -> None:
    """Check Python, packages, sandboxing, disk, memory, and whether a model's tokens can be owned. Exit 3 when a run
    could not start."""
    from runtime.config import RuntimeConfig
    from runtime.launch.machine import check_all
    from runtime.launch.model import check_model

    bundle = None if spec is None else _bundle(spec)
    config = None if bundle is None else RuntimeConfig.model_validate_json(bundle["runtime.json"])
    isolated = config is None or config.environment.type == "bubblewrap"
    found = check_all(runs_dir, scaffold=None if config is None else config.scaffold)
    checks = [check for check in found if isolated or check.needed_for != "isolated sandboxes"]
    checks += _gpu_checks(bundle, runs_dir)
    folder = model or _policy_folder(config)
    if folder is not None:
        parser, scaffold = (None, None) if config is None else (config.rollout.tool_parser, config.scaffold)
        checks.append(check_model(folder, tool_parser=parser, scaffold=scaffold))
    if as_json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            mark = "ok" if check.ok else "missing" if check.required else "without"
            print(f"{mark:<7}  {check.name:<{width}}  {check.found}")
            if not check.ok:
                print(f"{'':{width + 11}}needed for {check.needed_for}\n{'':{width + 11}}fix: {check.fix}")
    if any(not check.ok and check.required for check in checks):
        raise typer.Exit(MACHINE)


def _policy_folder(config: RuntimeConfig | None) -> Path | None:
    """The spec's policy, where it is a folder of this machine."""
    from runtime.config import PretrainedPolicy

    if config is None or not isinstance(config.policy, PretrainedPolicy):
        return None
    folder = Path(config.policy.path).expanduser()
    return folder if folder.is_dir() else None


def _gpu_checks(bundle: Mapping[str, str] | None, runs_dir: Path) -> list[Check]:
    """Everything that a spec for GPUs needs; without a spec whether there is a GPU."""
    from runtime.launch.gpus import check_gpus, check_needs, needs_of

    if bundle is None:
        return [check_gpus()]
    wanted = needs_of(bundle)
    return [] if wanted is None else check_needs(wanted, runs_dir)


def _bundle(spec: Path) -> Mapping[str, str]:
    from liverl.compiled import bundle_files

    return bundle_files(spec, target="local")
