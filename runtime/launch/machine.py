"""What this machine has of what LiveRL needs, and the command that installs the rest. Starts nothing and imports
nothing heavy.

``liverl doctor`` prints all checks; a run's preflight refuses to start when a required one fails.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from runtime import suggest
from runtime.config import (
    AgentScaffold,
    Bubblewrap,
    Ecs,
    Environment,
    Imported,
    ImportedScaffold,
    Kubernetes,
    PlainProcess,
    RuntimeConfig,
    Scaffold,
    SecretName,
    Terminus2Scaffold,
    TorchRollout,
    WebhookNotification,
    refusals,
)
from runtime.config.base import WEB_ADDRESS
from runtime.errors import MachineError, UserError
from runtime.imported import imported

MIN_DISK_GIB = 2.0
"""A quickstart run writes well under 1 GiB; the rest is head room for checkpoints and Ray's session folder."""
MIN_MEMORY_GIB = 3.0
"""verl on CPU peaked at 3.7 GiB (proportional set size) with a tiny model; below this it swaps or is killed."""
_READ_OTHERWISE = re.compile(r"[*?\[]|\$(?=[A-Za-z0-9_{])")
"""What verl's reader of training data (``datasets`` by fsspec, ``os.path.expandvars``) takes in a path for a pattern
or a variable; nothing escapes it for all who read the path."""
TRAIN_PACKAGES = ("torch", "transformers", "ray", "verl", "TransferQueue")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: what was found, whether it suffices, what needs it, and what to do if not."""

    name: str
    found: str
    ok: bool
    needed_for: str
    fix: str = ""
    required: bool = True
    """Without it no run can start; otherwise a run is possible but slower or not isolated."""


def check_all(folder: Path, *, scaffold: Scaffold | None = None) -> list[Check]:
    """Every check, for runs below ``folder`` (with this ``scaffold``)."""
    return [
        check_python(),
        check_disk(folder),
        check_memory(),
        *(check_package(name) for name in TRAIN_PACKAGES),
        check_bubblewrap(),
        check_isolation(),
        check_overlay(),
        check_cores(),
        *([check_agent(scaffold)] if isinstance(scaffold, AgentScaffold) else []),
        *([check_tmux()] if isinstance(scaffold, Terminus2Scaffold) else []),
    ]


def preflight(folder: Path, *, trains: bool, bubblewrap: bool, scaffold: Scaffold | None = None) -> None:
    """Raise ``MachineError`` for the first thing that would stop a run below ``folder``. A published agent is installed
    now if it is not there yet."""
    checks = [check_python(), check_disk(folder), check_memory()]
    checks += [check_package(name) for name in (TRAIN_PACKAGES if trains else ("torch", "transformers"))]
    if bubblewrap:
        checks.append(check_bubblewrap())
    for check in checks:
        if not check.ok:
            raise MachineError(f"{check.name}: {check.found} (needed for {check.needed_for})", fix=check.fix)
    if isinstance(scaffold, AgentScaffold):
        from runtime.scaffolds.agents import make_agent

        make_agent(scaffold)


_LOGGER_PACKAGES = {
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "swanlab": "swanlab",
    "mlflow": "mlflow",
    "trackio": "trackio",
}
"""verl's logger backend -> the package that it imports."""


def check_loggers(loggers: Iterable[str]) -> None:
    """Raise ``MachineError`` for an experiment tracker whose client is not installed: verl would only say so minutes
    later."""
    missing = [
        _LOGGER_PACKAGES[logger]
        for logger in loggers
        if logger in _LOGGER_PACKAGES and importlib.util.find_spec(_LOGGER_PACKAGES[logger]) is None
    ]
    if missing:
        raise MachineError(f"observability.loggers: {', '.join(missing)}: not installed", fix=suggest.pip(*missing))


def check_folder(folder: Path) -> None:
    """Raise ``UserError`` for a folder of runs whose training data could not be read, minutes later."""
    path = folder.absolute()
    if odd := sorted(set(_READ_OTHERWISE.findall(str(path)))):
        raise UserError(
            f"{path}: the trainer's reader of data takes {' and '.join(odd)} in a path for a pattern or a variable, and"
            " would find no file; run below another folder (--runs-dir)"
        )


def check_secrets(secrets: Iterable[SecretName]) -> None:
    """Raise ``MachineError`` for variables that the spec's ``secrets`` name and this process does not have."""
    missing = [secret for secret in secrets if not os.environ.get(secret.variable)]
    if missing:
        named = ", ".join(f"{secret.variable} (used by {secret.used_by})" for secret in missing)
        raise MachineError(
            f"secrets: not set where this runs: {named}",
            fix="\n".join(f"export {secret.variable}=..." for secret in missing),
        )


def check_addresses(config: RuntimeConfig) -> None:
    """Raise ``MachineError`` for variables that hold no web address where the spec names one: said before the run, for
    at its end nobody would be told."""
    wrong = [
        f"observability.notify[{number}]: {one.url_variable}"
        for number, one in enumerate(config.notify)
        if isinstance(one, WebhookNotification)
        and one.url_variable is not None
        and (address := os.environ.get(one.url_variable))
        and not re.fullmatch(WEB_ADDRESS, address)
    ]
    if wrong:
        raise MachineError(
            f"{', '.join(wrong)} holds no web address (not shown: it is a secret)",
            fix="set it to an address such as https://hooks.example.com/services/T0",
        )


def check_limits(config: RuntimeConfig) -> None:
    """Raise ``MachineError`` for everything that this version of the runtime refuses on any machine."""
    found = refusals(config)
    if found:
        raise MachineError(
            "\n".join(f"{limit.field}: {what}" for limit, what in found),
            fix="; ".join(limit.fix for limit, _ in found),
        )


def check_imports(config: RuntimeConfig) -> None:
    """Raise ``UserError`` for a class that the spec names and this machine does not have."""
    named: list[tuple[str, str | None]] = []
    if isinstance(config.scaffold, ImportedScaffold):
        named.append(("scaffold.import_path", config.scaffold.import_path))
    if isinstance(config.environment, Imported):
        named.append(("environment.imported.import_path", config.environment.imported.import_path))
    if isinstance(config.rollout, TorchRollout):
        named.append(("rollout.import_path", config.rollout.import_path))
    for field, path in named:
        if path is not None:
            imported(path, field=field)


ADDRESSES = {"kubernetes": ("POD_IP", "LIVERL_PROXY_HOST"), "ecs": ("LIVERL_PROXY_HOST",)}
"""Variables in which a launch names this machine's own address to sandboxes elsewhere."""


def check_way_to_the_model(environment: Environment) -> None:
    """Raise ``MachineError`` where agents elsewhere could not be told the model's address: every trial would fail."""
    if not isinstance(environment, Kubernetes | Ecs):
        return
    settings = environment.kubernetes if isinstance(environment, Kubernetes) else environment.ecs
    variables = ADDRESSES[environment.type]
    if settings.proxy_host or any(os.environ.get(name) for name in variables):
        return
    raise MachineError(
        f"environment.{environment.type}.proxy_host is not set, and neither is {' nor '.join(variables)}: agents could "
        "not reach the model",
        fix="set it to an address of this machine that the sandboxes reach, or launch on a target that finds it out",
    )


def warnings(environment: Environment) -> list[str]:
    """What a run on this machine goes without, in words. Raises ``MachineError`` when the spec requires isolation and
    there is none."""
    if not isinstance(environment, Bubblewrap | PlainProcess):
        return []  # other engines and clusters: their backends refuse to start without what they need
    if isinstance(environment, PlainProcess):
        reason = "the spec chose plain processes"
    else:
        namespaces = check_isolation()
        reason = "" if namespaces.ok else namespaces.found
    if not reason:
        return []
    if isinstance(environment, Bubblewrap) and environment.require_isolation:
        raise MachineError(f"trials cannot be isolated here: {reason}", fix=check_isolation().fix)
    return [
        f"NO ISOLATION ({reason}): agents run as plain processes with your rights;"
        " every trial record says isolation: none"
    ]


def check_python() -> Check:
    version = sys.version_info
    return Check(
        "Python",
        ".".join(map(str, version[:3])),
        (3, 11) <= version[:2] <= (3, 12),
        "everything",
        "install Python 3.11 or 3.12 and run `make install PYTHON=python3.11`",
    )


def check_disk(folder: Path) -> Check:
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free / 2**30
    return Check(
        "free disk",
        f"{free:.1f} GiB below {existing}",
        free >= MIN_DISK_GIB,
        f"run directories (at least {MIN_DISK_GIB:.0f} GiB)",
        f"free some space (`du -xh --max-depth=2 {existing} | sort -h | tail` shows where it went),"
        " or choose another disk with --runs-dir",
    )


def check_memory() -> Check:
    available = _available_memory_gib()
    return Check(
        "available memory",
        f"{available:.1f} GiB",
        available >= MIN_MEMORY_GIB,
        f"the trainer's processes (at least {MIN_MEMORY_GIB:.0f} GiB)",
        "close other programs (`ps aux --sort=-rss | head` shows the largest) or use a larger machine",
    )


def check_cores() -> Check:
    cores = len(os.sched_getaffinity(0))
    return Check(
        "CPU cores",
        str(cores),
        cores >= 2,
        "a quickstart in about ten minutes",
        "use a machine with 2 cores or expect longer runs",
        required=False,
    )


def check_package(name: str) -> Check:
    try:
        found, ok = metadata.version(name), True
    except metadata.PackageNotFoundError:
        found, ok = "not installed", False
    return Check(f"Python package {name}", found, ok, "training", suggest.install())


def check_agent(scaffold: AgentScaffold) -> Check:
    """Whether a published agent is installed, or can be at the start of a run."""
    from runtime.scaffolds.agents import package
    from runtime.scaffolds.install import find_installer, how_to_get, installed

    wanted = package(scaffold)
    folder, installer = installed(wanted), find_installer(wanted)
    return Check(
        f"agent {wanted.name} {scaffold.version}",
        str(folder) if folder else f"a run will install it with {installer}" if installer else "no " + wanted.program,
        folder is not None or installer is not None,
        f"the scaffold {scaffold.type}",
        how_to_get(wanted),
    )


def check_tmux() -> Check:
    from runtime.scaffolds.tmux import CURE

    path = shutil.which("tmux")
    return Check("tmux", path or "not installed", path is not None, "the scaffold terminus-2", CURE)


def check_bubblewrap() -> Check:
    path = shutil.which("bwrap")
    return Check(
        "bubblewrap",
        path or "not installed",
        path is not None,
        "isolated sandboxes",
        install_command("bubblewrap") + "   (or go without isolation: --sandbox process)",
    )


def check_isolation() -> Check:
    """Whether bubblewrap can really make a sandbox here; without, trials run as plain processes."""
    from runtime.sandboxes.bwrap import why_impossible

    problem = why_impossible()
    return Check(
        "isolation",
        problem or "own mount, process and network namespaces",
        problem is None,
        "isolated sandboxes",
        install_command("bubblewrap")
        if shutil.which("bwrap") is None
        else "run as root, or allow user namespaces: sudo sysctl -w kernel.unprivileged_userns_clone=1",
        required=False,
    )


def check_overlay() -> Check:
    """Whether an overlay file system can be mounted in a private mount namespace."""
    script = "mkdir l u w m && mount -t overlay overlay -o lowerdir=l,upperdir=u,workdir=w m"
    user = [] if os.geteuid() == 0 else ["--map-root-user", "--user"]
    command = ["unshare", *user, "--mount", "sh", "-c", f"mount -t tmpfs tmpfs /mnt && cd /mnt && {script}"]
    problem = _run(command) if shutil.which("unshare") else "unshare is not installed"
    return Check(
        "overlay file system",
        problem or "mountable",
        not problem,
        "fresh sandboxes without copying the repository",
        "run as root on a kernel with overlayfs; without it sandboxes copy the repository",
        required=False,
    )


def install_command(package: str) -> str:
    """How to install a Debian package here."""
    return f"{'' if os.geteuid() == 0 else 'sudo '}apt-get install -y {package}"


def _available_memory_gib() -> float:
    """The kernel's estimate, capped by this process's cgroup limit where there is one."""
    values = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    available = int(values["MemAvailable"].split()[0]) / 2**20
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return available
    return min(available, (limit - used) / 2**30)


def _run(command: list[str]) -> str:
    """Empty when the command succeeds, else what it said."""
    try:
        result = subprocess.run(command, capture_output=True, timeout=10, check=False, text=True)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if result.returncode == 0 else (result.stderr.strip().splitlines() or [f"exit {result.returncode}"])[-1]
