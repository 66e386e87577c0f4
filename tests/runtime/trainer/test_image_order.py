"""The order in which images will be wanted is that of verl's own sampler."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime.trainer.image_order import ImageOrder, draws


@pytest.mark.verl
def test_the_draws_are_those_of_verls_sampler() -> None:
    from omegaconf import OmegaConf
    from verl.trainer.ppo.utils import create_rl_sampler

    sampler = create_rl_sampler(OmegaConf.create({"shuffle": True, "seed": 7}), list(range(50)))
    real = [number for _ in range(3) for number in sampler]
    assert draws(50, shuffle=True, seed=7, epochs=3) == real
    assert draws(3, shuffle=False, seed=7, epochs=2) == [0, 1, 2, 0, 1, 2]


def test_what_comes_is_announced_with_what_was_just_given_out(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    order = ImageOrder(tmp_path, ["a", "b", "", "a"], shuffle=False, seed=None)

    def announced() -> list[str]:
        found: list[str] = json.loads((tmp_path / "data" / "image-order.json").read_text())
        return found

    order.given_out([0])
    assert announced() == ["a", "b"]
    for _ in range(4):  # from epoch to epoch
        order.given_out([1, 2])
        assert announced() == ["b", "a"]
        order.given_out([3, 0])
        assert announced() == ["a", "b"]


def test_nobody_knows_an_order_without_a_seed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    ImageOrder(tmp_path, ["a", "b"], shuffle=True, seed=None).given_out([1])
    assert (tmp_path / "data" / "image-order.json").read_text() == '["b"]'
