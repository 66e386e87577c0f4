"""No demonstration of what is held out: whatever else a file or a run holds, one leak is found and named."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.config.tasks import canonical
from runtime.demonstrations.held_out import HeldOut
from runtime.trainer.supervised import table
from runtime.trainer.supervised.leaks import leaks

NAMES = ("toolz", "More_Itertools", "funcy", "boltons", "python.slugify")


def of(package: str, task: str) -> table.Demonstrations:
    row = {"input_ids": [1, 2], "loss_mask": [0, 1], "package": package, "kind": "op", "task": task}
    return table.of_rows([row])


@settings(deadline=None)
@given(st.sets(st.sampled_from(NAMES)), st.sets(st.sampled_from(NAMES)), st.sampled_from(NAMES), st.booleans())
def test_a_package_that_is_only_validated_on_is_never_demonstrated(
    train: set[str], validation: set[str], package: str, named: bool
) -> None:
    """Named by the row, in whatever spelling, or by its task's name alone."""
    held_out = HeldOut(names=frozenset(map(canonical, validation)), trained=frozenset(map(canonical, train)))
    spelt = package.upper().replace("_", "-")
    shown = of(spelt, "pair.py:1") if named else of("", f"{package}-0123456789ab")
    assert bool(leaks(shown, held_out)) == (package in validation - train)


def test_leaks_are_named_and_counted() -> None:
    held_out = HeldOut(names=frozenset({"more-itertools"}), tasks=frozenset({"funcy-12"}))
    clean = [of("toolz", "toolz-1"), of("", "funcy-13"), of("", "")]
    assert leaks(table.joined(clean), held_out) == []
    leaking = [of("more.itertools", "x"), of("", "More_Itertools-0123456789ab"), of("funcy", "funcy-12")]
    assert leaks(table.joined([*clean, *leaking]), held_out) == ["package more-itertools (2)", "task funcy-12 (1)"]
