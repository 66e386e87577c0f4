"""The target ``local``: processes of this machine. Nothing is added to the shared configurations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from compiler.errors import Problem
from compiler.plan import Plan
from compiler.spec.policy import PretrainedPolicy
from compiler.spec.tasks import DirectorySource, IndexSource
from targets import pins
from targets.base import Artifact, Lowered
from targets.machines import proxy_host_problem


class Local:
    name = "local"

    def pins(self, plan: Plan) -> Mapping[str, str]:
        return pins.of(plan)

    def check(self, plan: Plan) -> list[Problem]:
        """Files that the spec names must be here, because the run is."""
        problems = proxy_host_problem(plan)
        policy, tasks = plan.spec.policy, plan.spec.tasks
        if isinstance(policy, PretrainedPolicy) and policy.path.startswith(("/", "./", "../", "~")):
            config = Path(policy.path).expanduser() / "config.json"
            if not config.is_file():
                problems.append(
                    Problem(
                        ("policy", "path"),
                        f"{policy.path}: no config.json there",
                        "a Hugging Face model folder or name",
                    )
                )
        for group, sets in (("train", tasks.train), ("validation", tasks.validation)):
            for index, task_set in enumerate(sets):
                if isinstance(task_set.source, IndexSource) and not Path(task_set.source.path).expanduser().is_file():
                    fix = "write it with: liverl tasks index DIR -o FILE.parquet"
                    where = ("tasks", group, index, "source", "path")
                    problems.append(Problem(where, f"{task_set.source.path}: no such file", "a task index", fix))
                if not isinstance(task_set.source, DirectorySource):
                    continue
                for number, path in enumerate(task_set.source.paths):
                    if not Path(path).expanduser().is_dir():
                        place = ("tasks", group, index, "source", "paths", number)
                        problems.append(
                            Problem(place, f"{path}: no such folder", "a folder of tasks in Harbor's format")
                        )
        return problems

    def adapt(self, plan: Plan, lowered: Lowered) -> Lowered:
        return lowered

    def artifacts(self, plan: Plan, lowered: Lowered, files: Mapping[str, str]) -> dict[str, Artifact]:
        return {}


TARGET = Local()
