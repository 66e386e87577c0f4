"""Each pin set is one that pip could install: held against the requirements in the packages' own metadata."""

from __future__ import annotations

from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from targets import pins


def requirements(package: str, extra: str = "") -> list[Requirement]:
    found = [Requirement(text) for text in metadata.requires(package) or ()]
    return [one for one in found if one.marker is None or one.marker.evaluate({"extra": extra})]


@pytest.mark.parametrize(("pinned", "extra"), [(pins.CPU, ""), (pins.CUDA, "vllm")])
def test_verl_accepts_the_set(pinned: dict[str, str], extra: str) -> None:
    try:
        if metadata.version("verl") != pinned["verl"]:
            pytest.skip(f"verl {metadata.version('verl')} is installed, not {pinned['verl']}")
    except metadata.PackageNotFoundError:
        pytest.skip("verl is not installed")
    canonical = {str(canonicalize_name(name)): version for name, version in pinned.items()}
    checked = set()
    for requirement in [*requirements("verl"), *(requirements("verl", extra) if extra else [])]:
        name = str(canonicalize_name(requirement.name))
        if name in canonical:
            assert requirement.specifier.contains(canonical[name], prereleases=True), requirement
            checked.add(name)
    assert {"ray", "tensordict", "transformers"} <= checked
    if extra:
        assert {"torch", "vllm"} <= checked


def test_what_is_installed_is_the_cpu_set() -> None:
    """The set that tests run on is the set that bundles name."""
    for name, version in pins.CPU.items():
        if name == "python":
            continue
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            pytest.skip(f"{name} is not installed")
        assert installed.partition("+")[0] == version, name


def test_sets_differ_only_where_hardware_does() -> None:
    shared = {name for name in pins.CPU if pins.CPU[name] == pins.CUDA.get(name)}
    assert shared == {"python", "ray", "tensordict", "transferqueue", "verl"}
    assert set(pins.CUDA) - set(pins.CPU) == {"vllm"}
