"""Evaluation of Jsonnet: positions of values, arguments and overrides, the jail, and specs that try to harm."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from compiler.errors import SpecError
from compiler.load import evaluate

BASE = """{
  // lr: 5 in a comment must not count
  trainer: {
    lr: 1e-6,
    kl: { coef: 0.001 },
    algo: "grpo",
  },
  rollout: { n: 8, tp: $.cluster.gpus / 2 },
  cluster: { gpus: 8, note: "a string with { lr: 3 } inside" },
}
"""
MIX = """{
  withLr(x):: { trainer+: { lr: x } },
}
"""
EXPERIMENT = """local base = import "base.libsonnet";
local mix = import "mix.libsonnet";
base + mix.withLr(-3) + {
  cluster+: { gpus: 7 },
  grid: [{ seed: i } for i in std.range(1, 3)],
  env: { [k]: std.asciiUpper(k) for k in ["hf_home", "tmpdir"] },
  prompt: |||
    lr: not a field
  |||,
  'quoted-key': 1,
  [if true then "computed"]: 2,
  [if false then "absent"]: 3,
  nested: base { extra: { [k]: 1 for k in ["a"] } },
  method(x):: x,
  merged: std.mergePatch({ lr: 1 }, { lr: 2 }),
}
"""


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    (tmp_path / "base.libsonnet").write_text(BASE)
    (tmp_path / "mix.libsonnet").write_text(MIX)
    path = tmp_path / "exp.jsonnet"
    path.write_text(EXPERIMENT)
    return path


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (("trainer", "lr"), "mix.libsonnet:2:29"),
        (("trainer", "kl", "coef"), "base.libsonnet:5:11"),
        (("trainer", "algo"), "base.libsonnet:6:5"),
        (("rollout", "tp"), "base.libsonnet:8:20"),
        (("cluster", "gpus"), "exp.jsonnet:4:15"),
        (("grid", 1, "seed"), "exp.jsonnet:5:12"),
        (("env", "tmpdir"), "exp.jsonnet:6:10"),
        (("prompt",), "exp.jsonnet:7:3"),
        (("quoted-key",), "exp.jsonnet:10:3"),
        (("computed",), "exp.jsonnet:11:3"),
        (("nested", "extra", "a"), "exp.jsonnet:13:27"),
        (("nested", "trainer", "lr"), "base.libsonnet:4:5"),
        (("merged", "lr"), "exp.jsonnet:15:3"),
    ],
)
def test_every_value_knows_the_definition_that_won(
    experiment: Path, path: tuple[str | int, ...], expected: str
) -> None:
    """A value that a standard library function built has the place of the field around it."""
    assert evaluate(experiment).positions.nearest(path) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{ a: 1, b: 1 } + { [k]: 2 for k in ['a', 'b'] }", {"a": "x.jsonnet:1:20", "b": "x.jsonnet:1:20"}),
        ("{ [k]: 2 for k in ['a', 'b'] } + { a: 3 }", {"a": "x.jsonnet:1:36", "b": "x.jsonnet:1:3"}),
        (
            "{ [k]: 1 for k in ['a', 'b'] } + { c: 2 } + { [k]: 2 for k in ['b'] }",
            {"a": "x.jsonnet:1:3", "b": "x.jsonnet:1:47", "c": "x.jsonnet:1:36"},
        ),
        ("{ a: { [k]: self.b for k in ['c'] } + { b: 1 }, d: 1 }", {"a": "x.jsonnet:1:3", "d": "x.jsonnet:1:49"}),
    ],
)
def test_comprehensions_take_part_in_inheritance(tmp_path: Path, text: str, expected: dict[str, str]) -> None:
    spec = tmp_path / "x.jsonnet"
    spec.write_text(text)
    positions = evaluate(spec).positions
    assert {name: positions.exact[(name,)] for name in expected} == expected


def test_positions_do_not_change_values(experiment: Path) -> None:
    value = evaluate(experiment).value
    assert value["rollout"] == {"n": 8, "tp": 3.5}
    assert value["nested"]["extra"] == {"a": 1}
    assert "absent" not in value
    assert "\x01" not in json.dumps(value)


def test_files_are_recorded_with_their_digests(experiment: Path) -> None:
    evaluated = evaluate(experiment)
    assert set(evaluated.digests) == {"base.libsonnet", "exp.jsonnet", "mix.libsonnet"}
    assert all(len(digest) == 64 for digest in evaluated.digests.values())
    assert evaluated.entry == "exp.jsonnet"


def test_the_library_resolves_from_any_folder(tmp_path: Path) -> None:
    spec = tmp_path / "a.jsonnet"
    spec.write_text("local l = import 'liverl.libsonnet'; { mode: l.mode.sync }")
    evaluated = evaluate(spec)
    assert evaluated.value == {"mode": {"type": "sync"}}
    assert "<library>/liverl.libsonnet" in evaluated.digests


def test_overrides_reach_derived_values(experiment: Path) -> None:
    evaluated = evaluate(
        experiment, sets=["cluster.gpus=4", "trainer.algo=gspo", "grid[1].seed=9", "trainer.kl.new=[1]"]
    )
    assert evaluated.value["rollout"]["tp"] == 2
    assert evaluated.value["trainer"]["algo"] == "gspo"
    assert [point["seed"] for point in evaluated.value["grid"]] == [1, 9, 3]
    assert evaluated.value["trainer"]["kl"] == {"coef": 0.001, "new": [1]}
    assert evaluated.positions.nearest(("trainer", "algo")) == "--set trainer.algo"
    assert evaluated.positions.nearest(("grid", 1, "seed")) == "--set grid[1].seed"


def test_arguments_of_a_spec_that_is_a_function(tmp_path: Path) -> None:
    spec = tmp_path / "f.jsonnet"
    spec.write_text("function(lr, name='x') { lr: lr, name: name }")
    evaluated = evaluate(spec, tlas={"lr": "0.5", "name": "a b"})
    assert evaluated.value == {"lr": 0.5, "name": "a b"}
    assert evaluated.positions.nearest(("lr",)) == "f.jsonnet:1:26"
    with pytest.raises(SpecError, match="lr"):
        evaluate(spec)
    spec.write_text("{}")
    with pytest.raises(SpecError, match="no function"):
        evaluate(spec, tlas={"lr": "1"})


def test_numbers_do_not_keep_the_engines_digits(tmp_path: Path) -> None:
    spec = tmp_path / "n.jsonnet"
    spec.write_text("{ a: 0.1, b: 1e-6, c: 3 }")
    assert json.dumps(evaluate(spec).value) == '{"a": 0.1, "b": 1e-06, "c": 3}'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{ a: 1,\n b 2 }", "x.jsonnet:2:4: Expected token"),
        ("{ a: $.b }", "x.jsonnet:1:6: a: Field does not exist: b"),
        ("{ a: 1, a: 2 }", "Duplicate field"),
        ("{ a: foo }", "x.jsonnet:1:6: Unknown variable: foo"),
        ('{ a: { b: [1, error "boo"] } }', "a.b[1]: boo"),
        ("local f(x) = f(x + 1); { a: f(1) }", "max stack frames"),
        ("{ a: importstr '/etc/hostname' }", "outside the spec's folder"),
        ("import '../up.jsonnet'", "outside the spec's folder"),
        ("import 'nowhere.jsonnet'", "no such file"),
        ("{ a: 1e400 }", "verflow"),
        ("{ a: function(x) x }", "function"),
    ],
)
def test_engine_errors_say_where_and_what(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "up.jsonnet").write_text("{}")
    folder = tmp_path / "specs"
    folder.mkdir()
    (folder / "x.jsonnet").write_text(text)
    with pytest.raises(SpecError) as caught:
        evaluate(folder / "x.jsonnet")
    assert expected in str(caught.value)
    assert str(caught.value).startswith(str(folder / "x.jsonnet"))
    assert "Traceback" not in str(caught.value)


def test_a_link_does_not_lead_out_of_the_jail(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    folder = tmp_path / "specs"
    folder.mkdir()
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "x.jsonnet").write_text("{ a: importstr 'link.txt' }")
    with pytest.raises(SpecError, match="outside"):
        evaluate(folder / "x.jsonnet")


def test_one_child_serves_many_and_a_dead_one_is_replaced(experiment: Path) -> None:
    from compiler import evaluator

    evaluator.close_all()
    large = bytearray(os.urandom(1 << 20) * 500)  # its parent's size is not the child's
    evaluate(experiment)
    (child,) = evaluator._idle
    del large
    evaluate(experiment)
    assert evaluator._idle == [child]
    child.process.kill()
    child.process.wait()
    assert evaluate(experiment).value["quoted-key"] == 1
    assert child not in evaluator._idle


def test_a_change_of_a_file_is_seen(experiment: Path) -> None:
    """The child that is kept remembers nothing of the files."""
    assert evaluate(experiment).value["trainer"]["algo"] == "grpo"
    base = experiment.with_name("base.libsonnet")
    base.write_text("\n" + BASE.replace("grpo", "gspo"))
    changed = evaluate(experiment)
    assert changed.value["trainer"]["algo"] == "gspo"
    assert changed.positions.nearest(("trainer", "algo")) == "base.libsonnet:7:5"


def test_what_waits_for_no_core_is_ended_by_the_clock(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from compiler import evaluator

    evaluate(experiment)
    monkeypatch.setattr("compiler.load.WALL_SEC", 0.5)
    (child,) = evaluator._idle
    child.process.send_signal(signal.SIGSTOP)
    with pytest.raises(SpecError, match="longer than"):
        evaluate(experiment)
    assert child.process.returncode is not None


def test_an_evaluation_that_others_keep_from_the_cores_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its limit is of its own CPU time; the clock of a starved machine is no fault of the spec."""
    monkeypatch.setattr("compiler.load.WALL_SEC", 0.01)
    monkeypatch.setattr("compiler.evaluator.LOOK_SEC", 0.01)
    spec = tmp_path / "x.jsonnet"
    spec.write_text("{ a: std.foldl(function(a, b) (a + b) % 7, std.range(1, 20000), 0) }")
    assert evaluate(spec).value == {"a": 1}
    monkeypatch.setattr("compiler.load.STARVED_SEC", 0.0)
    with pytest.raises(SpecError, match="longer than"):
        evaluate(spec)


@pytest.mark.parametrize("text", ["a", "=1", "a..b=1", "a[0][1]=2", "[0]=1", ".=1"])
def test_malformed_overrides_are_refused(experiment: Path, text: str) -> None:
    with pytest.raises(SpecError):
        evaluate(experiment, sets=[text])


def test_both_engines_agree(experiment: Path) -> None:
    """The C++ implementation of Jsonnet is the oracle of the Go one."""
    import _jsonnet

    assert json.loads(_jsonnet.evaluate_file(str(experiment))) == evaluate(experiment).value
