"""Which training task comes next, by what the run's own trials of it score.

Each set has its share of the prompts, exactly as far as whole prompts go. Within a set the tasks of the band come
first, the others with a floor of its prompts; of the band those that are known to lie there and those that were never
tried take turns. Of each kind comes the one that waited longest, shuffled a little by the seed: by at most half as many
draws as there are tasks of that kind now, so that no task is ever forgotten and those of a kind come equally often.
What is drawn follows from the seed, the draws before and the groups that had ended by then, whatever the order in which
they ended. Free of verl: knows nothing of data sets and checkpoints, but gives its state for one.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from runtime.config import Curriculum as Settings
from runtime.errors import UserError
from runtime.files import write_whole

AHEAD = 2048
"""So many draws are foretold at most."""
_REMEMBERED = 1 << 16
"""Groups whose end is remembered: one that a checkpoint brings back may end a second time."""


@dataclass(frozen=True)
class Ended:
    """A group of trials of one task. ``order``: as it was given out among others; ``trials``: how many have a grade;
    ``solved``: the sum of what they solved, 0 to 1 each."""

    group: str
    task_set: str
    task: str
    step: int
    order: int
    trials: int
    solved: float


@dataclass
class _Set:
    """``numbers``: rows of its tasks; arrays are by the place in it."""

    name: str
    share: float
    numbers: np.ndarray[Any, np.dtype[np.int64]]
    late: np.ndarray[Any, np.dtype[np.float64]]
    """0 to 1, by the seed and the draw at which a task came last: what shuffles those that come next."""
    drawn: np.ndarray[Any, np.dtype[np.int64]]
    """The draw of this set at which a task came last; far below 0: never."""
    draws: int = 0
    credit: float = 0.0
    owed: float = 0.0
    """To the tasks outside of the band."""
    owed_untried: float = 0.0
    """To tasks that were never drawn, while others are known to lie within."""

    def copy(self) -> _Set:
        return _Set(**{**vars(self), "late": self.late.copy(), "drawn": self.drawn.copy()})


_NEVER = -(1 << 40)


class OtherTasks(UserError):
    """A checkpoint's curriculum counts other tasks than the run has."""


def digest(tasks: Sequence[tuple[str, str]]) -> str:
    return hashlib.sha256(orjson.dumps(tasks)).hexdigest()


def check_tasks(state: Mapping[str, Any], tasks: Sequence[tuple[str, str]]) -> None:
    """Raise ``OtherTasks`` where ``state`` is that of a curriculum of other tasks than ``tasks``."""
    if state["tasks"] != digest(tasks):
        raise OtherTasks(
            f"the curriculum of the checkpoint counts {len(state['trials'])} tasks, and they are not the {len(tasks)} "
            "of this run's data/train.parquet: bring back the tasks that it began with, or start a new run"
        )


class Curriculum:
    """tasks: set and id of each row; weights: of the sets, where they have some; prompts: of a step."""

    def __init__(
        self,
        settings: Settings,
        tasks: Sequence[tuple[str, str]],
        *,
        weights: Mapping[str, float],
        seed: int,
        prompts: int,
    ) -> None:
        self._settings, self._seed, self._prompts = settings, seed, prompts
        self._tasks = list(tasks)
        self._place = {task: number for number, task in enumerate(self._tasks)}
        by_set: dict[str, list[int]] = {}
        for number, (name, _) in enumerate(self._tasks):
            by_set.setdefault(name, []).append(number)
        raw = {name: weights.get(name, 1.0) if weights else float(len(rows)) for name, rows in by_set.items()}
        whole = sum(raw.values())
        self._sets = [
            _Set(
                name,
                raw[name] / whole,
                np.array(rows),
                np.array([self._jitter(number, 0) for number in rows]),
                np.full(len(rows), _NEVER, dtype=np.int64),
            )
            for name, rows in by_set.items()
        ]
        count = len(self._tasks)
        self._trials, self._solved = np.zeros(count), np.zeros(count)
        self._at = np.zeros(count)
        """Step that trials and solved are decayed to."""
        self._step = 0
        self._waiting: list[Ended] = []
        self._begun: int | None = None
        self._known: dict[str, None] = {}
        self._lock = threading.Lock()

    # What is drawn.

    def draw(self) -> int:
        """The row of the next task."""
        with self._lock:
            self._fold()
            return self._next(self._sets, self._within())

    def ahead(self, count: int) -> list[int]:
        """What would be drawn next if no further group ended."""
        with self._lock:
            self._fold()
            sets, inside = [one.copy() for one in self._sets], self._within()
            return [self._next(sets, inside) for _ in range(min(count, AHEAD))]

    def _next(self, sets: Sequence[_Set], inside: Mapping[str, np.ndarray[Any, np.dtype[np.bool_]]]) -> int:
        for one in sets:
            one.credit += one.share
        chosen = max(sets, key=lambda one: one.credit)  # the first of equals
        chosen.credit -= 1.0
        chosen.draws += 1
        within = inside[chosen.name]
        chosen.owed = 0.0 if within.all() else chosen.owed + self._settings.floor
        spacing = min(self._prompts, len(chosen.numbers) // 2)
        rested = chosen.draws - chosen.drawn > spacing
        untried = chosen.drawn == _NEVER
        known = within & (self._trials[chosen.numbers] > 0)
        # A sum of ten times 0.1 is a little less than 1.
        outside = chosen.owed > 1.0 - 1e-9 and bool((~within & rested).any())
        if not outside and untried.any() and (known & rested).any():
            chosen.owed_untried += 1.0 if self._warms_up() else self._settings.untried
        band = (untried, known, within) if chosen.owed_untried > 1.0 - 1e-9 else (known, untried, within)
        kinds = (~within, *band) if outside else (*band, ~within)
        kind = next((one for one in kinds if (one & rested).any()), rested)
        # By how many are of the kind now: a task that came when there were many more would wait for many turns.
        due = chosen.drawn + chosen.late * (kind.sum() / 2)
        place = int(np.argmin(np.where(kind & rested, due, np.inf)))
        if not within[place]:
            chosen.owed = max(0.0, chosen.owed - 1.0)
        if untried[place]:
            chosen.owed_untried = max(0.0, chosen.owed_untried - 1.0)
        number = int(chosen.numbers[place])
        chosen.drawn[place] = chosen.draws
        chosen.late[place] = self._jitter(number, chosen.draws)
        return number

    def _jitter(self, number: int, draw: int) -> float:
        """0 to 1, by the seed: tasks that came in the same step need not meet again."""
        text = f"{self._seed}:{':'.join(self._tasks[number])}:{draw}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest()) / (1 << 48)

    # What is known of tasks.

    def ended(self, group: Ended) -> None:
        """A group has ended; a second time it does not count."""
        with self._lock:
            if group.trials and group.group not in self._known and (group.task_set, group.task) in self._place:
                self._known[group.group] = None
                self._waiting.append(group)

    def begun(self, step: int) -> None:
        """This step has got its prompts, and may draw more before it is over: its groups count after it alone.
        Which of them have ended when one is drawn depends on how long each took, and after a crash on what is claimed.
        """
        with self._lock:
            self._begun = step

    def over(self, *, last: float) -> None:
        """The step that has begun is over. Of its groups those up to the order ``last`` count: whether later ones came
        to an end depends on how long each took."""
        with self._lock:
            self._waiting = [one for one in self._waiting if one.step != self._begun or one.order <= last]
            self._begun = None

    def _fold(self) -> None:
        """Take up the groups that have ended, in the order in which they were given out."""
        ready = [one for one in self._waiting if self._begun is None or one.step < self._begun]
        if not ready:
            return
        self._waiting = [one for one in self._waiting if self._begun is not None and one.step >= self._begun]
        for one in sorted(ready, key=lambda one: (one.step, one.order, one.group)):
            number = self._place[one.task_set, one.task]
            self._step = max(self._step, one.step)
            fade = self._faded(self._step - self._at[number])
            self._trials[number] = self._trials[number] * fade + one.trials
            self._solved[number] = self._solved[number] * fade + one.solved
            self._at[number] = self._step
        while len(self._known) > _REMEMBERED:
            del self._known[next(iter(self._known))]

    def _faded(self, steps: Any) -> Any:
        return 0.5 ** (steps / self._settings.half_life_steps)

    def rates(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Of every row, with the imagined trial in it."""
        fade = self._faded(self._step - self._at)
        band = self._settings.band
        middle = (band.least + band.most) / 2
        found: np.ndarray[Any, np.dtype[np.float64]] = (self._solved * fade + middle) / (self._trials * fade + 1.0)
        return found

    def _warms_up(self) -> bool:
        return self._step < self._settings.warmup_steps

    def _inside(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        if self._warms_up():
            return np.ones(len(self._tasks), dtype=bool)
        rates, band = self.rates(), self._settings.band
        return (rates >= band.least - 1e-9) & (rates <= band.most + 1e-9)

    def _within(self) -> dict[str, np.ndarray[Any, np.dtype[np.bool_]]]:
        """By set, what is inside the band."""
        inside = self._inside()
        return {one.name: inside[one.numbers] for one in self._sets}

    # For people and checkpoints.

    def metrics(self) -> dict[str, float]:
        """Tasks below, within and above the band, and those that were never tried, which count as within."""
        with self._lock:
            self._fold()
            rates, band = self.rates(), self._settings.band
            below, above = rates < band.least - 1e-9, rates > band.most + 1e-9
            return {
                "curriculum/below": int(below.sum()),
                "curriculum/within": int((~below & ~above).sum()),
                "curriculum/above": int(above.sum()),
                "curriculum/untried": int((self._trials == 0).sum()),
            }

    def outside(self, tasks: Sequence[tuple[str, str]]) -> int:
        """How many of these are outside of the band now."""
        with self._lock:
            self._fold()
            inside = self._inside()
            return sum(not inside[self._place[task]] for task in tasks)

    def write(self, path: Path) -> None:
        """What is known of every task that was tried, for people."""
        with self._lock:
            self._fold()
            rates, inside = self.rates(), self._inside()
            fade = self._faded(self._step - self._at)
            tasks = [
                {
                    "task_set": name,
                    "task": task,
                    "rate": round(float(rates[number]), 4),
                    "trials": round(float(self._trials[number] * fade[number]), 2),
                    "within": bool(inside[number]),
                }
                for number, (name, task) in enumerate(self._tasks)
                if self._trials[number]
            ]
            band = self._settings.band
            said = {"step": self._step, "band": [band.least, band.most], "all": len(self._tasks), "tasks": tasks}
        write_whole(path, orjson.dumps(said, option=orjson.OPT_INDENT_2))

    def state(self) -> dict[str, Any]:
        """All that the next draws depend on, in plain values."""
        with self._lock:
            return {
                "tasks": digest(self._tasks),
                "sets": {
                    one.name: {
                        "drawn": one.drawn.tolist(),
                        "draws": one.draws,
                        "credit": one.credit,
                        "owed": one.owed,
                        "owed_untried": one.owed_untried,
                    }
                    for one in self._sets
                },
                "trials": self._trials.tolist(),
                "solved": self._solved.tolist(),
                "at": self._at.tolist(),
                "step": self._step,
                "waiting": [vars(one) for one in self._waiting],
                "known": list(self._known),
            }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; groups that have ended since this object was made are added to it. Raises ``OtherTasks``
        when it is of other tasks."""
        with self._lock:
            check_tasks(state, self._tasks)
            for one in self._sets:
                found = state["sets"][one.name]
                one.drawn = np.array(found["drawn"], dtype=np.int64)
                last = zip(one.numbers.tolist(), np.maximum(one.drawn, 0).tolist(), strict=True)
                one.late = np.array([self._jitter(number, draw) for number, draw in last])
                one.draws, one.credit, one.owed = found["draws"], found["credit"], found["owed"]
                one.owed_untried = found.get("owed_untried", 0.0)  # checkpoints of before have none
            self._trials, self._solved = np.array(state["trials"]), np.array(state["solved"])
            self._at, self._step = np.array(state["at"]), state["step"]
            since = [one for one in self._waiting if one.group not in state["known"]]
            self._waiting = [*(Ended(**one) for one in state["waiting"]), *since]
            self._known = dict.fromkeys([*state["known"], *(one.group for one in since)])
