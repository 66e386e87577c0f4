"""Hundreds of random changes to the example specs: only ever a bundle that is whole, or a ``SpecError``."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compiler.assemble import assemble
from compiler.errors import SpecError
from compiler.explain import flatten
from compiler.instrument import instrument, tokenize
from compiler.load import Evaluated, evaluate
from compiler.positions import Positions
from compiler.registry import find_target
from compiler.sourcemap import parse_path
from runtime.config import RuntimeConfig
from tests.compiler.golden_cases import CASES, LAB, REPOSITORY, spec_path

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 7, 8, 16, 64, 1024, 1 << 31, 1 << 53, 0.0, 0.5, 1.5, -0.1, 1e-9, 1e300,
    "", "x", "new", "grpo", "gspo", "ppo", "sync", "separate_async", "colocate_async", "torch", "vllm", "cpu", "cuda",
    "fsdp", "bf16", "held_out", "a: b", "- x", "{{ x }}", "\u0000", "\n", "\ud7ff", "\ud800", "é" * 300,
    "!!python/object:os.system", "*a",
    [], {}, [[]], [None], {"type": "new"}, {"type": "loss", "coefficient": 0.1}, {"": 1}, {"type": {"type": 1}},
]  # fmt: skip


def mutate(value: Any, rng: random.Random) -> Any:
    """One random change: a value replaced, a field removed, added, renamed, or two subtrees exchanged."""
    value = copy.deepcopy(value)
    nodes: list[tuple[Any, Any]] = []

    def visit(node: Any) -> None:
        keys = node.keys() if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        for key in keys:
            nodes.append((node, key))
            visit(node[key])

    visit(value)
    if not nodes:
        return value
    numbers = [(node, key) for node, key in nodes if type(node[key]) in (int, float)]
    parent, key = rng.choice(numbers if numbers and rng.random() < 0.6 else nodes)
    kind = rng.randrange(6)
    if type(parent[key]) in (int, float) and kind <= 3:
        number = parent[key]
        parent[key] = rng.choice(
            [number + 1, number * 2, number // 2, number * 3, 0, 1, 2, -number, number / 3, str(number)]
        )
    elif kind <= 1:
        parent[key] = copy.deepcopy(rng.choice(VALUES))
    elif kind == 2:
        del parent[key]
    elif kind == 3 and isinstance(parent, dict):
        parent[rng.choice(["extra", str(key) + "x", "type", "seed", "\u0001", "a.b", "0"])] = copy.deepcopy(
            rng.choice(VALUES)
        )
    else:
        other, place = rng.choice(nodes)
        other[place] = copy.deepcopy(parent[key])
    return value


@pytest.fixture(scope="module")
def examples() -> list[Any]:
    """The values of all example specs, the quickstart of the laboratory first."""
    return [evaluate(LAB).value, *(evaluate(spec_path(name)).value for name in sorted({name for name, _ in CASES}))]


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 1 << 62))
def test_a_changed_spec_compiles_or_is_refused(examples: list[Any], seed: int) -> None:
    rng = random.Random(seed)
    value = examples[0] if seed % 3 else rng.choice(examples)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        value = mutate(value, rng)
    evaluated = Evaluated(value=value, positions=Positions({}, value), digests={}, entry="x.jsonnet")
    target = find_target(("docker", "k8s", "ray", "skypilot")[seed // 12 % 4] if seed % 4 == 0 else "local")
    try:
        bundle = assemble(evaluated, target=target)
    except SpecError as error:
        assert error.problems
        for problem in error.problems:
            assert problem.what and "Traceback" not in str(problem)
        return
    RuntimeConfig.model_validate_json(bundle.files["runtime.json"])
    for name, text in bundle.files.items():
        if name.endswith(".yaml"):
            assert list(yaml.safe_load_all(text))
    assert "liverl.lock" in bundle.files


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 1 << 62))
def test_problems_point_at_places_that_exist(quickstart: Any, seed: int) -> None:
    """Every problem's path can be walked in the value, but for its last step, which is there or is what is missing."""
    from compiler.validate import validate

    value = mutate(quickstart, random.Random(seed))
    try:
        validate(value)
    except SpecError as error:
        assert error.problems
        for problem in error.problems:
            node = value
            for part in problem.path[:-1]:
                node = node[part]
            if problem.path and problem.what != "missing":
                *_, last = problem.path
                there = last in node if isinstance(node, dict) else isinstance(last, int) and last < len(node)
                assert there, problem
    else:
        assert validate(value).model_dump(mode="json")["name"] == value["name"]


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=80))
def test_instrumenting_only_adds(text: str) -> None:
    """Whatever the text, nothing of it is lost or moved: all that instrumenting does is insert."""
    for source in (text, "{ a: " + text + " }"):
        rest = iter(instrument(source, "x.jsonnet"))
        assert all(char in rest for char in source)
    assert '"x.jsonnet:1:3"' in instrument("{ a: " + text + " }", "x.jsonnet")


def test_tokens_cover_the_library() -> None:
    for path in (REPOSITORY / "specs").rglob("*sonnet"):
        text = path.read_text()
        assert tokenize(text)
        assert all(text[token.start : token.end] == token.text for token in tokenize(text))


def test_flattened_paths_parse_back(quickstart: Any) -> None:
    for path, leaf in flatten(quickstart):
        node = quickstart
        for part in parse_path(path):
            node = node[part]
        assert json.dumps(node) == json.dumps(leaf)
