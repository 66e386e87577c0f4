"""What a machine lacks is found before anything starts, and comes with the command that cures it."""

from __future__ import annotations

import os
import shutil
import string
from collections import namedtuple
from pathlib import Path

import pytest

from runtime.config import (
    Bubblewrap,
    Ecs,
    EcsCluster,
    Environment,
    Kubernetes,
    KubernetesCluster,
    PlainProcess,
    SecretName,
)
from runtime.errors import MachineError, UserError
from runtime.launch import machine

Usage = namedtuple("Usage", "total used free")


def test_a_full_disk_is_named_with_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 10**12, 10**6))
    with pytest.raises(MachineError, match="free disk") as error:
        machine.preflight(tmp_path / "runs", trains=True, bubblewrap=False)
    assert "du -xh" in error.value.fix and "--runs-dir" in error.value.fix
    assert not (tmp_path / "runs").exists()


def test_a_missing_system_package_comes_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(machine, "MIN_MEMORY_GIB", 0.0)
    monkeypatch.setattr(machine, "MIN_DISK_GIB", 0.0)
    monkeypatch.setattr(machine, "check_package", lambda name: machine.Check(name, "1", True, "training"))
    with pytest.raises(MachineError, match="bubblewrap: not installed") as error:
        machine.preflight(tmp_path, trains=True, bubblewrap=True)
    assert "apt-get install -y bubblewrap" in error.value.fix and "--sandbox process" in error.value.fix
    machine.preflight(tmp_path, trains=True, bubblewrap=False)


def test_a_missing_python_package_comes_with_its_command() -> None:
    check = machine.check_package("no-such-package-anywhere")
    assert not check.ok and check.fix == "make install"


def test_plain_processes_are_announced_loudly_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = machine.warnings(PlainProcess())
    assert "NO ISOLATION" in text
    monkeypatch.setattr(machine, "check_isolation", lambda: machine.Check("namespaces", "none", False, "boxes", "cure"))
    (text,) = machine.warnings(Bubblewrap())
    assert "NO ISOLATION (none)" in text
    with pytest.raises(MachineError, match="cannot be isolated"):
        machine.warnings(Bubblewrap(require_isolation=True))


def test_every_check_says_what_to_do(tmp_path: Path) -> None:
    checks = machine.check_all(tmp_path)
    assert len({check.name for check in checks}) == len(checks)
    assert all(check.fix and check.found and check.needed_for for check in checks)


def test_a_missing_secret_or_tracker_is_named_with_what_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SET_TOKEN", "x")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    machine.check_secrets([SecretName(variable="SET_TOKEN", used_by="tasks")])
    with pytest.raises(MachineError, match=r"WANDB_API_KEY \(used by observability\)") as raised:
        machine.check_secrets(
            [SecretName(variable=name, used_by="observability") for name in ("SET_TOKEN", "WANDB_API_KEY")]
        )
    assert raised.value.fix == "export WANDB_API_KEY=..."
    machine.check_loggers(["console", "file"])
    monkeypatch.setitem(machine._LOGGER_PACKAGES, "trackio", "no_such_tracker")
    with pytest.raises(MachineError, match="no_such_tracker: not installed") as raised:
        machine.check_loggers(["console", "trackio"])
    assert raised.value.fix.endswith("python -m pip install no_such_tracker")


@pytest.mark.parametrize(
    ("environment", "enough"),
    [
        (Kubernetes(kubernetes=KubernetesCluster(image="box:1")), ["POD_IP", "LIVERL_PROXY_HOST"]),
        (
            Ecs(
                ecs=EcsCluster(cluster="c", image="box:1", region="r", subnets=("s",), security_groups=("g",)),
            ),
            ["LIVERL_PROXY_HOST"],
        ),
    ],
)
def test_agents_elsewhere_must_be_told_where_the_model_is(
    environment: Environment, enough: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("POD_IP", "LIVERL_PROXY_HOST"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(MachineError, match="could not reach the model"):
        machine.check_way_to_the_model(environment)
    for name in enough:
        with monkeypatch.context() as patched:
            patched.setenv(name, "10.0.0.7")
            machine.check_way_to_the_model(environment)
    machine.check_way_to_the_model(Bubblewrap())


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
def test_a_folder_whose_data_the_trainer_would_not_find_is_refused(tmp_path: Path) -> None:
    """Exactly those that the trainer's reader takes for patterns, by that reader."""
    from datasets.data_files import resolve_pattern

    for odd in (*sorted({*string.printable, "ä", "\u2028"} - {"/", *string.whitespace}), " "):
        folder = tmp_path / f"a{odd}HOME" / "runs"
        folder.mkdir(parents=True)
        file = folder / "train.parquet"
        file.touch()
        try:
            found = resolve_pattern(os.path.expandvars(file), base_path="") == [str(file)]
        except FileNotFoundError:
            found = False
        try:
            machine.check_folder(folder)
        except UserError as error:
            # "*" and "?" find the folder of that very name too, and any other with it.
            assert odd in "*?[$" and odd in str(error)
        else:
            assert found, odd
