"""No demonstration of what is held out: whatever else a file or a run holds, one leak is found and named."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.config import GenerateSource, PackagePin, SynthSource, TaskSet
from runtime.trainer.supervised import table
from runtime.trainer.supervised.held_out import HeldOut, packages_held_out

NAMES = ("toolz", "More_Itertools", "funcy", "boltons", "python.slugify")


def bugs(name: str, *packages: str) -> TaskSet:
    pins = tuple(PackagePin(name=package, version="1.0", sha256="0" * 64) for package in packages)
    return TaskSet(name=name, source=GenerateSource(packages=pins, per_package=1, seed=0, split="train"))


SYNTH = TaskSet(name="synth", source=SynthSource(count=1, seed=0, split="train"))


def of(package: str, task: str) -> table.Demonstrations:
    row = {"input_ids": [1, 2], "loss_mask": [0, 1], "package": package, "kind": "op", "task": task}
    return table.of_rows([row])


@settings(deadline=None)
@given(st.sets(st.sampled_from(NAMES)), st.sets(st.sampled_from(NAMES)), st.sampled_from(NAMES), st.booleans())
def test_a_package_that_is_only_validated_on_is_never_demonstrated(
    train: set[str], validation: set[str], package: str, named: bool
) -> None:
    """Named by the row, in whatever spelling, or by its task's name alone."""
    sets = ([bugs("a", *train)] if train else [SYNTH]), ([bugs("b", *validation)] if validation else [SYNTH])
    held_out = HeldOut(packages_held_out(*sets), frozenset())
    spelt = package.upper().replace("_", "-")
    shown = of(spelt, "pair-1") if named else of("", f"{package}-0123abcd")
    assert bool(held_out.leaks(shown)) == (package in validation - train)


def test_leaks_are_named_and_counted() -> None:
    held_out = HeldOut(frozenset({"more-itertools"}), frozenset({"funcy-12"}))
    clean = [of("toolz", "toolz-1"), of("", "funcy-13"), of("", "")]
    assert held_out.leaks(table.joined(clean)) == []
    leaking = [of("more.itertools", "x"), of("", "More_Itertools-9"), of("funcy", "funcy-12")]
    assert held_out.leaks(table.joined([*clean, *leaking])) == ["package more-itertools (2)", "task funcy-12 (1)"]
