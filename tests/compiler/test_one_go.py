"""Problems of single fields do not hide those across fields: everything that can be said about a spec is said at once,
and nothing is judged by a value that is wrong."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import pytest

from compiler import SpecError, check_spec
from compiler.check import RULES, check
from compiler.errors import Problem, dotted
from compiler.partial import heard, sound_parts
from compiler.plan import make_plan
from compiler.validate import MAX_PROBLEMS, validate
from tests.compiler.golden_cases import LAB
from tests.compiler.test_mutations import mutate


def said(path: Path, text: str, **arguments: Any) -> dict[str, Problem]:
    (path / "base.libsonnet").write_text(LAB.read_text())
    (path / "lab.libsonnet").write_text(LAB.with_name("lab.libsonnet").read_text())
    spec = path / "x.jsonnet"
    spec.write_text(f"local base = import 'base.libsonnet';\nbase + {{\n{text}\n}}\n")
    return {dotted(problem.path): problem for problem in check_spec(spec, **arguments)}


def test_rules_speak_beside_wrong_fields(tmp_path: Path) -> None:
    found = said(
        tmp_path,
        """  name: 'Bad_Name',
  schedule+: { mini_batch_size: 5, stepz: 1 },
  rollout+: { response_length: 99999, temperature: 'hot' },
  secrets: [{ variable: 'A=B', used_by: 'policy' }, { variable: 'LD_PRELOAD', used_by: 'storage' }],""",
    )
    assert {path: problem.position.rsplit(":", 2)[1] for path, problem in found.items()} == {
        "name": "3",
        "schedule.stepz": "4",
        "schedule.mini_batch_size": "4",
        "rollout.temperature": "5",
        "rollout.response_length": "5",
        "secrets[0].variable": "6",
        "secrets[0].used_by": "6",
        "secrets[1].variable": "6",
        "secrets[1].used_by": "6",
    }


def test_targets_speak_beside_wrong_fields(tmp_path: Path) -> None:
    found = said(tmp_path, "  name: 'Bad', trainer+: { nodes: 2 }, schedule+: { steps: -1 }", target="docker")
    assert {"name", "schedule.steps", "trainer.nodes"} <= set(found)


def test_no_rule_judges_a_wrong_value(tmp_path: Path) -> None:
    found = said(tmp_path, "  schedule+: { train_batch_size: 'eight', mini_batch_size: 5 }")
    assert list(found) == ["schedule.train_batch_size"]


def test_what_rules_say_of_the_sound_parts_is_true(quickstart: Any) -> None:
    """Whatever is said with fields left out is said of the whole too, once these are right again."""
    rng = random.Random(0)
    told = 0
    for _ in range(300):
        whole = quickstart
        for _ in range(rng.choice([1, 2])):
            whole = mutate(whole, rng)
        try:
            expected = {problem.text for problem in check(make_plan(validate(whole)))}
        except SpecError:
            continue
        broken = copy.deepcopy(whole)
        axis = rng.choice([name for name, child in broken.items() if isinstance(child, dict)])
        field = rng.choice(list(broken[axis]))
        broken[axis][field] = {"no": "such value"}
        with pytest.raises(SpecError) as caught:
            validate(broken)
        sound = sound_parts(broken, caught.value.problems)
        assert sound is not None
        found = {problem.text for problem in heard(RULES, make_plan(sound))}
        assert found <= expected, (axis, field)
        told += bool(found)
    assert told > 10


def test_a_flood_of_problems_is_cut(quickstart: Any) -> None:
    quickstart["tasks"]["train"] = [{"name": f"A{index}", "bogus": 1} for index in range(20_000)]
    with pytest.raises(SpecError) as caught:
        validate(quickstart)
    assert len(caught.value.problems) <= MAX_PROBLEMS + 1
    assert "more problems, not shown" in str(caught.value.problems[-1])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("secrets", {"HF_TOKEN": "correct-horse"}),
        ("secrets", ["correct-horse"]),
        ("secrets", [{"variable": "HF_TOKEN=correct-horse", "used_by": "policy"}]),
        ("secrets", [{"variable": "HF_TOKEN", "used_by": "policy", "value": "correct-horse"}]),
        ("scaffold", {"type": "import", "import_path": "a:B", "kwargs": {"api_key": ["correct-horse"]}}),
        ("name", "sk-" + "correct-horse" * 3 + "_"),
        ("cluster", {"docker": {"sandbox_host": "tcp://me:correct-horse@host:1"}}),
    ],
)
def test_no_message_shows_a_secret(quickstart: Any, path: str, value: Any) -> None:
    quickstart[path] = value
    with pytest.raises(SpecError) as caught:
        validate(quickstart)
    assert "correct-horse" not in str(caught.value)


def test_messages_are_one_line_that_no_terminal_obeys() -> None:
    problem = Problem(("a\nb: fine", "c"), "\x1b[31mred\u2028", position="x\udcff.jsonnet:1:1")
    assert str(problem) == 'x\\udcff.jsonnet:1:1: ["a\\nb: fine"].c: \\u001b[31mred\\u2028'
