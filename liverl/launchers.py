"""Launching elsewhere: each target's own client program on a bundle folder, its command shown, its output passed
through.

Knows the clients' command lines; what they do on a cluster is theirs. The ``local`` target is ``runtime.launch.local``.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from liverl import docker_engine, kubernetes_follow, kubernetes_jobs
from runtime import suggest
from runtime.config import load_runtime_config
from runtime.errors import MachineError, RunError, UserError
from runtime.launch.machine import check_limits


@dataclass(frozen=True)
class Launcher:
    """``command`` runs in the bundle's folder; ``follow`` is what to type afterwards, with ``{name}`` and
    ``{namespace}``."""

    command: tuple[str, ...]
    program: str
    install: str
    follow: str
    secret_option: str | None = None
    """Option that hands one variable of this shell on; None: the program reads the shell by itself, or not at all."""
    needs_secrets: bool = False
    """Whether the values must be in this shell."""


LAUNCHERS: Mapping[str, Launcher] = {
    "docker": Launcher(
        command=("docker", "compose", "up"),
        program="docker",
        install="install Docker Engine with the Compose plug-in: https://docs.docker.com/engine/install/",
        follow="docker compose --project-name {name} logs --follow",
        needs_secrets=True,
    ),
    "k8s": Launcher(
        # By the server: what the client would note of a large ConfigMap in its annotations is more than these hold.
        command=("kubectl", "apply", "--server-side", "--force-conflicts", "--field-manager=liverl", "-k", "."),
        program="kubectl",
        install="sudo apt-get install -y kubernetes-client, or https://kubernetes.io/docs/tasks/tools/",
        follow="kubectl --namespace {namespace} get rayjob {name} --watch\n"
        "its words: kubectl --namespace {namespace} logs --follow --selector liverl/experiment={name},"
        "liverl/role=submitter\n"
        # Not delete -k: that would take namespaces that others share, and the volume with the runs.
        "end it and remove its pods: kubectl --namespace {namespace} delete rayjob {name}",
    ),
    "ray": Launcher(
        command=("bash", "submit.sh"),
        program="ray",
        install=suggest.pip("ray[default]") + "   (the cluster's version)",
        follow="ray job list",
    ),
    "skypilot": Launcher(
        command=("sky", "jobs", "launch", "--yes", "task.sky.yaml"),
        program="sky",
        install=suggest.pip("skypilot[aws]"),
        follow="sky jobs queue",
        secret_option="--secret",
        needs_secrets=True,
    ),
}


def launch(target: str, folder: Path, *, runs_dir: Path) -> None:
    """Run the target's client on the bundle in ``folder`` and wait for it; of the target k8s for the job's end, when
    its run is brought to ``runs_dir``.

    Raises ``MachineError`` when the runtime would refuse the bundle, or the client, a secret, or what the target's own
    engine or cluster needs is missing, ``RunError`` when the client fails, ``UserError`` when the bundle was compiled
    for another target."""
    launcher = LAUNCHERS[target]
    compiled_for = json.loads((folder / "liverl.lock").read_text(encoding="utf-8")).get("target")
    if compiled_for != target:
        raise UserError(
            f"{folder}: compiled for {compiled_for}, not for {target}; compile the spec with --target {target}"
        )
    check_limits(load_runtime_config(folder / "runtime.json"))  # the same runtime waits there, and machines cost money
    resolved = json.loads((folder / "resolved.json").read_text(encoding="utf-8"))
    program = shutil.which(launcher.program) or suggest.beside(launcher.program)
    if program is None:
        install = _sky_client(resolved) if target == "skypilot" else launcher.install
        raise MachineError(f"--target {target}: the program {launcher.program} is missing", fix=install)
    command = [*launcher.command]
    if target == "skypilot" and (bucket := resolved["cluster"]["skypilot"].get("jobs_bucket")):
        command += ["--config", f"jobs.bucket={bucket}"]
    if launcher.needs_secrets:
        command += _secrets(launcher, [secret["variable"] for secret in resolved["secrets"]])
    job = kubernetes_jobs.Job(resolved["name"], resolved["cluster"]["namespace"])
    if target == "k8s" and not kubernetes_jobs.prepare(folder, job):
        _follow(job, launcher.follow.format(name=job.name, namespace=job.namespace), runs_dir=runs_dir)
        return
    variables = docker_engine.prepare(folder, resolved) if target == "docker" else {}
    print(f"+ cd {shlex.quote(str(folder))} && {shlex.join(command)}", flush=True)
    # A client that was installed with LiveRL need not be on the PATH; nor need what it calls.
    path = os.pathsep.join([*os.environ.get("PATH", os.defpath).split(os.pathsep), str(Path(program).parent)])
    environment = {**os.environ, "PATH": path, **variables}
    code = subprocess.run(command, cwd=folder, env=environment, check=False).returncode
    if code:
        raise RunError(f"{launcher.program} ended with code {code}; its words are above")
    if target == "docker":
        docker_engine.finish(folder)
    follow = launcher.follow.format(name=job.name, namespace=job.namespace)
    if shutil.which(launcher.program) is None:
        follow = shlex.join([suggest.shown(Path(program)), *follow.split()[1:]])
    if target == "k8s":
        _follow(job, follow, runs_dir=runs_dir)
    else:
        print(f"follow with: {follow}", file=sys.stderr)


def _follow(job: kubernetes_jobs.Job, again: str, *, runs_dir: Path) -> None:
    print(f"follow with: {again}", file=sys.stderr)
    try:
        kubernetes_follow.follow(job, runs_dir=runs_dir)
    except KeyboardInterrupt:
        print(f"the job {job.name} goes on; follow with: {again}", file=sys.stderr)
        raise


def _sky_client(resolved: Mapping[str, Any]) -> str:
    """SkyPilot with the client of the spec's cloud."""
    return suggest.pip(f"skypilot[{resolved['cluster']['skypilot']['infra'].partition('/')[0]}]")


def _secrets(launcher: Launcher, variables: list[str]) -> list[str]:
    missing = [variable for variable in variables if not os.environ.get(variable)]
    if missing:
        raise MachineError(
            f"{', '.join(missing)}: not set in this shell, but the spec's secrets name "
            + ("it" if len(missing) == 1 else "them"),
            fix="\n".join(f"export {variable}=..." for variable in missing),
        )
    return [word for variable in variables if launcher.secret_option for word in (launcher.secret_option, variable)]
