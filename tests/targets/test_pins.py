"""Each pin set is one that pip could install: held against the requirements in the packages' own metadata."""

from __future__ import annotations

import json
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from compiler.load import evaluate
from compiler.plan import make_plan
from compiler.registry import BUILT_IN, find_target
from compiler.validate import validate
from compiler.vllm_flags import FOLDER, UNPAIRED
from targets import pins
from tests.compiler.golden_cases import spec_path


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


def wanted(version: str) -> dict[str, str]:
    """What a version of vLLM wants of the packages that it shares with verl."""
    found: dict[str, str] = json.loads((FOLDER / f"vllm-flags-{version}.json").read_text())["_meta"]["requires"]
    return found


def test_the_cuda_set_is_one_that_vllm_accepts() -> None:
    needs = wanted(pins.CUDA["vllm"])
    assert set(needs) == {"torch", "transformers"}
    for name, specifier in needs.items():
        assert SpecifierSet(specifier).contains(pins.CUDA[name]), name


@pytest.mark.parametrize("version", UNPAIRED)
def test_an_unpaired_vllm_has_no_set_with_verl(version: str) -> None:
    """Every release of transformers is refused by one of the two."""
    try:
        (ours,) = [one.specifier for one in requirements("verl") if one.name == "transformers"]
    except metadata.PackageNotFoundError:
        pytest.skip("verl is not installed")
    theirs = SpecifierSet(wanted(version)["transformers"])
    releases = [f"{major}.{minor}.{patch}" for major in (4, 5, 6) for minor in range(60) for patch in range(10)]
    assert any(release in ours for release in releases) and any(release in theirs for release in releases)
    assert not any(release in ours and release in theirs for release in releases)


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_every_target_pins_the_set_of_its_hardware(name: str) -> None:
    for spec, expected in (("quickstart", pins.CPU), ("dense-8gpu", pins.CUDA)):
        plan = make_plan(validate(evaluate(spec_path(spec)).value))
        own = {"skypilot": pins.SKYPILOT} if name == "skypilot" else {}
        assert find_target(name).pins(plan) == {**expected, **own}


def test_sets_differ_only_where_hardware_does() -> None:
    shared = {name for name in pins.CPU if pins.CPU[name] == pins.CUDA.get(name)}
    assert shared == {"python", "ray", "tensordict", "transferqueue", "verl"}
    assert set(pins.CUDA) - set(pins.CPU) == {"vllm"}
