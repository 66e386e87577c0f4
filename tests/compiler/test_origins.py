"""Origins are true: whatever one change of a spec moves names what was changed."""

from __future__ import annotations

import copy
import difflib
import json
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any

import pytest

from compiler import SpecError
from compiler.assemble import lower
from compiler.emit import nodes, paths_by_line, to_json, to_yaml
from compiler.errors import Path, dotted
from compiler.explain import related
from compiler.load import evaluate
from compiler.lower_runtime import contract
from compiler.memory import PARTS
from compiler.plan import DERIVED, Plan, make_plan
from compiler.reads import narrowest
from compiler.registry import find_target
from compiler.sourcemap import below, lookup, map_facts, map_origins
from compiler.summary import row_name, summary
from compiler.validate import validate
from tests.compiler.golden_cases import TARGETS, spec_path

FAST = 12
"""Changes of each example that the fast tests try; the others are for the group ``deep``."""
ANYTHING: list[Any] = [
    *(1, 7, 0.5, True, "other", "1.2.3", "10.0.0.1:1", "a.b:C", "tcp://other:2376", "s3://other", "/other", "H200"),
    *(["other"], ["10.0.0.1:1"], {}, {"other": 1}, {"other": "x"}, {"cpus": 4, "memory_gib": 8}, {"least": 0.2}),
    *({"rank": 8}, {"name": "other", "attributes": {}}, [{"key": "other"}], {"type": "kueue", "name": "other"}),
    [{"variable": "OTHER", "used_by": "trainer", "kubernetes": {"name": "other", "key": "x"}}],
]
"""What may stand where nothing does."""
VARIANTS: dict[str, list[Any]] = {
    "algorithm.kl": [{"type": kind, "coefficient": 0.1} for kind in ("loss", "reward")],
    "algorithm.loss": [{"type": "sapo"}, {"type": "clip_cov"}, {"type": "kl_cov"}, {"type": "dro", "beta": 0.1}],
    "algorithm.correction": [
        {"type": "decoupled", "importance": {}, "rejection": [{"type": "token_k2", "upper": 2.0}]},
        {"type": "bypass", "loss": "reinforce"},
    ],
    "algorithm": [
        {"type": "ppo", "group_size": 4, "critic": {"learning_rate": 1e-4}},
        {"type": "gspo", "group_size": 4},
        {"type": "reinforce_plus_plus", "group_size": 4},
    ],
    "trainer": [
        {"type": kind, "optimizer": {"learning_rate": 1e-5}, "micro_batch_size": 2} for kind in ("veomni", "megatron")
    ],
    "mode": [{"type": "sync"}, {"type": "colocate_async"}, {"type": "separate_async"}],
    "policy": [{"type": "pretrained", "path": "Qwen/Qwen3-8B"}, {"type": "pretrained", "path": "other/other"}],
    "environment": [{"type": "bubblewrap"}, {"type": "process"}, {"type": "docker", "base_image": "other:1"}],
    "cluster.queue": [{"type": "volcano", "name": "other"}, {"type": "kueue", "name": "other", "cluster_queue": "x"}],
}
"""Parts that change with their kind."""


@dataclass(frozen=True)
class Observed:
    """What people see of a compiled spec. ``files``: name -> text, and the entries of its source map."""

    numbers: Mapping[str, tuple[Any, tuple[str, ...]]]
    files: Mapping[str, tuple[str, Mapping[str, Any]]]


def observe(resolved: Any, target_name: str) -> Observed:
    plan, target = make_plan(validate(resolved)), find_target(target_name)
    lowered, page = lower(plan, target), summary(plan, title="", warnings=[])
    shared = {
        "verl.yaml": (to_yaml(lowered.verl.tree()), map_facts(lowered.verl, str)),
        "vllm.yaml": (to_yaml(lowered.vllm.tree()), map_facts(lowered.vllm, str)),
        "runtime.json": (to_json(contract(lowered.runtime).model_dump(mode="json")), map_facts(lowered.runtime, str)),
        "SUMMARY.md": (page.text, {name: one for rows in page.tables for name, one in map_facts(rows, str).items()}),
    }
    own = target.artifacts(plan, lowered, {name: text for name, (text, _) in shared.items()})
    files = {name: (artifact.text, map_origins(artifact.origins, str)) for name, artifact in own.items()}
    return Observed(numbers(plan), {**shared, **files})


def numbers(plan: Plan) -> dict[str, tuple[Any, tuple[str, ...]]]:
    makers = {name: partial(getattr, plan, name) for name in DERIVED if name != "policy_memory"}
    if plan.policy_memory is not None:
        makers |= {f"memory: {name}": lambda name=name: getattr(plan.policy_memory, name) for name in PARTS}
    found = {name: plan.reads.during(make) for name, make in makers.items()}
    return {name: (value, narrowest(noted)) for name, (value, noted) in found.items()}


def unnamed(old: Observed, new: Observed, changed: str) -> list[str]:
    """What differs without naming ``changed`` as an origin, before or after."""
    missed = []
    for name in {**old.numbers, **new.numbers}:
        sides = [side.numbers[name] for side in (old, new) if name in side.numbers]
        if len(sides) == 1 or sides[0][0] != sides[1][0]:
            origins = [origin for _, names in sides for origin in names]
            if not any(related(origin, changed) for origin in origins):
                missed.append(f"{name}: {origins}")
    for name in sorted({**old.files, **new.files}):
        before, after = (Lines(name, *side.files.get(name, ("", {}))) for side in (old, new))
        matcher = difflib.SequenceMatcher(a=before.texts, b=after.texts, autojunk=False)
        for _, i1, i2, j1, j2 in matcher.get_opcodes() if before.texts != after.texts else ():
            if before.texts[i1:i2] == after.texts[j1:j2]:
                continue
            found = []
            for lines, span, others, pairs in (
                (before, (i1, i2), after, (j1, j2)), (after, (j1, j2), before, (i1, i2))
            ):  # fmt: skip
                # Where lines were put in among equal ones, each of several places may be where.
                spans = [span] if pairs[0] < pairs[1] else lines.places(*span)
                found += min((list(lines.unnamed(one, others, pairs, changed)) for one in spans), key=len)
            missed += [f"{name}:{line}" for line in found]
    return missed


class Lines:
    """The lines of a file, without what only punctuates, and their origins as ``liverl explain`` finds them."""

    def __init__(self, name: str, text: str, entries: Mapping[str, Any]) -> None:
        self._name, self._text, self._entries = name, text, entries
        self.texts = [re.sub(r" ?(\[\]|\{\}|[][{},])*$", "", line) for line in text.split("\n")]

    @cached_property
    def _paths(self) -> Mapping[int, str]:
        if self._name.endswith(".md"):
            lines = enumerate(self.texts, 1)
            return {number: row_name(line.strip("| ").split(" | ")[0]) for number, line in lines if "| " in line}
        if self._name.endswith((".yaml", ".json")):
            starts, found, start = paths_by_line(nodes(self._text)), {}, 0
            for number in range(1, len(self.texts) + 1):
                start = number if number in starts else start
                path = starts.get(start, "")
                found[number] = path if number == start else f"{path}[line {number - start}]"
            return found
        return {number: f"line {number}" for number in range(1, len(self.texts) + 1)}

    def origins(self, line: int) -> tuple[str, ...]:
        path = self._paths.get(line + 1, "")
        found = lookup(self._entries, path)
        return tuple(found[1].get("from", ()) if found is not None else below(self._entries, path))

    def places(self, start: int, end: int) -> list[tuple[int, int]]:
        """The spans of lines that may be left out with the same rest."""
        found = [(start, end)]
        while start < end and start > 0 and self.texts[start - 1] == self.texts[end - 1]:
            start, end = start - 1, end - 1
            found.append((start, end))
        start, end = found[0]
        while start < end < len(self.texts) and self.texts[start] == self.texts[end]:
            start, end = start + 1, end + 1
            found.append((start, end))
        return found

    def unnamed(self, span: tuple[int, int], others: Lines, pairs: tuple[int, int], changed: str) -> Iterator[str]:
        """The lines of ``span`` of which neither they nor their counterparts name ``changed``."""
        for line in range(*span):
            pair = pairs[0] + line - span[0]
            origins = [*self.origins(line), *(others.origins(pair) if pair < pairs[1] else ())]
            if not self.said_elsewhere(line) and not any(related(origin, changed) for origin in origins):
                yield f"{line + 1} {self.texts[line].strip()}: {origins}"

    def said_elsewhere(self, line: int) -> bool:
        """Punctuation, a comment or a sentence alone; a digest; a line of a lock or of a file that is carried along."""
        if self._name.endswith("liverl.lock"):
            return True
        text, path = self.texts[line], self._paths.get(line + 1, "")
        plain = not text.startswith("| ") if self._name.endswith(".md") else text.strip().startswith("#")
        digest = re.search(r"-[0-9a-f]{10}\"?$|\b[0-9a-f]{64}\b", text)
        return plain or not re.search(r"\w", text) or bool(digest) or path.startswith("data.")


def changes(resolved: Any, path: Path = ()) -> Iterator[tuple[Path, list[Any]]]:
    """Every value of a spec, and what else may stand there, some of it wrong."""
    yield from ((path, [variant]) for variant in VARIANTS.get(dotted(path), ()))
    if isinstance(resolved, dict | list) and resolved:
        items = resolved.items() if isinstance(resolved, dict) else enumerate(resolved)
        for name, child in list(items):
            yield from changes(child, (*path, name))
        if isinstance(resolved, list):
            yield path, [resolved[:-1], [*resolved, resolved[-1]]]
    elif isinstance(resolved, bool):
        yield path, [not resolved]
    elif isinstance(resolved, int | float):
        yield path, [resolved * 2, resolved + 1, resolved / 2, resolved - 1, resolved // 2]
    elif isinstance(resolved, str):
        yield path, [f"{resolved}x", f"{resolved}-x", f"{resolved}1"]
    if not isinstance(resolved, dict | list) or not resolved:
        yield path, [*([None] if resolved is not None else []), *ANYTHING]


def changed(resolved: Any, path: Path, value: Any) -> Any:
    spec = copy.deepcopy(resolved)
    node = spec
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    return spec


def neighbour(resolved: Any, path: Path, values: list[Any]) -> Any:
    """The first of the values, and of those that a message about them names, that makes another sound spec."""
    said: list[str] = []
    for value in values:
        if value != at(resolved, path):
            allowed = problem(changed(resolved, path, value))
            if allowed is None:
                return value
            said += [name.strip() for name in allowed.split(",")] if isinstance(value, str) else []
    values = [name for name in dict.fromkeys(said) if name != at(resolved, path)]
    return next((name for name in values if problem(changed(resolved, path, name)) is None), NONE)


NONE = object()


def problem(spec: Any) -> str | None:
    """What would be allowed instead; None: it is sound."""
    try:
        validate(spec)
    except SpecError as error:
        return error.problems[0].allowed
    return None


def at(value: Any, path: Path) -> Any:
    for part in path:
        value = value[part]
    return value


@cache
def example(name: str) -> str:
    """A spec's resolved value, or that of a sweep's first point."""
    point = "lr2e-4-g4-s0" if name == "sweep" else None
    return json.dumps(make_plan(validate(evaluate(spec_path(name), point=point).value)).resolved)


def judge(name: str, target: str, most: int | None) -> None:
    resolved = json.loads(example(name))
    places = [place for place in changes(resolved) if place[0]]
    if most is not None:
        places = random.Random(f"{name} {target}").sample(places, most)
    old, missed, moved = observe(resolved, target), {}, 0
    for path, values in places:
        if (value := neighbour(resolved, path, values)) is NONE:
            continue
        new = observe(changed(resolved, path, value), target)
        moved += new != old
        if wrong := unnamed(old, new, dotted(path)):
            missed[f"{dotted(path)} = {json.dumps(value)}"] = wrong
    assert not missed, json.dumps(missed, indent=1)
    assert moved > len(places) // 4


EXAMPLES = {
    "quickstart": ("local", "docker"),
    "quickstart-gspo": ("ray",),
    "one-gpu": ("local",),
    "one-gpu-real": ("local",),
    "quickstart-ppo": ("local",),
    "quickstart-site": TARGETS,
    "real-repos": ("local",),
    "sweep": ("local",),
    "spot-ec2": ("skypilot",),
    "dense-8gpu": ("skypilot",),
    "ppo-8gpu": ("docker",),
    "moe-async": ("k8s",),
    "moe-megatron": ("local", "k8s"),
}
CASES = [(name, target) for name, targets in EXAMPLES.items() for target in targets]


def test_every_example_is_judged() -> None:
    assert set(EXAMPLES) == {spec.stem for spec in spec_path("quickstart").parent.glob("*.jsonnet")}


@pytest.mark.parametrize(("name", "target"), CASES)
def test_whatever_moves_names_what_was_changed(name: str, target: str) -> None:
    judge(name, target, FAST)


@pytest.mark.deep
@pytest.mark.parametrize(("name", "target"), CASES)
def test_whatever_moves_names_what_was_changed_everywhere(name: str, target: str) -> None:
    judge(name, target, None)
