"""What ECS is asked for: one task definition per image and size, one task per sandbox. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime.config import EcsCluster
from runtime.sandboxes import bwrap, own_image

CONTAINER = "sandbox"
RECEIVER = "guest"
"""The container that takes in what a box of a task's own image needs, and ends before that starts."""
_AGENT = Path(__file__).parent / "agent.py"
_FARGATE_MIB = {256: (512, 2048), 512: (1024, 4096), 1024: (2048, 8192), 2048: (4096, 16384), 4096: (8192, 30720)}
"""CPU units -> least and most memory that Fargate gives with them, in steps of 1 GiB from 1 GiB on."""


def size(settings: EcsCluster, memory_mib: int) -> tuple[int, int]:
    """(CPU units, MiB) of a task; with Fargate the smallest size on offer that holds both."""
    units = int(settings.cpus * 1024)
    if settings.launch_type == "EC2":
        return units, memory_mib
    for offered, (least, most) in _FARGATE_MIB.items():
        if offered >= units and most >= memory_mib:
            needed = max(least, memory_mib)
            return offered, needed if needed == 512 else -(-needed // 1024) * 1024
    raise ValueError(f"Fargate has no task of {units} CPU units and {memory_mib} MiB")


def definition(
    settings: EcsCluster, memory_mib: int, *, image: str | None = None, brought: Sequence[str] = (), work: str = ""
) -> dict[str, Any]:
    """Arguments of RegisterTaskDefinition; the family is named by a digest of all the rest. image: the task's own, with
    the folders that a receiver brings into it; work: also a work directory that hides the image's."""
    cpu, memory = size(settings, memory_mib)
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": settings.image,
        "essential": True,
        # By this name the end of a command spares it: in a task with an init process it is an orphan like others.
        "command": ["python3", "-s", "-c", _AGENT.read_text(), "liverl"],
        "memory": memory,
        "linuxParameters": {"initProcessEnabled": True},
    }
    if settings.log_group is not None:
        options = {
            "awslogs-group": settings.log_group,
            "awslogs-region": settings.region,
            "awslogs-stream-prefix": "box",
        }
        container["logConfiguration"] = {"logDriver": "awslogs", "options": options}
    asked: dict[str, Any] = {
        "networkMode": "awsvpc",
        "requiresCompatibilities": [settings.launch_type],
        "cpu": str(cpu),
        "memory": str(memory),
        "containerDefinitions": [container],
    }
    if image is not None:
        _of_own_image(asked, image, brought, work)
    if settings.execution_role_arn is not None:
        asked["executionRoleArn"] = settings.execution_role_arn
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:24]
    return {"family": f"liverl-{digest}", **asked}


def _of_own_image(asked: dict[str, Any], image: str, brought: Sequence[str], work: str) -> None:
    (base,) = asked["containerDefinitions"]
    paths = [*brought, *([work] if work else [])]
    names = [f"v{number}" for number in range(len(paths))]
    places = list(zip(names, paths, strict=True))

    def mounted(below: str, *, read_only: bool) -> list[dict[str, Any]]:
        return [
            {"sourceVolume": one, "containerPath": below + path, "readOnly": read_only and path != work}
            for one, path in places
        ]

    receiver = {
        **base,
        "name": RECEIVER,
        "essential": False,
        "environment": [{"name": "LIVERL_AGENT_UNTIL", "value": own_image.COMPLETE}],
        "mountPoints": mounted(own_image.BROUGHT, read_only=False),
    }
    box = {
        **base,
        "image": image,
        "command": [bwrap.PYTHON, "-I", "-S", "-c", _AGENT.read_text(), "liverl"],
        "mountPoints": mounted("", read_only=True),
        "dependsOn": [{"containerName": RECEIVER, "condition": "SUCCESS"}],
    }
    asked["containerDefinitions"] = [receiver, box]
    asked["volumes"] = [{"name": name} for name in names]


def task(
    settings: EcsCluster, *, definition_arn: str, nonce: str, tokens: Mapping[str, str], labels: dict[str, str]
) -> dict[str, Any]:
    """Arguments of RunTask. ``startedBy`` is the nonce, by which a task is found whose answer was lost. tokens: of the
    agent in each container."""

    def environment(token: str) -> list[dict[str, str]]:
        given = {
            "LIVERL_AGENT_TOKEN": token,
            "LIVERL_AGENT_PORT": settings.port,
            "LIVERL_AGENT_TTL": settings.ttl_sec,
        }
        return [{"name": key, "value": str(value)} for key, value in given.items()]

    network = {
        "subnets": list(settings.subnets),
        "securityGroups": list(settings.security_groups),
        "assignPublicIp": "ENABLED" if settings.assign_public_ip else "DISABLED",
    }
    overrides = [{"name": name, "environment": environment(token)} for name, token in tokens.items()]
    return {
        "cluster": settings.cluster,
        "taskDefinition": definition_arn,
        "launchType": settings.launch_type,
        "count": 1,
        "clientToken": nonce,
        "startedBy": nonce,
        "networkConfiguration": {"awsvpcConfiguration": network},
        "overrides": {"containerOverrides": overrides},
        "tags": [{"key": key, "value": value} for key, value in labels.items()],
        "enableECSManagedTags": False,
    }
