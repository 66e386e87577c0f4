"""The curriculum's draws, on the real class: what holds of them whatever groups score and whenever they end."""

from __future__ import annotations

import json
import math
import pickle
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runtime.config import Curriculum as Settings
from runtime.config import PassRate
from runtime.run_paths import RunPaths
from runtime.trainer.chosen import CHOSEN
from runtime.trainer.curriculum import Curriculum, Ended, OtherTasks
from runtime.trainer.curriculum_checkpoint import check_curriculum
from runtime.trainer.dataset import write_dataset
from tests.runtime.agent_loop.conftest import make_config, make_task

SETS = {"easy": 12, "hard": 30, "one": 1}


def make(*, seed: int = 0, weights: dict[str, float] | None = None, prompts: int = 4, **given: float) -> Curriculum:
    values = {"band": PassRate(least=0.2, most=0.8), "floor": 0.1, "half_life_steps": 20.0, "warmup_steps": 0} | given
    tasks = [(name, f"{name}-{number}") for name, count in SETS.items() for number in range(count)]
    return Curriculum(Settings(**values), tasks, weights=weights or {}, seed=seed, prompts=prompts)


def task_of(number: int) -> tuple[str, str]:
    for name, count in SETS.items():
        if number < count:
            return name, f"{name}-{number}"
        number -= count
    raise AssertionError


def play(curriculum: Curriculum, steps: range, *, policy: int, shuffled: bool = False) -> list[int]:
    """Steps of four prompts; what a task scores follows from the policy, the task and the step."""
    drawn = []
    for step in steps:
        numbers = [curriculum.draw() for _ in range(4)]
        groups = []
        for order, number in enumerate(numbers):
            name, task = task_of(number)
            chance = random.Random(f"{policy}:{task}:{step // 10}").random()
            rng = random.Random(f"{policy}:{task}:{step}:{order}")
            solved = sum(rng.random() < chance for _ in range(8))
            groups.append(Ended(f"{step}-{order}", name, task, step, order, 8, float(solved)))
        for group in reversed(groups) if shuffled else groups:
            curriculum.ended(group)
        drawn += numbers
    return drawn


@given(seed=st.integers(0, 99), policy=st.integers(0, 99), cut=st.integers(1, 39))
@settings(max_examples=25, deadline=None)
def test_a_resumed_run_draws_what_one_without_a_break_does(seed: int, policy: int, cut: int) -> None:
    whole = play(make(seed=seed), range(1, 41), policy=policy)
    first = make(seed=seed)
    before = play(first, range(1, cut + 1), policy=policy, shuffled=True)
    saved = pickle.dumps(first.state())
    play(first, range(cut + 1, cut + 3), policy=policy)  # a killed run got a little further
    second = make(seed=seed)
    second.load(pickle.loads(saved))
    second.ended(Ended(f"{cut}-0", *task_of(before[-4]), cut, 0, 8, 8.0))  # played again: it has counted already
    assert second.ahead(4) == whole[len(before) : len(before) + 4]
    assert before + play(second, range(cut + 1, 41), policy=policy) == whole


@given(policy=st.integers(0, 99), floor=st.sampled_from([0.05, 0.1, 0.3, 0.5]), weighted=st.booleans())
@settings(max_examples=12, deadline=None)
def test_sets_keep_their_shares_and_no_task_starves(policy: int, floor: float, weighted: bool) -> None:
    weights = {"easy": 3.0, "hard": 1.0, "one": 1.0} if weighted else {}
    drawn = play(make(weights=weights, floor=floor), range(1, 401), policy=policy)
    whole = sum(weights.values()) if weighted else sum(SETS.values())
    own: dict[str, list[int]] = {name: [] for name in SETS}
    for place, number in enumerate(drawn, start=1):
        name = task_of(number)[0]
        own[name].append(number)
        if place % 50 == 0:
            for one, mine in own.items():
                share = (weights[one] if weighted else SETS[one]) / whole
                assert abs(len(mine) - share * place) < len(SETS), "at any time, not in the end alone"
    for name, mine in own.items():
        size = SETS[name]
        # Outside of the band, or new while others of it come again.
        longest = size / 2 + (size + 1) * max(math.ceil(1 / floor), math.ceil(2 / (1 - floor))) + size
        last = dict.fromkeys(mine[: int(longest)], 0)
        assert len(last) == size or len(mine) <= longest, "each comes at all"
        for place, number in enumerate(mine):
            assert place - last.get(number, 0) <= longest, f"{task_of(number)} waited for {place - last[number]} draws"
            last[number] = place


def test_the_band_comes_first_and_the_floor_is_kept() -> None:
    curriculum = make(floor=0.2, half_life_steps=1e6)
    rates = {f"hard-{number}": 0.5 if number < 6 else 1.0 for number in range(30)}
    for step in range(1, 400):
        for order in range(4):
            name, task = task_of(curriculum.draw())
            score = 8 * rates.get(task, 0.0)
            curriculum.ended(Ended(f"{step}-{order}", name, task, step, order, 8, score))
    counts = {name.partition("/")[2]: value for name, value in curriculum.metrics().items()}
    assert counts == {"below": 13, "within": 6, "above": 24, "untried": 0}
    later = [task_of(curriculum.draw())[1] for _ in range(2000)]
    hard = Counter(task for task in later if task.startswith("hard"))
    share = sum(hard[f"hard-{number}"] for number in range(6)) / hard.total()
    assert 0.75 <= share <= 0.81, "four fifths, whatever the numbers of tasks"
    assert min(hard[f"hard-{number}"] for number in range(6)) > 5 * max(
        hard[f"hard-{number}"] for number in range(6, 30)
    )
    easy = Counter(task for task in later if task.startswith("easy"))
    assert max(easy.values()) - min(easy.values()) <= 3, "no task of this set is in the band: all as before"
    for place in range(len(later) - 4):
        step = [task for task in later[place : place + 4] if not task.startswith("one")]
        assert len(set(step)) == len(step), "none twice in a step"


@given(
    untried=st.sampled_from([0.25, 0.5, 0.75, 1.0]),
    every=st.integers(2, 5),
    warmup_steps=st.sampled_from([0, 400]),
    lag=st.integers(1, 12),
    seed=st.integers(0, 99),
)
@example(untried=0.75, every=5, warmup_steps=0, lag=1, seed=3)
@example(untried=0.5, every=5, warmup_steps=0, lag=1, seed=3)
@example(untried=0.5, every=3, warmup_steps=0, lag=12, seed=3)
@settings(max_examples=6, deadline=None)
def test_what_tells_something_comes_again_while_the_rest_is_tried(
    untried: float, every: int, warmup_steps: int, lag: int, seed: int
) -> None:
    """Groups end ``lag`` steps after they were given out, as where training does not wait for them."""
    tasks = [("all", str(number)) for number in range(600)]
    said = Settings(
        band=PassRate(least=0.2, most=0.8), floor=0.1, untried=untried, warmup_steps=warmup_steps, half_life_steps=1e6
    )
    curriculum = Curriculum(said, tasks, weights={}, seed=seed, prompts=8)
    drawn: list[int] = []
    going: list[Ended] = []
    step = 0
    while len(set(drawn)) < len(tasks):
        step += 1
        numbers = [curriculum.draw() for _ in range(8)]
        for order, number in enumerate(numbers):
            solved = 4.0 if number % every == 0 else 0.0
            going.append(Ended(f"{step}-{order}", "all", str(number), step, order, 8, solved))
        while going and going[0].step <= step - lag + 1:
            curriculum.ended(going.pop(0))
        drawn += numbers
    begun = 100 + 8 * lag
    if untried == 1.0 or warmup_steps:
        assert len(set(drawn)) >= 0.88 * len(drawn), "only the floor's come again before all were tried"
        return
    share = (len(tasks) - len(set(drawn[:begun]))) / len(drawn[begun:])
    assert abs(share - untried * 0.9) < 0.03, "of what the floor leaves"
    again = Counter(drawn[begun:])
    turns = [again[number] for number in set(drawn[:100]) if number % every == 0]
    assert max(turns) - min(turns) <= max(3, 0.15 * max(turns)), "all alike, those of the first steps too"


@given(seed=st.integers(0, 99), left=st.integers(10, 40))
@settings(max_examples=5, deadline=None)
def test_a_band_that_empties_leaves_those_in_it_alike(seed: int, left: int) -> None:
    """A task that came last when hundreds were in the band does not wait as long as it would have then."""
    tasks = [("all", str(number)) for number in range(400)]
    said = Settings(band=PassRate(least=0.2, most=0.8), floor=0.1, half_life_steps=1e6)
    curriculum = Curriculum(said, tasks, weights={}, seed=seed, prompts=4)
    for step in range(1, 201):
        for order in range(4):
            number = curriculum.draw()
            curriculum.ended(Ended(f"{step}-{order}", "all", str(number), step, order, 8, 4.0))
    for number in range(left, 400):
        curriculum.ended(Ended(f"learnt-{number}", "all", str(number), 201, number, 800, 800.0))
    assert curriculum.metrics()["curriculum/within"] == left
    for _ in range(left):  # one round in which they sort themselves
        curriculum.draw()
    turns = Counter(curriculum.draw() for _ in range(10 * left))
    inside = [turns[number] for number in range(left)]
    assert max(inside) - min(inside) <= 3, "of ten turns: shuffled, and a round more or less at either end"
    assert max(turns[number] for number in range(left, 400)) <= 1


def test_what_was_not_tried_for_long_comes_back_and_a_warm_up_goes_by_nothing(tmp_path: Path) -> None:
    curriculum = make(half_life_steps=5.0)
    curriculum.ended(Ended("a", "easy", "easy-0", 1, 0, 8, 8.0))
    assert curriculum.outside([("easy", "easy-0"), ("easy", "easy-1")]) == 1
    curriculum.write(tmp_path / "known.json")
    known = json.loads((tmp_path / "known.json").read_bytes())
    assert known["tasks"] == [{"task_set": "easy", "task": "easy-0", "rate": 0.9444, "trials": 8.0, "within": False}]
    curriculum.ended(Ended("b", "hard", "hard-0", 16, 0, 8, 4.0))
    assert curriculum.outside([("easy", "easy-0")]) == 0, "one of its eight trials is left to count: 1.5 of 2"
    warm = make(warmup_steps=3)
    warm.ended(Ended("a", "easy", "easy-0", 2, 0, 8, 8.0))
    assert warm.outside([("easy", "easy-0")]) == 0 and warm.metrics()["curriculum/above"] == 1
    warm.ended(Ended("b", "easy", "easy-1", 3, 0, 8, 4.0))
    assert warm.outside([("easy", "easy-0")]) == 1


def test_a_checkpoint_of_other_tasks_is_refused() -> None:
    state = make().state()
    other = Curriculum(Settings(band=PassRate(least=0.2, most=0.8)), [("a", "b")], weights={}, seed=0, prompts=1)
    with pytest.raises(OtherTasks, match="they are not the 1 of this run"):
        other.load(state)


@pytest.mark.verl
@pytest.mark.filterwarnings("ignore")
def test_verls_loader_draws_by_it_and_its_checkpoints_hold_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data set, sampler and loader as verl makes them of what the compiler writes, across the end of an epoch."""
    import torch
    from omegaconf import OmegaConf
    from torchdata.stateful_dataloader import StatefulDataLoader
    from verl.trainer.ppo.utils import create_rl_dataset, create_rl_sampler
    from verl.utils.dataset.rl_dataset import collate_fn

    run = RunPaths(tmp_path)
    monkeypatch.setenv("LIVERL_RUN_DIR", str(tmp_path))
    band = Settings(band=PassRate(least=0.2, most=0.8), floor=0.3)
    config = make_config().model_copy(update={"curriculum": band})
    run.bundle.mkdir()
    run.runtime_json.write_text(config.model_dump_json())
    tasks = [make_task(tmp_path / "tasks", f"task-{number}") for number in range(7)]
    write_dataset(tmp_path, config, {"train": tasks}, {one.name: tasks[:2] for one in config.validation})
    data = {
        "train_files": str(run.data / "train.parquet"),
        "train_batch_size": 2,
        "shuffle": False,
        "seed": 0,
        "custom_cls": {"path": "pkg://runtime.trainer.curriculum_dataset", "name": "CurriculumDataset"},
        "cache_dir": str(tmp_path / "cache"),
        "filter_overlong_prompts": False,
        "max_prompt_length": 64,
    }
    settings = OmegaConf.create(data)

    def loader() -> StatefulDataLoader[Any]:
        dataset = create_rl_dataset(settings.train_files, settings, None, None, is_train=True)
        sampler = create_rl_sampler(settings, dataset)
        return StatefulDataLoader(
            dataset, batch_size=2, num_workers=0, drop_last=True, collate_fn=collate_fn, sampler=sampler
        )

    def steps(one: StatefulDataLoader[Any], begin: int, end: int) -> list[str]:
        """As verl fetches them; groups end in disorder, and some tasks are always solved."""
        found: list[str] = []
        iterator = iter(one)
        for step in range(begin, end):
            try:
                batch = next(iterator)
            except StopIteration:
                iterator = iter(one)
                batch = next(iterator)
            names = [info["task_id"] for info in batch["extra_info"]]
            curriculum = CHOSEN.curriculum
            assert curriculum is not None and curriculum is one.dataset._curriculum
            for order in (1, 0):
                solved = 4.0 if names[order][-1] in "135" else 2.0
                curriculum.ended(Ended(f"{step}-{order}", "train", names[order], step, order, 4, solved))
            found += names
        return found

    whole = steps(loader(), 1, 21)
    assert len(set(whole[:14])) == 7
    always = sum(name[-1] in "135" for name in whole[14:])
    assert 0.3 * 26 - 1 <= always < 0.35 * 26 + 1, "then those that are always solved come as often as the floor says"
    for cut in (3, 4, 5):  # an epoch has three
        first = loader()
        assert steps(first, 1, cut) == whole[: 2 * (cut - 1)]
        saved = pickle.dumps(first.state_dict())
        second = loader()
        second.load_state_dict(pickle.loads(saved))
        assert steps(second, cut, 21) == whole[2 * (cut - 1) :]
    checkpoint = tmp_path / "global_step_3"
    checkpoint.mkdir()
    check_curriculum(checkpoint, run)
    torch.save(first.state_dict(), checkpoint / "data.pt")
    check_curriculum(checkpoint, run)
    write_dataset(tmp_path, config, {"train": tasks[1:]}, {one.name: tasks[:2] for one in config.validation})
    with pytest.raises(OtherTasks, match="counts 7 tasks, and they are not the 6"):
        check_curriculum(checkpoint, run)
    (checkpoint / "data.pt").write_bytes(b"torn")
    check_curriculum(checkpoint, run)  # the trainer says what is wrong with it
    settings.train_files = "elsewhere"
    validation = create_rl_dataset(str(run.data / "val.parquet"), settings, None, None, is_train=False)
    assert [validation[n]["extra_info"]["task_id"] for n in (0, 1)] == ["task-0", "task-1"], "nobody draws there"
    assert validation.state_dict() == {}
