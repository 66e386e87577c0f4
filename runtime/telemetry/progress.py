"""What a person sees while a run goes on: a live Rich display on a terminal, plain lines elsewhere.

Follows ``metrics.jsonl`` and ``status.json`` of the run directory; does not know who writes them and never touches the
run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from runtime.telemetry.metrics import Follower, Row
from runtime.telemetry.scores import NOTHING_LEARNT, SCORE, learnt_nothing, validation_scores

_SPARKS = "▁▂▃▄▅▆▇█"
MAX_PROBLEMS = 5
QUIET_SEC = 30.0
"""Where nobody watches a live display, a long phase says how far it is after this much silence."""


@dataclass
class _Phase:
    name: str
    started: float
    seconds: float | None = None
    note: str = ""
    fraction: float | None = None


@dataclass
class _Training:
    follower: Follower
    status_file: Path
    total_steps: int
    startup: Callable[[], Sequence[tuple[str, float]]] = tuple
    shown: int = 0
    """Stages of the start that have been printed."""
    status: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    printed_step: int = -1

    @property
    def step(self) -> int:
        return int(self.status.get("step", self.rows[-1].step if self.rows else 0))

    def activity(self) -> str:
        """What the trainer does now."""
        text = str(self.status.get("phase", "")) or ("starting Ray and verl" if not self.rows else "")
        if self.status.get("trials"):
            text += f"  {self.status.get('done', 0)} of {self.status['trials']} trials"
        return text

    def words(self) -> list[str]:
        place = f"step {self.step}" + (f"/{self.total_steps}" if self.total_steps else "")
        return [place, self.activity()] if self.rows or self.status else [self.activity()]


class Progress:
    """The display of one run. Use as a context manager; every method may be called from any thread.

    Phases are announced by ``phase``; inside the training phase ``follow`` makes the display read the run directory.
    """

    def __init__(self, title: str, *, console: Console | None = None) -> None:
        self._title = title
        self._console = console or Console()
        self._started = self._spoke = time.monotonic()
        self._phases: list[_Phase] = []
        self._problems: list[str] = []
        self._num_problems = 0
        self._training: _Training | None = None
        self._live: Live | None = None
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._poller: threading.Thread | None = None

    @property
    def console(self) -> Console:
        return self._console

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=4, transient=False)
            self._live.__enter__()
        else:
            self._line(self._title)
        self._poller = threading.Thread(target=self._poll, name="progress", daemon=True)
        self._poller.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._poller is not None:
            self._poller.join(timeout=5)
        if self._live is not None:
            self._live.__exit__(kind, error, trace)
            self._live = None

    @contextmanager
    def phase(self, name: str, note: str = "") -> Iterator[None]:
        """Show ``name`` as what happens now; its time is shown beside it when it ends."""
        phase = _Phase(name, time.monotonic(), note=note)
        with self._lock:
            self._phases.append(phase)
        if self._live is None:
            self._line(f"{name} …" + (f"  {note}" if note else ""))
        yield
        with self._lock:
            phase.seconds = time.monotonic() - phase.started
            phase.fraction = None
        if self._live is None:
            self._line(f"{name} done in {_duration(phase.seconds)}" + (f"  {phase.note}" if phase.note else ""))

    def update(self, note: str, fraction: float | None = None) -> None:
        """Say how far the current phase is; ``fraction`` lies in [0, 1]."""
        with self._lock:
            if self._phases:
                self._phases[-1].note, self._phases[-1].fraction = note, fraction
        if self._live is None and time.monotonic() - self._spoke >= QUIET_SEC:
            self._line(note)

    def problem(self, text: str) -> None:
        """Something went wrong that does not end the run. The newest few are shown, all are counted."""
        with self._lock:
            self._num_problems += 1
            self._problems = [*self._problems, text][-MAX_PROBLEMS:]
        if self._live is None and self._num_problems <= 4 * MAX_PROBLEMS:
            self._line(f"problem: {text}")

    @contextmanager
    def follow(
        self,
        metrics: Path,
        status: Path,
        *,
        total_steps: int,
        startup: Callable[[], Sequence[tuple[str, float]]] = tuple,
    ) -> Iterator[None]:
        """Inside the block, show what the trainer writes. ``total_steps`` 0 means unknown; ``startup`` says what its
        start has reached so far, and after how many seconds."""
        training = _Training(Follower(metrics), status, total_steps, startup)
        # What an earlier attempt reported is shown in the display, but is no news.
        training.follower.poll()
        training.rows = training.follower.rows
        training.printed_step = training.rows[-1].step if training.rows else -1
        with self._lock:
            self._training = training
        try:
            yield
        finally:
            self._take(training)

    def _poll(self) -> None:
        while not self._stop.wait(0.5):
            training = self._training
            if training is not None:
                self._take(training)
            if self._live is None and time.monotonic() - self._spoke >= QUIET_SEC:
                self._still_there()

    def _still_there(self) -> None:
        """A line for those who read a log: what goes on, and for how long."""
        with self._lock:
            phase = next((one for one in reversed(self._phases) if one.seconds is None), None)
            if phase is None:
                return
            parts = [phase.name, f"for {_duration(time.monotonic() - phase.started)}"]
            if self._training is not None:
                parts += self._training.words()
            elif phase.note:
                parts.append(phase.note)
        self._line("  ".join(parts))

    def _take(self, training: _Training) -> None:
        with self._lock:
            if training.follower.poll():
                training.rows = training.follower.rows
            try:
                status = orjson.loads(training.status_file.read_bytes())
                training.status = status if isinstance(status, dict) else {}
            except (OSError, ValueError):
                pass
            stages = training.startup()
            # A new start of the trainer begins anew.
            begun = stages[training.shown :] if len(stages) >= training.shown else stages
            training.shown = len(stages)
            new = [row for row in training.rows if row.step > training.printed_step]
            if new:
                training.printed_step = new[-1].step
        for name, seconds in begun:
            self._line(f"start: {name} after {seconds:.0f} s")
        if self._live is None:
            for row in new:
                self._line(self._step_line(training, row))

    def _line(self, text: str) -> None:
        self._spoke = time.monotonic()
        self._console.print(
            f"[{_duration(time.monotonic() - self._started)}] {text}", markup=False, highlight=False, soft_wrap=True
        )

    def _step_line(self, training: _Training, row: Row) -> str:
        total = f"/{training.total_steps}" if training.total_steps else ""
        parts = [f"step {row.step}{total}"]
        if SCORE in row.data:
            parts.append(f"solved {row.data[SCORE]:.0%}")
        parts += [f"{name} {score:.1%}" for name, score in validation_scores(row).items()]
        if "timing_s/step" in row.data:
            parts.append(f"{row.data['timing_s/step']:.1f} s")
        speed = _tokens_per_sec(row)
        if speed:
            parts.append(f"{speed:,.0f} tokens/s")
        if learnt_nothing(row):
            parts.append(NOTHING_LEARNT)
        left = time_left(training.rows, training.total_steps)
        if left:
            parts.append(f"about {_duration(left)} left")
        return "  ".join(parts)

    def _render(self) -> RenderableType:
        with self._lock:
            head = Text(self._title, style="bold")
            head.append(f"   {_duration(time.monotonic() - self._started)}", style="cyan")
            parts: list[RenderableType] = [head, self._render_phases()]
            if self._training is not None:
                parts.append(self._render_training(self._training))
            if self._num_problems:
                parts.append(Text(f"{self._num_problems} problem(s); the newest:", style="yellow"))
                parts += [
                    Text(f"  {text}", style="yellow", no_wrap=True, overflow="ellipsis") for text in self._problems
                ]
            return Group(*parts)

    def _render_phases(self) -> RenderableType:
        table = Table.grid(padding=(0, 1))
        for phase in self._phases:
            finished = phase.seconds is not None
            seconds = phase.seconds if phase.seconds is not None else time.monotonic() - phase.started
            share = f"{phase.fraction:4.0%} " if phase.fraction is not None else ""
            mark: RenderableType = Text("✓", style="green") if finished else Spinner("dots", style="cyan")
            table.add_row(
                mark, phase.name, Text(_duration(seconds), justify="right"), Text(share + phase.note, style="dim")
            )
        return table

    def _render_training(self, training: _Training) -> RenderableType:
        status, rows = training.status, training.rows
        last = rows[-1] if rows else None
        table = Table.grid(padding=(0, 2))
        total = training.total_steps
        done = f"{training.step} of {total}" if total else str(training.step)
        left = time_left(rows, total)
        table.add_row(
            "  step",
            f"{done}" + (f"   about {_duration(left)} left" if left else ""),
            Text(training.activity(), style="dim"),
        )
        scores = [row.data[SCORE] for row in rows if SCORE in row.data]
        if scores:
            table.add_row("  solved in training", f"{scores[-1]:.0%}", Text(_spark(scores[-40:]), style="green"))
        validations = [found for row in rows if (found := validation_scores(row))]
        for name in validations[-1] if validations else ():
            values = [found[name] for found in validations if name in found]
            table.add_row(
                f"  {name}", f"{values[0]:.1%} → {values[-1]:.1%}" if len(values) > 1 else f"{values[-1]:.1%}", ""
            )
        speed = status.get("tokens_per_sec") or (_tokens_per_sec(last) if last else 0)
        if speed:
            table.add_row("  tokens/s", f"{float(speed):,.0f}", "")
        if "sandboxes" in status:
            table.add_row("  sandboxes in flight", str(status["sandboxes"]), "")
        return table


def time_left(rows: list[Row], total_steps: int) -> float | None:
    """Seconds until the last step, from the times of the newest ten steps and of validations; None when it cannot be
    said yet."""
    times = [row.data["timing_s/step"] for row in rows if "timing_s/step" in row.data]
    if not times or not total_steps:
        return None
    recent = times[-10:]
    return max(0, total_steps - rows[-1].step) * sum(recent) / len(recent)


def _tokens_per_sec(row: Row) -> float:
    tokens, seconds = row.data.get("perf/total_num_tokens", 0.0), row.data.get("timing_s/step", 0.0)
    return tokens / seconds if seconds else 0.0


def _spark(values: list[float]) -> str:
    return "".join(_SPARKS[min(int(max(value, 0.0) * len(_SPARKS)), len(_SPARKS) - 1)] for value in values)


def _duration(seconds: float) -> str:
    whole = int(seconds)
    if whole >= 3600:
        return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
    return f"{whole // 60}:{whole % 60:02d}"
