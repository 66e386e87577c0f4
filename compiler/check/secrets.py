"""Secrets: each is named once, for something that is there, and no value of a spec looks like one."""

from __future__ import annotations

import re
from collections.abc import Iterator

from compiler.check.rule import Rule
from compiler.errors import Path, Problem
from compiler.plan import Plan
from compiler.redact import KEY, SECRET
from compiler.spec.experiment import ExperimentSpec
from compiler.spec.policy import PretrainedPolicy
from runtime.config.notify import WebhookNotification
from runtime.config.tasks import GenerateSource, HarborSource, PublishedSource
from runtime.config.variables import OWNED

LOGGER_SECRETS = {"wandb": "WANDB_API_KEY", "swanlab": "SWANLAB_API_KEY"}
"""Logger -> the variable without which it asks for a login that nobody answers."""
_OWNED = re.compile(r"(LD|VLLM|NCCL|OMP|TORCH|TOKENIZERS|HF_HUB)_\w+")
"""Variables that the loader of programs and libraries read, beside those that a run sets by itself: a secret there
would change what runs."""
_FREE = ("kwargs", "flags", "attributes", "env")
"""Free-form fields; a name there may say that a secret belongs to it."""


def inlined(plan: Plan) -> Iterator[Problem]:
    """Values that look like secrets: everything in a spec ends up in files that people share."""
    fix = "name it in secrets and set it where you launch"
    address = "say url_variable: 'NAME' instead, with { variable: 'NAME', used_by: 'observability' } in secrets"

    def walk(value: object, path: Path) -> Iterator[Problem]:
        if isinstance(value, str):
            named = any(name in path[:-1] for name in _FREE) and KEY.search(str(path[-1])) and value
            if SECRET.search(value) or named:
                cure = address if path[:2] == ("observability", "notify") and path[-1] == "url" else fix
                yield Problem(path, "looks like a secret (not shown)", fix=cure)
        elif isinstance(value, dict):
            for key, inner in value.items():
                yield from walk(inner, (*path, str(key)))
        elif isinstance(value, list):
            for index, inner in enumerate(value):
                yield from walk(inner, (*path, index))

    yield from walk(plan.resolved, ())


def named(plan: Plan) -> Iterator[Problem]:
    """Each secret has a name of its own that nothing else owns, and something that uses it."""
    spec = plan.spec
    first: dict[str, int] = {}
    for index, secret in enumerate(spec.secrets):
        place: Path = ("secrets", index)
        if secret.knows("variable"):
            if secret.variable in first:
                yield Problem(
                    (*place, "variable"),
                    f"{secret.variable} is already secrets[{first[secret.variable]}]",
                    fix="name every variable once",
                )
            first.setdefault(secret.variable, index)
            if OWNED.fullmatch(secret.variable) or _OWNED.fullmatch(secret.variable):
                yield Problem(
                    (*place, "variable"),
                    f"{secret.variable} is set by the system itself",
                    fix="choose another variable",
                )
        if secret.knows("used_by") and (why := _unused(spec, secret.used_by)):
            yield Problem(
                (*place, "used_by"), f'"{secret.used_by}", but {why}', fix="leave the secret out", severity="warn"
            )
    if not all(secret.knows("variable") for secret in spec.secrets):
        return
    for number, logger in enumerate(spec.observability.loggers):
        wanted = LOGGER_SECRETS.get(logger)
        if wanted is not None and wanted not in first:
            yield Problem(
                ("observability", "loggers", number),
                f'"{logger}" needs a key, and no secret is named {wanted}',
                fix=f"add {{ variable: '{wanted}', used_by: 'observability' }} to secrets",
                severity="warn",
            )


def _unused(spec: ExperimentSpec, use: str) -> str:
    """Why nothing uses a secret for this; empty where something does."""
    if use == "policy" and not isinstance(spec.policy, PretrainedPolicy):
        return "the policy is made, not fetched"
    if use == "tasks" and not any(
        isinstance(one.source, GenerateSource | HarborSource | PublishedSource)
        for one in (*spec.tasks.train, *spec.tasks.validation)
    ):
        return "no tasks are fetched"
    if use == "environment" and spec.environment.type in ("bubblewrap", "process"):
        return f"sandboxes of {spec.environment.type} are made on the trainer's own machine"
    told = any(isinstance(one, WebhookNotification) and one.url_variable for one in spec.observability.notify)
    if use == "observability" and not told and not set(spec.observability.loggers) - {"console", "file", "tensorboard"}:
        return "no logger of observability.loggers asks for one, and no address of observability.notify"
    if use == "storage" and spec.cluster.storage.bucket is None and spec.schedule.upload is None:
        return "cluster.storage has no bucket, and schedule no upload"
    return ""


RULES: tuple[Rule, ...] = (inlined, named)
