"""The target ``local``: processes of this machine. Nothing is added to the shared configurations."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from compiler.errors import Path as Place
from compiler.errors import Problem
from compiler.plan import Plan
from compiler.spec.policy import PretrainedPolicy
from compiler.spec.trainer import Fsdp
from runtime.config.demonstrations import MadeDemonstrations
from runtime.config.environment import Ecs, Harbor, Kubernetes
from runtime.config.model_layers import STATEFUL, layers_with_state, routers_unknown
from runtime.config.policy import DemonstrationFile, Demonstrations, EarlierTrials
from runtime.config.tasks import (
    DirectorySource,
    HarborSource,
    HistorySource,
    IndexSource,
    PublishedSource,
    Source,
    TerminalBenchSource,
)
from targets import joining, pins
from targets.base import Artifact, Lowered
from targets.machines import pods_address_warning, proxy_host_problem


class Local:
    name = "local"

    def pins(self, plan: Plan) -> Mapping[str, str]:
        return pins.of(plan)

    def check(self, plan: Plan) -> Iterator[Problem]:
        """Files that the spec names must be here, because the run is."""
        yield from proxy_host_problem(plan)
        yield from pods_address_warning(plan)
        yield from _one_machine(plan)
        yield from joining.resource_problems(plan)
        policy, tasks = plan.spec.policy, plan.spec.tasks
        if isinstance(policy, PretrainedPolicy) and policy.path.startswith(("/", "./", "../", "~")):
            folder = Path(policy.path).expanduser()
            if not any((folder / name).is_file() for name in ("config.json", "run.json")):
                yield Problem(
                    ("policy", "path"),
                    f"{policy.path}: no config.json there",
                    "a Hugging Face model folder or name, or a run's folder",
                )
            yield from _layers(plan, folder)
        stage = plan.supervised
        for index, one in enumerate(stage.demonstrations if stage is not None else ()):
            yield from _demonstrations(one, ("policy", "warm_start", "demonstrations", index))
        for group, sets in (("train", tasks.train), ("validation", tasks.validation)):
            for index, task_set in enumerate(sets):
                yield from _sources(task_set.source, ("tasks", group, index, "source"))

    def adapt(self, plan: Plan, lowered: Lowered) -> Lowered:
        return lowered

    def artifacts(self, plan: Plan, lowered: Lowered, files: Mapping[str, str]) -> dict[str, Artifact]:
        return {}


def _layers(plan: Plan, folder: Path) -> Iterator[Problem]:
    """What the trainer would refuse when it has loaded the model."""
    trainer = plan.spec.trainer
    if not isinstance(trainer, Fsdp):
        return
    try:
        said = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return
    if not isinstance(said, dict):
        return
    if trainer.share_prefixes and (kinds := layers_with_state(said)):
        yield Problem(
            ("trainer", "share_prefixes"), f"true, but of {folder}: {STATEFUL.format(', '.join(kinds))}", "false"
        )
    if plan.spec.routing_replay == "R3" and (why := routers_unknown(said)):
        yield Problem(("routing_replay",), f'"R3", but of {folder}: {why}', "off", "or train with veomni or megatron")


def _one_machine(plan: Plan) -> list[Problem]:
    """What a spec for several machines, or for sandboxes elsewhere, finds on one."""
    spec, problems = plan.spec, []
    if spec.trainer.nodes > 1:
        what = f"{spec.trainer.nodes} machines, but this target is one"
        problems.append(Problem(("trainer", "nodes"), what, "1", "use the target k8s, skypilot or ray", "warn"))
    if isinstance(spec.environment, Kubernetes | Ecs | Harbor) and spec.proxy.host in ("127.0.0.1", "localhost", "::1"):
        what = f"{spec.proxy.host}, which sandboxes elsewhere do not reach"
        fix = "set it to an address of this machine that they reach, unless something forwards"
        problems.append(Problem(("proxy", "host"), what, fix=fix, severity="warn"))
    return problems


def _demonstrations(source: Demonstrations, place: Place) -> list[Problem]:
    """What is missing of the files and folders that are learnt from."""
    if isinstance(source, DemonstrationFile) and not Path(source.path).expanduser().is_file():
        fix = "the command `tasks demonstrate` writes one"
        return [Problem((*place, "path"), f"{source.path}: no such file", "a file of demonstrations", fix)]
    if isinstance(source, EarlierTrials) and not (Path(source.run).expanduser() / "run.json").is_file():
        return [
            Problem((*place, "run"), f"{source.run}: no run there", "a run's folder", "the command `runs` lists them")
        ]
    if isinstance(source, MadeDemonstrations) and source.tasks is not None:
        return _sources(source.tasks, (*place, "tasks"))
    return []


def _sources(source: Source, place: Place) -> list[Problem]:
    """What is missing of the files and folders that a source names."""
    if isinstance(source, DirectorySource):
        return [
            Problem(
                (*place, "paths", number),
                f"{json.dumps(path, ensure_ascii=False)}: no such folder",
                "a folder of tasks in Harbor's format",
            )
            for number, path in enumerate(source.paths)
            if not Path(path).expanduser().is_dir()
        ]
    if isinstance(source, IndexSource) and not Path(source.path).expanduser().is_file():
        fix = "the command `tasks index` writes one"
        return [Problem((*place, "path"), f"{source.path}: no such file", "a task index", fix)]
    if isinstance(source, HistorySource) and not Path(source.repository).expanduser().is_dir():
        return [Problem((*place, "repository"), f"{source.repository}: no such folder", "a git repository's folder")]
    if isinstance(source, PublishedSource) and source.rows is not None and not Path(source.rows).expanduser().exists():
        allowed = "a parquet, JSON or JSON lines file, or a folder of them; null: the hub's"
        return [Problem((*place, "rows"), f"{source.rows}: no such file", allowed)]
    if isinstance(source, TerminalBenchSource) and not Path(source.path).expanduser().is_dir():
        return [Problem((*place, "path"), f"{source.path}: no such folder", "a folder of Terminal-Bench's tasks")]
    near = isinstance(source, HarborSource) and "://" not in source.registry
    if isinstance(source, HarborSource) and near and not Path(source.registry).expanduser().is_file():
        return [Problem((*place, "registry"), f"{source.registry}: no such file", "an address or a JSON file")]
    return []


TARGET = Local()
