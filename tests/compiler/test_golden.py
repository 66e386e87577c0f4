"""Compiled output is pinned byte for byte: what the files of ``golden/`` do not show, digests hold. ``make golden``
refreshes them; the failure message is the difference."""

from __future__ import annotations

import difflib
import getpass
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import pytest

from compiler import compile_in_memory
from compiler.bundle import LOCK, MAP
from tests.compiler.golden_cases import (
    CASES,
    GOLDEN,
    NAMES,
    REPOSITORY,
    SWEEPS,
    case_files,
    folder_files,
    spec_path,
    targets_of,
)
from tests.compiler.golden_layout import DIFF, DIGESTS, LONG_LISTS, SHARED, SPECIMEN, digests, layout, restored
from tests.compiler.refresh_golden import refresh

MOST_LINES = 15_000


@cache
def pinned() -> Mapping[str, str]:
    return folder_files(GOLDEN)


@cache
def pinned_digests() -> Mapping[str, str]:
    found: dict[str, str] = json.loads(pinned()[DIGESTS])
    return found


def bundles_of(name: str, *sets: str) -> dict[str, Mapping[str, str]]:
    def files(target: str) -> Mapping[str, str]:
        return compile_in_memory(spec_path(name), target=target, sets=sets).files if sets else case_files(name, target)

    return {target: files(target) for target in targets_of(name)}


@pytest.mark.parametrize("name", NAMES)
def test_golden_files_are_what_the_specs_compile_to(name: str) -> None:
    expected = layout(name, bundles_of(name))
    found = {path: text for path, text in pinned().items() if path.startswith(f"{name}/")}
    different = sorted(path for path in expected.keys() | found.keys() if expected.get(path) != found.get(path))
    text = "".join(
        line
        for path in different
        for line in difflib.unified_diff(
            found.get(path, "").splitlines(True),
            expected.get(path, "").splitlines(True),
            f"golden/{path}",
            f"compiled/{path}",
            n=1,
        )
    )
    assert not different, f"{different}; if intended: make golden\n{text[:6000]}"


@pytest.mark.parametrize("name", NAMES)
def test_every_byte_of_every_bundle_is_pinned(name: str) -> None:
    expected = digests(name, bundles_of(name))
    found = {path: digest for path, digest in pinned_digests().items() if path.startswith(f"{name}/")}
    different = sorted(path for path in expected.keys() | found.keys() if expected.get(path) != found.get(path))
    assert not different, f"other bytes in {different[:20]}; if intended: make golden"


def test_golden_holds_the_cases_and_nothing_else() -> None:
    assert {path.partition("/")[0] for path in pinned()} == {*NAMES, DIGESTS}
    assert {tuple(path.split("/")[:2]) for path in pinned_digests()} == {*CASES, *SWEEPS}
    assert sum(text.count("\n") for text in pinned().values()) <= MOST_LINES


@pytest.mark.parametrize(("name", "target"), [*CASES, *SWEEPS])
def test_what_golden_shows_is_what_its_digests_pin(name: str, target: str) -> None:
    """Without compiling: shared files with the target's difference are the target's bytes, and so are its own files,
    but for the map, which is shown shorter."""
    shorter = []
    for file, text in restored(pinned(), name, target).items():
        if hashlib.sha256(text.encode()).hexdigest() != pinned_digests()[f"{name}/{target}/{file}"]:
            shorter.append(file)
    assert shorter == ([MAP] if (name, target) == SPECIMEN else [])


def test_every_file_of_a_sweeps_points_is_pinned() -> None:
    for name, target in SWEEPS:
        points = {path.split("/")[2] for path in pinned_digests() if re.match(f"{name}/{target}/.+/{LOCK}", path)}
        index = json.loads(case_files(name, target)["sweep.json"])
        assert points == {point["point"] for point in index["points"]} and len(points) == 12
        for point in points:
            files = {
                path.removeprefix(f"{point}/"): text
                for path, text in case_files(name, target).items()
                if path.startswith(f"{point}/")
            }
            lock = json.loads(files.pop(LOCK))
            assert lock["files"] == {file: hashlib.sha256(text.encode()).hexdigest() for file, text in files.items()}


NUMBERS = {
    "trainer.optimizer.learning_rate": 0.000123,
    "algorithm.group_size": 16,
    "schedule.steps": 123,
    "cluster.storage.size_gib": 123,
}


@pytest.mark.parametrize(
    "name", [name for name in NAMES if (name, targets_of(name)[0]) in CASES and name not in LONG_LISTS]
)
def test_one_number_moves_few_files(name: str) -> None:
    """At most one of each target, whichever number, and those of the shared files that say it."""
    before = layout(name, bundles_of(name))
    for path, value in NUMBERS.items():
        after = layout(name, bundles_of(name, f"{path}={value}"))
        moved = {file for file in before.keys() | after.keys() if before.get(file) != after.get(file)}
        shared = {file for file in moved if file.count("/") == 1}
        assert f"{name}/resolved.json" in shared and len(shared) <= 4, (path, moved)
        for target in targets_of(name):
            # Positions too move where a value comes from the command line.
            own = {file for file in moved if file.startswith(f"{name}/{target}/")} - {f"{name}/{target}/{MAP}"}
            assert len(own) <= 1 and f"{name}/{target}/{DIFF}" not in own, (path, own)


def test_a_map_is_shown_whole_with_one_line_per_entry() -> None:
    full, short = case_files(*SPECIMEN)[MAP], pinned()["/".join([*SPECIMEN, MAP])]
    assert json.loads(short) == json.loads(full)
    entries = [path for file in json.loads(full)["files"].values() for path in file]
    assert len(entries) < short.count("\n") < len(entries) + 30


def test_bytes_name_no_machine() -> None:
    """No time stamps, user names or absolute paths of the machine that compiled."""
    for name, target in (*CASES, *SWEEPS):
        for file, text in case_files(name, target).items():
            assert str(REPOSITORY) not in text, (name, target, file)
            assert f"/home/{getpass.getuser()}/" not in text, (name, target, file)


def lay_out(folder: Path, name: str, *sets: str) -> None:
    """Golden files of one spec with other values."""
    bundles = bundles_of(name, *sets)
    files = {**layout(name, bundles), DIGESTS: json.dumps(digests(name, bundles))}
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)


def test_refreshing_says_by_meaning_what_changed_and_why(tmp_path: Path) -> None:
    lay_out(tmp_path, "dense-8gpu", "schedule.steps=123")
    said = "\n".join(refresh(tmp_path, ["dense-8gpu"]))
    steps = json.loads(pinned()["dense-8gpu/resolved.json"])["schedule"]["steps"]
    assert "golden dense-8gpu on local -> specs/dense-8gpu.jsonnet" in said
    assert f"  schedule.steps: 123 -> {steps}" in said and "dense-8gpu ray: as on local" in said
    assert f"trainer.total_training_steps: 123 -> {steps}  (schedule.steps)" in said
    assert re.search(r"dense-8gpu k8s: \d+ files; changed: .map.json, SUMMARY.md, liverl.lock, ", said)
    changed = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert [line.partition("changed: ")[2] for line in refresh(tmp_path, ["dense-8gpu"])] == ["nothing"] * 5
    assert changed == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}


def nothing(folder: Path) -> None:
    folder.rmdir()


def an_empty_file(folder: Path) -> None:
    (folder / "dense-8gpu.txt").touch()


def bundle_folders(folder: Path) -> None:
    """Whole bundles, one folder each."""
    for target in targets_of("dense-8gpu"):
        for file, text in case_files("dense-8gpu", target).items():
            (folder / "dense-8gpu" / target).mkdir(parents=True, exist_ok=True)
            (folder / "dense-8gpu" / target / file).write_text(text)


def half_merged(folder: Path) -> None:
    lay_out(folder, "dense-8gpu", "schedule.steps=123")
    for file in (DIGESTS, "dense-8gpu/resolved.json", f"dense-8gpu/k8s/{DIFF}"):
        (folder / file).write_text("<<<<<<< HEAD\n" + (folder / file).read_text())


def of_other_specs(folder: Path) -> None:
    lay_out(folder, "quickstart-gspo")


@pytest.mark.parametrize("before", [nothing, an_empty_file, bundle_folders, half_merged, of_other_specs])
def test_refreshing_takes_whatever_lies_there(before: Callable[[Path], None], tmp_path: Path) -> None:
    folder = tmp_path / "golden"
    folder.mkdir()
    before(folder)
    assert refresh(folder, ["dense-8gpu"])
    found = folder_files(folder)
    assert found.pop(DIGESTS)
    assert found == {path: text for path, text in pinned().items() if path.startswith("dense-8gpu/")}
    assert all(any(path.iterdir()) for path in folder.rglob("*") if path.is_dir())


def test_shared_files_are_those_that_every_target_has() -> None:
    for name in NAMES:
        top = {path.split("/")[1] for path in pinned() if path.startswith(f"{name}/") and path.count("/") == 1}
        common = [file for file in SHARED if file not in LONG_LISTS.get(name, ())]
        assert top == {file for file in common if all(file in case_files(name, one) for one in targets_of(name))}
