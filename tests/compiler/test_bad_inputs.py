"""Specs that people get wrong, one named case each, through the command itself: exit code 2, one line per problem that
begins with the file's line and names the field, no traceback, nothing written."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from compiler.load import CPU_SEC
from liverl.cli import build_app
from liverl.exits import exit_codes
from tests.compiler.golden_cases import LAB

BASE = "local base = import 'base.libsonnet';\n"

CHANGES = {
    "unknown key": ("schedule+: { stepz: 3 }", "schedule.stepz: unknown field", "did you mean steps?"),
    "unknown key at the top": ("sheduel: {}", "sheduel: unknown field", "did you mean schedule?"),
    "unknown key beside the right one": ("polcy: {}", "polcy: unknown field", "did you mean policy?"),
    "number as string": ("algorithm+: { group_size: '8' }", 'algorithm.group_size: "8"', "a whole number"),
    "true for one": ("algorithm+: { group_size: true }", "algorithm.group_size: true", "a whole number"),
    "learning rate as string": ("trainer+: { optimizer+: { learning_rate: '1e-6' } }", "learning_rate", "a number"),
    "missing key": ("trainer+: { optimizer: {} }", "trainer.optimizer.learning_rate: missing", "add learning_rate"),
    "name with a slash": ("name: 'a/b'", 'name: "a/b"', "lower-case"),
    "name with dots": ("name: '..'", 'name: ".."', "lower-case"),
    "name with a leading dash": ("name: '-a'", 'name: "-a"', "lower-case"),
    "name with spaces": ("name: 'a b'", 'name: "a b"', "lower-case"),
    "name in upper case": ("name: 'Quick'", 'name: "Quick"', "lower-case"),
    "name with a homoglyph": ("name: 'qu\u0456ck'", "name", "lower-case"),
    "name with a NUL": ("name: 'a\\u0000b'", "name", "lower-case"),
    "name with a newline at its end": ("name: 'a\\n'", "name", "lower-case"),
    "name too long": ("name: std.repeat('a', 64)", "name", "too long"),
    "empty name": ("name: ''", "name", "lower-case"),
    "duplicate task sets": (
        "tasks+: { train: base.tasks.train + base.tasks.train }", "tasks.train[1].name", "is already the name",
    ),
    "group of one": ("algorithm+: { group_size: 1 }", "algorithm.group_size: 1", "allowed: >= 2"),
    "mini-batch does not divide": ("schedule+: { mini_batch_size: 5 }", "mini_batch_size: 5", "does not divide"),
    "micro-batch does not divide": ("trainer+: { micro_batch_size: 7 }", "micro_batch_size: 7", "does not divide"),
    "longer than the model": ("rollout+: { response_length: 99999 }", "rollout.response_length", "max_position"),
    "negative number": ("schedule+: { steps: -1 }", "schedule.steps: -1", "allowed: >= 0"),
    "zero": ("schedule+: { train_batch_size: 0 }", "schedule.train_batch_size: 0", "allowed: >= 1"),
    "nothing to do": (
        "schedule+: { steps: 0, validate_before: false }", "schedule.steps: 0, and nothing", "allowed: >= 1",
    ),
    "huge number": ("schedule+: { steps: 9007199254740992 }", "schedule.steps", "too large"),
    "fraction of a step": ("schedule+: { steps: 1.5 }", "schedule.steps: 1.5", "a whole number"),
    "unknown mode": ("mode: { type: 'synch' }", 'mode.type: "synch" is unknown', "did you mean sync?"),
    "unknown algorithm": ("algorithm: { type: 'grpoo' }", 'algorithm.type: "grpoo" is unknown', "did you mean grpo?"),
    "unknown scaffold": ("scaffold: { type: 'clade-code' }", 'scaffold.type: "clade-code" is unknown', "allowed: "),
    "unknown rollout engine": ("rollout: { type: 'vlm' }", 'rollout.type: "vlm" is unknown', "did you mean vllm?"),
    "unknown environment": ("environment: { type: 'bubble' }", 'environment.type: "bubble" is', "bubblewrap"),
    "memory with a unit": ("environment+: { memory_mib: '8Gi' }", 'environment.memory_mib: "8Gi"', "a whole number"),
    "timeout of zero": ("environment+: { agent_timeout_sec: 0 }", "environment.agent_timeout_sec: 0", "> 0"),
    "empty task list": ("tasks+: { train: [] }", "tasks.train", "too few elements"),
    "null for an object": ("policy: null", "policy: null", "not an object"),
    "list for an object": ("schedule: []", "schedule", "not an object"),
    "training on held-out tasks": (
        "tasks+: { train: [base.tasks.train[0] { source+: { split: 'held_out' } }] }",
        "tasks.train[0].source.split", "must not be trained on",
    ),
    "rounded integer": (
        "scaffold: { type: 'import', import_path: 'a.b:C', kwargs: { id: 12345678901234567890 } }",
        "scaffold.kwargs.id: 123456789012345", "beyond 2^53",
    ),
    "rounded integer in a field": ("seed: 12345678901234567890", "seed: 12345678901234", "too large"),
    "huge float": ("trainer+: { optimizer+: { weight_decay: 1e308 } }", "optimizer.weight_decay", "too large"),
    "another variant's field": ("mode+: { max_staleness: 3 }", "mode.max_staleness", "belongs to type colocate_async"),
    "a name that breaks the line": ("'a\\nb: c': 1", 'a\\nb: c"]: unknown field', "allowed: name"),
    "wrong name of a label": (
        "cluster: { head: { cpus: 1, memory_gib: 4, node_selector: { 'bad key!': 'x' } } }",
        'cluster.head.node_selector["bad key!"]: "bad key!"', "not the name of a label",
    ),
    "far too deep": (
        "cluster: { ray: (local d(n) = if n == 0 then 1 else { a: d(n - 1) }; d(150)) }",
        "cluster.ray.a.a", "nested more than",
    ),
}  # fmt: skip

WHOLE = {
    "syntax error": ("{ a: 1,\n b 2 }", "2:4", "Expected token"),
    "unknown variable": ("{ a: foo }", "1:6", "Unknown variable: foo"),
    "duplicate field": ("{ a: 1, a: 2 }", "1:9", "Duplicate field"),
    "division by zero": ("{ a: 1 / 0 }", "1:6", "Division by zero"),
    "overflowing number": ("{ a: 1e400 }", "", "verflow"),
    "not a number": ("{ a: std.log(-1) }", "", "Not a number"),
    "cyclic import": ("import 'x.jsonnet'", "", "max stack frames"),
    "infinite recursion": ("local f(x) = f(x + 1); { a: f(1) }", "", "max stack frames"),
    "values that need each other": ("{ a: self.b, b: self.a }", "", "max stack frames"),
    "import escape": ("{ a: importstr '../../../etc/hostname' }", "1:6", "import of '../../../etc/hostname'"),
    "absolute import": ("{ a: importstr '/etc/passwd' }", "1:6", "outside the spec's folder"),
    "undefined external variable": ("{ a: std.extVar('x') }", "", "Undefined external variable: x"),
    "unbound argument": ("function(x) { a: x }", "", "x"),
    "function in the output": ("{ a(x): x, b: function(x) x }", "", "function"),
    "empty file": ("", "", "Unexpected end of file"),
    "array of numbers": ("[1, 2]", "", "[0].name: missing"),
    "string": ("'text'", "", "not an object"),
    "number": ("3", "", "not an object"),
    "too deep": ("local d(n) = if n == 0 then {} else { a: d(n - 1) }; d(1000)", "", "x.jsonnet"),
    "assertion": ("{ assert false : 'two is too few', a: 1 }", "1:3", "two is too few"),
}

BYTES = {
    "NUL byte": (b"{ a: 1 }\0", "x00"),
    "UTF-16": ("{ a: 1 }".encode("utf-16"), "UTF-16"),
    "byte order mark": (b"\xef\xbb\xbf{ a: 1 }", "byte order mark"),
    "binary": (bytes(range(256)), "not UTF-8"),
    "not UTF-8": (b"{\n a: '\xff\xfe' }", "line 2 is not UTF-8 (byte 0xff)"),
}

HOSTILE = {
    "memory bomb": "{ a: std.length(std.repeat('x', 1e9)) }",
    "array bomb": "{ a: std.makeArray(1e9, function(i) i) }",
    "doubling string": "local d(s, n) = if n == 0 then s else d(s + s, n - 1); { a: std.length(d('x', 40)) }",
    "endless loop": "local f(x) = if x == 0 then 0 else f(x - 1) tailstrict; { a: f(1e9) }",
    "exponential work": "local f(n) = if n < 2 then 1 else f(n - 1) + f(n - 2); { a: f(60) }",
    "sweep of bombs": "{ sweep: { ['p%d' % i]: std.makeArray(1e9, function(i) i) for i in std.range(1, 50) } }",
}


def refused(spec: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """Compile by command; the lines of the refusal."""
    before = sorted(spec.parent.rglob("*"))
    with pytest.raises(SystemExit) as ended, exit_codes():
        build_app()(["compile", str(spec), "-o", str(spec.parent / "out"), *arguments], prog_name="liverl")
    said = capsys.readouterr()
    assert ended.value.code == 2, said.err
    assert said.out == "" and "Traceback" not in said.err
    assert sorted(spec.parent.rglob("*")) == before
    return said.err.strip().splitlines()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    specs = tmp_path / "specs"
    specs.mkdir()
    (specs / "base.libsonnet").write_text(LAB.read_text())
    (specs / "lab.libsonnet").write_text(LAB.with_name("lab.libsonnet").read_text())
    return specs


@pytest.mark.parametrize("name", CHANGES)
def test_a_wrong_field(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    change, path, said = CHANGES[name]
    spec = folder / "x.jsonnet"
    spec.write_text(f"{BASE}base {{\n  {change},\n}}\n")
    lines = refused(spec, capsys)
    found = [line for line in lines if path in line and said in line]
    assert found, lines
    assert re.match(re.escape(f"{spec}:3:") + r"\d+: ", found[0]) or "base.libsonnet:" in found[0], found[0]


@pytest.mark.parametrize("name", WHOLE)
def test_a_spec_that_does_not_evaluate(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    text, place, said = WHOLE[name]
    spec = folder / "x.jsonnet"
    spec.write_text(text)
    lines = refused(spec, capsys)
    assert all(line.startswith(str(folder)) for line in lines), lines
    assert any(said in line and f"x.jsonnet:{place}" in line if place else said in line for line in lines), lines


@pytest.mark.parametrize("name", BYTES)
def test_a_file_that_is_no_text(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    spec = folder / "x.jsonnet"
    data, said = BYTES[name]
    spec.write_bytes(data)
    lines = refused(spec, capsys)
    assert all(line.startswith(str(spec)) for line in lines)
    assert said in lines[0]


@pytest.mark.parametrize(
    "kind", ["directory", "pipe", "broken link", "missing", "long name", "link out of the folder", "four megabytes"]
)
def test_a_spec_that_is_no_file_of_ours(folder: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    spec = folder / "x.jsonnet"
    if kind == "directory":
        spec.mkdir()
    elif kind == "pipe":
        os.mkfifo(spec)
    elif kind == "long name":
        spec = folder / ("x" * 300)
    elif kind == "broken link":
        spec.symlink_to("nowhere.jsonnet")
    elif kind == "link out of the folder":
        (folder / "inner.jsonnet").symlink_to("/etc/hostname")
        spec.write_text("import 'inner.jsonnet'")
    elif kind == "four megabytes":
        spec.write_text("{ a: '" + "x" * (4 << 20) + "' }")
    lines = refused(spec, capsys)
    assert all(str(folder) in line for line in lines)


def test_every_problem_in_one_go(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = folder / "x.jsonnet"
    changes = ["name: 'A'", "seed: -1", "mode: { type: 'x' }", "schedule+: { steps: -1, stepz: 1 }"]
    spec.write_text(BASE + "base {\n" + ",\n".join(changes) + "\n}\n")
    lines = refused(spec, capsys)
    places = [line.removeprefix(f"{spec}:").split(":")[0] for line in lines if line.startswith(f"{spec}:")]
    assert {"3", "4", "5", "6"} <= set(places) and places.count("6") == 2


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_specs_end_soon(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("compiler.load.CPU_SEC", 1)
    spec = folder / "x.jsonnet"
    spec.write_text(HOSTILE[name])
    began = os.times()
    lines = refused(spec, capsys)
    ended = os.times()  # a busy machine's clock says nothing
    assert ended.children_user - began.children_user + ended.children_system - began.children_system < CPU_SEC
    assert len(lines) == 1 and lines[0].startswith(str(spec))
    assert re.search("memory|CPU|longer than", lines[0])
