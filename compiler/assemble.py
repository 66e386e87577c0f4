"""The pure middle of the compiler: an evaluated spec and a target in, the text of every file of the bundle out."""

from __future__ import annotations

from compiler import bundle as bundles
from compiler import check, emit, sourcemap
from compiler.compiled import VERSION, Bundle
from compiler.errors import Problem, SpecError
from compiler.load import Evaluated
from compiler.lower_runtime import contract, lower_runtime
from compiler.lower_sft import lower_sft
from compiler.lower_verl import lower_verl
from compiler.lower_vllm import lower_vllm
from compiler.partial import heard, sound_parts
from compiler.plan import Plan, make_plan
from compiler.positions import located
from compiler.spec.experiment import ExperimentSpec
from compiler.summary import summary
from compiler.target import Lowered, Target
from compiler.validate import validate

_HEADER = "Compiled by LiveRL {version} from {entry}. Change the spec, not this file."


def resolve(evaluated: Evaluated) -> ExperimentSpec:
    """The validated spec; problems come with their positions."""
    try:
        return validate(evaluated.value)
    except SpecError as error:
        raise SpecError(located(error.problems, evaluated.positions)) from None


def checked_plan(evaluated: Evaluated, target: Target | None = None) -> tuple[Plan, list[Problem]]:
    """The plan and its warnings. Raises ``SpecError`` with every problem, those of single fields and those across
    sound ones. Without a target: what holds for all."""
    hold = [*check.RULES, *([target.check] if target is not None else [])]
    try:
        plan = make_plan(validate(evaluated.value))
    except SpecError as error:
        sound = sound_parts(evaluated.value, error.problems)
        across = [] if sound is None else list(heard(hold, make_plan(sound)))
        raise SpecError(located([*error.problems, *across], evaluated.positions)) from None
    problems = located([problem for rule in hold for problem in rule(plan)], evaluated.positions)
    if any(problem.severity == "fatal" for problem in problems):
        raise SpecError(problems)
    return plan, problems


def lower(plan: Plan, target: Target) -> Lowered:
    def lowered() -> Lowered:
        runtime = lower_runtime(plan, target=target.name)
        shared = Lowered(verl=lower_verl(plan), vllm=lower_vllm(plan), runtime=runtime, sft=lower_sft(plan))
        return target.adapt(plan, shared)

    # Nothing is read beside the values and sections; if something is, all that comes after it says so.
    return plan.reads.during(lowered)[0]


def assemble(evaluated: Evaluated, *, target: Target) -> Bundle:
    """Raises ``SpecError`` with every fatal problem and warning."""
    return planned_bundle(evaluated, target=target)[1]


def planned_bundle(evaluated: Evaluated, *, target: Target) -> tuple[Plan, Bundle]:
    """``assemble``, and the plan that the bundle was made from."""
    plan, warnings = checked_plan(evaluated, target)
    lowered = lower(plan, target)
    page = summary(plan, title=f"{plan.spec.name} on {target.name}", warnings=warnings)
    header = _HEADER.format(version=VERSION, entry=evaluated.entry)
    files = {
        "resolved.json": emit.to_json(plan.resolved),
        "verl.yaml": emit.to_yaml(lowered.verl.tree(), header=header),
        "vllm.yaml": emit.to_yaml(lowered.vllm.tree(), header=f"{header}\nvllm serve --config vllm.yaml"),
        "runtime.json": emit.to_json(contract(lowered.runtime).model_dump(mode="json")),
        "SUMMARY.md": page.text,
    }
    at = sourcemap.places(evaluated.positions)
    entries = {
        "verl.yaml": sourcemap.map_facts(lowered.verl, at),
        "vllm.yaml": sourcemap.map_facts(lowered.vllm, at),
        "runtime.json": sourcemap.map_facts(lowered.runtime, at),
        "SUMMARY.md": {name: entry for rows in page.tables for name, entry in sourcemap.map_facts(rows, at).items()},
    }
    if lowered.sft is not None:
        files["sft.yaml"] = emit.to_yaml(lowered.sft.tree(), header=header)
        entries["sft.yaml"] = sourcemap.map_facts(lowered.sft, at)
    for name, artifact in target.artifacts(plan, lowered, files).items():
        files[name] = artifact.text
        entries[name] = sourcemap.map_origins(artifact.origins, at)
    files[bundles.MAP] = emit.to_json({"format": "liverl-map-1", "spec": evaluated.entry, "files": entries})
    files[bundles.LOCK] = bundles.lock_text(
        files,
        entry=evaluated.entry,
        sources=evaluated.digests,
        experiment=plan.spec.name,
        target=target.name,
        pins=target.pins(plan),
        version=VERSION,
    )
    return plan, Bundle(plan.spec.name, target.name, files, tuple(warnings))
