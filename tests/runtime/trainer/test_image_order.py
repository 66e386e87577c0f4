"""The order in which images will be wanted is that of verl's own sampler."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime.sandboxes import announced_images, coming_images
from runtime.sandboxes.ahead import Announced, Wanted
from runtime.trainer.image_order import ImageOrder, draws


@pytest.mark.verl
def test_the_draws_are_those_of_verls_sampler() -> None:
    from omegaconf import OmegaConf
    from verl.trainer.ppo.utils import create_rl_sampler

    sampler = create_rl_sampler(OmegaConf.create({"shuffle": True, "seed": 7}), list(range(50)))
    real = [number for _ in range(3) for number in sampler]
    assert draws(50, shuffle=True, seed=7, epochs=3) == real
    assert draws(3, shuffle=False, seed=7, epochs=2) == [0, 1, 2, 0, 1, 2]


def announced(run: Path) -> tuple[list[str], list[str]]:
    found = json.loads((run / "data" / "image-order.json").read_text())
    assert all(reference == f"r/{digest}@{digest}" for one in found.values() for digest, reference, _ in one)
    return [one[0] for one in found["now"]], [one[0] for one in found["coming"]]


def images(names: str) -> list[Wanted | None]:
    return [Wanted(name, f"r/{name}@{name}", 7) if name != " " else None for name in names]


def test_what_comes_is_announced_with_what_was_just_given_out(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    order = ImageOrder(tmp_path, images("ab a"), shuffle=False, seed=None)
    order.given_out([0])
    assert announced(tmp_path) == (["a"], ["b"])
    for _ in range(4):  # from epoch to epoch
        order.given_out([1, 2])
        assert announced(tmp_path) == (["b"], ["a"])
        order.given_out([3, 0])
        assert announced(tmp_path) == (["a"], ["b"])


def test_nobody_knows_an_order_without_a_seed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    ImageOrder(tmp_path, images("ab"), shuffle=True, seed=None).given_out([1])
    assert announced(tmp_path) == (["b"], [])


def test_a_curriculum_foretells_its_own_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    asked: list[int] = []

    def foretold(most: int) -> list[int]:
        asked.append(most)
        return [2, 2, 0]

    ImageOrder(tmp_path, images("abc"), shuffle=False, seed=None, foretold=foretold).given_out([1])
    assert announced(tmp_path) == (["b"], ["c", "a"]) and asked == [6]
    assert announced_images() == Announced()
    monkeypatch.setenv("LIVERL_RUN_DIR", str(tmp_path))
    assert announced_images().coming == (Wanted("c", "r/c@c", 7), Wanted("a", "r/a@a", 7))
    assert coming_images() == ["b", "c", "a"]
