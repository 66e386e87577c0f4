"""The script of docs/coming-from/verl.md and the spec beside it are the same run, and its keys are verl's."""

from __future__ import annotations

from pathlib import Path

import yaml

from compiler import compile_in_memory
from compiler.explain import flatten
from scripts import reference
from tests.docs import pages

PAGE = pages.DOCS / "coming-from" / "verl.md"


def test_the_spec_sets_what_the_script_sets(tmp_path: Path) -> None:
    blocks = pages.blocks(PAGE)
    (script,) = [block.text for block in blocks if "main_ppo" in block.text]
    (spec,) = [block for block in blocks if block.title]
    (tmp_path / spec.title).write_text(spec.text)
    compiled = compile_in_memory(tmp_path / spec.title).files["verl.yaml"]
    values = dict(flatten(yaml.safe_load(compiled)))
    given = dict(word.split("=", 1) for word in script.split() if "=" in word)
    model = given.pop("actor_rollout_ref.model.path")
    assert f"pretrained('{model}')" in spec.text  # verl gets the run's own link to it
    assert len(given) >= 14
    assert {key: float(values[key]) for key in given if key != "algorithm.adv_estimator"} == {
        key: float(value) for key, value in given.items() if key != "algorithm.adv_estimator"
    }
    assert values["algorithm.adv_estimator"] == given["algorithm.adv_estimator"]
    listed = reference.verl()
    assert all(f"`{key}`" in listed for key in given)
