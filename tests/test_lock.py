"""``requirements.lock`` is that of pyproject.toml and targets/pins.py, and knows nothing of the machine it is from."""

from __future__ import annotations

import copy
import re
import shutil
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts import lock
from targets.pins import CPU

TEXT = (lock.ROOT / lock.LOCK).read_text()
PROJECT = lock.read(lock.ROOT)


def entries(text: str) -> dict[str, list[str]]:
    """Each requirement of a lock with its hashes."""
    found: dict[str, list[str]] = {}
    for block in re.split(r"\n(?=[a-z0-9])", text)[1:]:
        lines = [line.strip(" \\") for line in block.splitlines()]
        found[lines[0]] = [line for line in lines[1:] if line and not line.startswith("#")]
    return found


def locked(python: str) -> dict[str, str]:
    """Name -> version, on Linux with this Python."""
    machine = {"sys_platform": "linux", "python_version": python, "python_full_version": f"{python}.9"}
    found: dict[str, str] = {}
    for text in entries(TEXT):
        one = Requirement(text)
        if one.marker is None or one.marker.evaluate(machine):
            (specifier,) = one.specifier
            assert specifier.operator == "==" and one.name not in found
            found[str(canonicalize_name(one.name))] = specifier.version
    return found


def direct() -> list[Requirement]:
    extras = PROJECT["project"]["optional-dependencies"]
    asked = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"]]
    return [
        Requirement(text) for text in [*asked, *(text for name in extras if name != "harbor" for text in extras[name])]
    ]


def test_the_lock_was_made_from_what_is_asked_for_today() -> None:
    assert lock.fits(lock.ROOT), (
        f"{lock.LOCK} is stale: `make lock KEEP=1` adds what is missing, `make lock` renews all"
    )


@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_every_direct_requirement_is_met(python: str) -> None:
    found = locked(python)
    wanted = [one for one in direct() if one.name != "torch"] + [Requirement(text) for text in lock.TORCH_NEEDS]
    for one in wanted:
        assert one.specifier.contains(found[str(canonicalize_name(one.name))], prereleases=True), one
    pinned = {str(canonicalize_name(name)): version for name, version in CPU.items() if name not in ("python", "torch")}
    assert {name: found[name] for name in pinned} == pinned


def test_each_package_has_hashes_and_none_an_address() -> None:
    found = entries(TEXT)
    assert len(found) > 150
    for requirement, hashes in found.items():
        assert hashes and all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", one) for one in hashes), requirement
    assert "://" not in TEXT and "index" not in re.sub(r"#.*", "", TEXT)


def test_torch_and_cuda_are_apart() -> None:
    assert f"\n# apart: torch=={CPU['torch']}\n" in TEXT
    for name in locked("3.11"):
        assert not re.match(r"torch$|torchvision|triton|nvidia|cuda", name), name


def test_what_torch_needs_is_what_its_cpu_build_says() -> None:
    build = metadata.distribution("torch")
    if build.version != f"{CPU['torch']}+cpu":
        pytest.skip(f"torch {build.version} is installed, not the CPU build of {CPU['torch']}")
    said = [Requirement(text) for text in build.requires or ()]
    assert {str(one) for one in said if one.marker is None} == {str(Requirement(one)) for one in lock.TORCH_NEEDS}


def test_what_is_installed_is_the_lock() -> None:
    found = locked("{}.{}".format(*sys.version_info[:2]))
    installed = {str(canonicalize_name(one.name)): one.version for one in metadata.distributions()}
    if installed.get("uv") != found["uv"]:
        pytest.skip("not installed by `make install`")
    assert {name: installed.get(name) for name in found} == found


def more(place: str, extra: str = "") -> Callable[[dict[str, Any]], None]:
    def change(project: dict[str, Any]) -> None:
        table = project["project"]
        (table["optional-dependencies"][extra] if extra else table[place]).append("left-pad>=1")

    return change


def newer_python(project: dict[str, Any]) -> None:
    project["project"]["requires-python"] = ">=3.12"


def bound(project: dict[str, Any]) -> None:
    asked = project["project"]["dependencies"]
    asked[0] += ",<99"


def gone(project: dict[str, Any]) -> None:
    project["project"]["dependencies"].pop()


def builder(project: dict[str, Any]) -> None:
    project["build-system"]["requires"] = ["setuptools>=99"]


@pytest.mark.parametrize(
    "change", [more("dependencies"), more("", "train"), more("", "dev"), newer_python, bound, gone, builder]
)
def test_a_change_of_what_is_asked_for_makes_it_stale(change: Callable[[dict[str, Any]], None]) -> None:
    changed = copy.deepcopy(PROJECT)
    change(changed)
    assert lock.digest(changed) != lock.digest(PROJECT)


@pytest.mark.parametrize("name", sorted(set(CPU) - {"python"}))
def test_a_changed_pin_makes_it_stale(name: str) -> None:
    assert lock.digest(PROJECT, {**CPU, name: "99.0"}) != lock.digest(PROJECT)


def test_order_and_other_tables_do_not_matter() -> None:
    changed = copy.deepcopy(PROJECT)
    changed["project"]["dependencies"].reverse()
    changed["tool"]["ruff"]["line-length"] = 100
    changed["project"]["optional-dependencies"]["harbor"] = []
    assert lock.digest(changed) == lock.digest(PROJECT)


def copied(folder: Path) -> Path:
    for name in (lock.LOCK, "pyproject.toml"):
        shutil.copy(lock.ROOT / name, folder / name)
    return folder


def test_a_lock_of_other_requirements_does_not_fit(tmp_path: Path) -> None:
    root = copied(tmp_path)
    assert lock.fits(root)
    file = root / "pyproject.toml"
    file.write_text(file.read_text().replace('"aiohttp>=3.11"', '"aiohttp>=3.12"'))
    assert not lock.fits(root)
    (root / lock.LOCK).unlink()
    assert not lock.fits(root)


@pytest.mark.network
@pytest.mark.timeout(1200)  # it asks an index for some hundred packages, twice
def test_uv_makes_the_same_lock(tmp_path: Path) -> None:
    """So nobody wrote in it by hand: with the versions kept, every line is the resolver's."""
    root = copied(tmp_path)
    assert lock.compiled(root, keep=True) == TEXT
    # What the lock has already is kept; what is asked for anew comes, with what it needs, and nothing else moves.
    file = root / "pyproject.toml"
    file.write_text(file.read_text().replace('"aiohttp>=3.11"', '"aiohttp>=3.11", "toolz"'))
    new = entries(lock.compiled(root, keep=True))
    assert {name.partition("==")[0] for name in set(new) - set(entries(TEXT))} == {"toolz"}
    assert set(entries(TEXT)) <= set(new)
