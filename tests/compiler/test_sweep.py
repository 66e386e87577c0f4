"""Sweeps: one bundle per point, one page, problems of all points at the line that made them, cost per point flat."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compiler import SpecError, Sweep, check_spec, compile_all, compile_in_memory, compile_spec
from compiler.bundle import read_lock, read_sweep_lock
from compiler.errors import dotted
from compiler.load import evaluate
from tests.compiler.golden_cases import LAB, spec_path

HEAD = "local base = import 'base.libsonnet';\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "base.libsonnet").write_text(LAB.read_text())
    (tmp_path / "lab.libsonnet").write_text(LAB.with_name("lab.libsonnet").read_text())
    return tmp_path


def write(folder: Path, text: str) -> Path:
    spec = folder / "grid.jsonnet"
    spec.write_text(HEAD + text)
    return spec


def test_the_example_has_twelve_points(tmp_path: Path) -> None:
    compiled = compile_all(spec_path("sweep"), out=tmp_path / "s")
    assert isinstance(compiled, Sweep)
    assert len(compiled.points) == 12 and compiled.warnings == ()
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == sorted(
        [*compiled.points, "SUMMARY.md", "sweep.json", "liverl.lock"]
    )
    index = json.loads((tmp_path / "s" / "sweep.json").read_text())
    assert {"seed", "algorithm.group_size", "trainer.optimizer.learning_rate"} <= set(index["varies"])
    assert "rollout.temperature" not in index["varies"]
    for point in index["points"]:
        folder = tmp_path / "s" / point["point"]
        assert read_lock(folder) is not None
        resolved = json.loads((folder / "resolved.json").read_text())
        assert resolved["name"] == point["experiment"] == f"quickstart-sweep-{point['point']}"
        assert resolved["seed"] == point["values"]["seed"]
        assert resolved["tasks"]["train"][0]["source"]["seed"] == resolved["seed"]
    assert read_sweep_lock(tmp_path / "s") is not None
    assert "| lr4e-4-g8-s1 | 1 |" in compiled.summary


def test_a_point_is_what_its_spec_alone_compiles_to(folder: Path) -> None:
    """A bundle of a sweep differs from that of the same spec alone in the places of its lines only."""
    spec = write(folder, "{ sweep: { a: base, b: base { algorithm+: { group_size: 4 } } } }")
    compile_all(spec, out=folder / "s")
    alone = folder / "alone.jsonnet"
    alone.write_text(HEAD + "base { name: 'grid-b', algorithm+: { group_size: 4 } }")
    expected = compile_in_memory(alone).files
    for name in ("resolved.json", "runtime.json", "SUMMARY.md"):
        assert (folder / "s" / "b" / name).read_text() == expected[name]
    assert compile_in_memory(spec, point="b").files == {
        name: (folder / "s" / "b" / name).read_text() for name in expected
    }


def test_an_array_of_specs_with_names_is_a_sweep(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    spec = write(folder, "[base { name: 'p%d' % i, seed: i } for i in std.range(1, 3)]")
    compiled = compile_all(spec)
    assert isinstance(compiled, Sweep)
    assert compiled.points == ("p1", "p2", "p3") and compiled.folder == Path("build/grid/local")
    assert json.loads(Path("build/grid/local/p2/resolved.json").read_text())["name"] == "p2"


def test_problems_of_all_points_with_the_line_in_the_comprehension(folder: Path) -> None:
    spec = write(
        folder,
        """{
  sweep: {
    ['g%d' % g]: base {
      algorithm+: { group_size: g },
      schedule+: { steps: -1 },
    }
    for g in [1, 4, 8]
  } + { odd: base { trainer+: { optimizer+: { learning_rat: 1 } } } },
}
""",
    )
    problems = {dotted(problem.path): problem for problem in check_spec(spec)}
    assert {path: problem.position.removeprefix(str(spec)) for path, problem in problems.items()} == {
        "sweep.g1.schedule.steps": ":6:20",
        "sweep.g1.algorithm.group_size": ":5:21",
        "sweep.odd.trainer.optimizer.learning_rat": ":9:47",
    }
    assert "the same in 2 more points" in problems["sweep.g1.schedule.steps"].text
    spec.write_text(spec.read_text().replace("steps: -1", "steps: 3").replace("learning_rat:", "learning_rate:"))
    (problem,) = [problem for problem in check_spec(spec) if problem.severity == "fatal"]
    assert (dotted(problem.path), problem.position.removeprefix(str(spec))) == (
        "sweep.g1.algorithm.group_size",
        ":5:21",
    )


def test_a_point_that_does_not_evaluate_hides_no_other(folder: Path) -> None:
    spec = write(folder, "{ sweep: { a: base { mode: error 'boo' }, b: base { mode: { type: 'x' } }, c: base } }")
    said = [str(problem) for problem in check_spec(spec)]
    assert len(said) == 2
    assert said[0] == f"{spec}:2:28: sweep.a.mode: boo"
    assert said[1].startswith(f"{spec}:2:61: sweep.b.mode.type")


def test_nothing_is_written_when_one_point_is_wrong(folder: Path) -> None:
    spec = write(folder, "{ sweep: { a: base, b: base { seed: -1 } } }")
    before = sorted(folder.rglob("*"))
    with pytest.raises(SpecError):
        compile_all(spec, out=folder / "s")
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{ sweep: {} }", "0 points"),
        ("[]", "0 points"),
        ("{ sweep: 3 }", "neither an object nor an array"),
        ("{ sweep: { 'A/b': base } }", '"A/b" is no name for a point'),
        ("{ sweep: { '..': base } }", '".." is no name'),
        ("{ name: 'Bad Name', sweep: { a: base } }", "is no name for a sweep"),
        ("{ sweep: { a: base }, seed: 1 }", "seed: unknown field beside sweep"),
        ("[base, base]", "is already the name of point 0"),
        ("[1, 2]", "[0].name: missing"),
        ("[{ name: 4 }]", "[0].name: 4: not a string"),
        ("{ sweep: std.makeArray(20000, function(i) {}) }", "20000 points"),
        ("{ sweep: { a: 3 } }", "sweep.a"),
    ],
)
def test_malformed_sweeps_are_explained(folder: Path, text: str, said: str) -> None:
    spec = write(folder, text)
    with pytest.raises(SpecError) as caught:
        compile_all(spec, out=folder / "s")
    assert said in str(caught.value)
    assert not (folder / "s").exists()


def test_overrides_reach_every_point(folder: Path) -> None:
    spec = write(folder, "{ sweep: { a: base, b: base { seed: 5 } } }")
    compile_all(spec, out=folder / "s", sets=["schedule.steps=7", "sweep.b.seed=9"])
    seen = [json.loads((folder / "s" / name / "resolved.json").read_text()) for name in "ab"]
    assert [one["schedule"]["steps"] for one in seen] == [7, 7]
    assert [one["seed"] for one in seen] == [0, 9]


def test_one_experiment_is_wanted(folder: Path) -> None:
    spec = write(folder, "{ sweep: { low: base, high: base } }")
    with pytest.raises(SpecError, match="a sweep of 2 points"):
        evaluate(spec)
    with pytest.raises(SpecError, match="did you mean low"):
        evaluate(spec, point="lo")
    with pytest.raises(SpecError, match="no sweep"):
        evaluate(LAB, point="low")
    assert evaluate(spec, point="low").value["name"] == "grid-low"


def test_a_sweep_replaces_a_bundle_and_the_other_way_round(folder: Path) -> None:
    spec = write(folder, "{ sweep: { a: base, b: base } }")
    out = folder / "out"
    compile_spec(LAB, out=out)
    compile_all(spec, out=out)
    compile_all(write(folder, "{ sweep: { c: base } }"), out=out)
    assert sorted(path.name for path in out.iterdir()) == ["SUMMARY.md", "c", "liverl.lock", "sweep.json"]
    (out / "c" / "notes.txt").write_text("mine")
    with pytest.raises(SpecError, match=r"c/notes\.txt"):
        compile_spec(LAB, out=out)
    (out / "c" / "notes.txt").unlink()
    compile_spec(LAB, out=out)
    assert read_lock(out) is not None and not (out / "c").exists()


def test_points_of_several_batches_stay_in_order(folder: Path) -> None:
    spec = write(folder, "[base { name: 'p%03d' % i, seed: i } for i in std.range(0, 59)]")
    compiled = compile_all(spec, out=folder / "s")
    assert isinstance(compiled, Sweep)
    assert [json.loads((folder / "s" / name / "resolved.json").read_text())["seed"] for name in compiled.points] == [
        *range(60)
    ]


def test_a_flood_of_problems_ends_the_search(folder: Path) -> None:
    points = "['p%d' % i]: base { rollout+: { slots: -i, replicas: -i } } for i in std.range(1, 400)"
    problems = check_spec(write(folder, f"{{ sweep: {{ {points} }} }}\n"))
    assert 500 < len(problems) < 510
    assert problems[-1].what == "the points after these were not looked at"


def test_a_failed_sweep_leaves_no_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = write(folder, "{ sweep: { a: base { seed: -1 } } }\n")
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    with pytest.raises(SpecError):
        compile_all(spec, out=folder / "build" / "deep" / "er")
    assert sorted(folder.iterdir()) == before
