"""The pool and its queue at the size of a cluster: thousands of sandboxes in simulated time, through the real code."""

import asyncio
import random
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from runtime.config import PlainProcess
from runtime.errors import Termination, TrialError
from runtime.sandboxes import make_provider
from runtime.sandboxes.base import Capabilities, ExecResult, SandboxRequest
from runtime.sandboxes.entries import Entry
from runtime.sandboxes.fair_queue import FairQueue
from runtime.sandboxes.pool import MAX_AGE_SEC, PooledProvider
from runtime.sandboxes.waiting import waiting_measured


class SimulatedTime(asyncio.SelectorEventLoop):
    """A loop whose clock jumps to the next timer instead of waiting for it."""

    def __init__(self) -> None:
        self.now = 0.0
        selector = selectors.DefaultSelector()
        select = selector.select

        def jump(timeout: float | None = None) -> Any:
            if timeout is not None and timeout > 0:
                self.now += timeout
            return select(0 if timeout is not None else None)

        selector.select = jump  # type: ignore[method-assign]
        super().__init__(selector)

    def time(self) -> float:
        return self.now


def play(body: Callable[[SimulatedTime], Coroutine[Any, Any, None]]) -> None:
    loop = SimulatedTime()
    try:
        loop.run_until_complete(asyncio.wait_for(body(loop), 1e9))
    finally:
        loop.close()


class Box:
    proxy_url = None

    def __init__(self, cloud: "Cloud", request: SandboxRequest) -> None:
        self.request, self.alive, self.users, self._cloud = request, True, 0, cloud

    async def exec(
        self,
        argv: Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        timeout_sec: float,
        max_output: int = 1 << 20,
    ) -> ExecResult:
        self.users += 1
        assert self.users == 1, "one box, two trials"
        await asyncio.sleep(timeout_sec)
        return ExecResult(0, self.request.lower.name.encode(), b"")

    async def upload(self, files: Mapping[str, bytes], *, mode: int = 0o644) -> None: ...

    async def download(self, paths: Sequence[str], *, max_bytes: int = 16 << 20) -> dict[str, bytes]:
        return {}

    async def tree(
        self, paths: Sequence[str], *, max_bytes: int, known: Mapping[str, str] | None = None
    ) -> dict[str, Entry]:
        return {}

    async def run_tests(self, runner: str, *, timeout_sec: float, **arguments: Any) -> dict[str, Any]:
        return {}

    async def stop(self) -> None:
        if self in self._cloud.boxes:
            await asyncio.sleep(0.2)
            self._cloud.boxes.discard(self)


class Cloud:
    """A backend whose starts take a second and sometimes fail."""

    capabilities = Capabilities(
        isolation="kubernetes", network_off=True, fresh_filesystem=True, memory_limit=True, cpu_limit=True
    )

    def __init__(self, *, failures: float = 0.0, start_sec: float = 1.0) -> None:
        self.boxes: set[Box] = set()
        self.made, self.most, self.failures, self.start_sec = 0, 0, failures, start_sec
        self._draw = random.Random(1)

    async def start(self, request: SandboxRequest) -> Box:
        box = Box(self, request)
        self.boxes.add(box)
        self.most = max(self.most, len(self.boxes))
        try:
            await asyncio.sleep(self.start_sec * self._draw.uniform(0.5, 1.5))
            if self._draw.random() < self.failures:
                raise TrialError(Termination.ENV_SETUP_FAILED, "no node")
        except BaseException:
            self.boxes.discard(box)
            raise
        self.made += 1
        return box

    async def close(self) -> None:
        self.boxes.clear()


def pool(cloud: Cloud, loop: SimulatedTime, **settings: Any) -> PooledProvider:
    given = {"warm": 2, "max_idle": 8, "queue": FairQueue(None), "run": "run", **settings}
    return PooledProvider(cloud, clock=loop.time, **given)


def request(kind: int = 0, name: str = "trial") -> SandboxRequest:
    return SandboxRequest(name=name, lower=Path(f"/tasks/{kind}"))


def test_thousands_of_sandboxes_of_three_runs() -> None:
    """6,000 trials in groups of eight on 100 places: bounded, fair, in order, none shared, lost or left behind."""
    places, trials = 100, 2000
    queue = FairQueue(places)
    order: dict[str, list[int]] = {}
    finished: dict[str, float] = {}
    done: dict[str, int] = {}
    lost: list[str] = []
    hits: dict[str, float] = {}

    async def body(loop: SimulatedTime) -> None:
        cloud = Cloud(failures=0.02)

        async def run(name: str, delay: float) -> None:
            await asyncio.sleep(delay)
            made = pool(cloud, loop, queue=queue, run=name, warm=4, max_idle=32)
            draw = random.Random(name)

            async def trial(number: int) -> None:
                for attempt in range(5):
                    try:
                        box = await made.start(request(number // 8, f"{name}-{number}"))
                    except TrialError:
                        continue
                    done[name] = done.get(name, 0) + 1
                    if attempt == 0:  # who failed waits again
                        order.setdefault(name, []).append(number)
                    assert queue.held(name) <= places
                    task = str(number // 8).encode()
                    seen = await box.exec([], timeout_sec=draw.uniform(5, 15))
                    assert seen.stdout == task, "a box of another task"
                    await box.stop()
                    return
                lost.append(f"{name}-{number}")

            await asyncio.gather(*(trial(number) for number in range(trials)))
            finished[name] = loop.now
            counts = made.pool
            assert counts.hits + counts.misses >= trials and counts.peak <= places
            hits[name] = counts.hits / (counts.hits + counts.misses)
            assert counts.ahead == counts.hits + counts.discarded + sum(map(len, made._idle.values()))
            await made.close()

        await asyncio.gather(run("large", 0), run("late", 60), run("later", 120))
        assert cloud.most <= places + 3 * 32 and not cloud.boxes

    play(body)
    assert not lost and queue.waiting == 0
    for name, numbers in order.items():
        assert done[name] == trials
        late = [place - numbers.index(number) for place, number in enumerate(sorted(numbers))]
        assert max(map(abs, late)) < places, "out of order beyond what the starts explain"
    work = 3 * trials * 11.2 / places
    assert finished["large"] < finished["late"] < finished["later"] < 1.1 * work, "places were left empty"
    assert finished["large"] > 0.6 * work, "the first run was served before the others"
    assert min(hits.values()) > 0.2, hits


def test_a_crowd_delays_anothers_first_by_one_place() -> None:
    async def body(loop: SimulatedTime) -> None:
        queue = FairQueue(4)
        served: list[str] = []

        async def trial(run: str) -> None:
            await queue.acquire(run)
            served.append(run)
            await asyncio.sleep(1)
            queue.release(run)

        crowd = [asyncio.ensure_future(trial("crowd")) for _ in range(100)]
        await asyncio.sleep(0.5)
        small = [asyncio.ensure_future(trial("small")) for _ in range(4)]
        await asyncio.gather(*small)
        assert loop.now <= 4.0 and served[4] == "small"
        for task in crowd[50:]:
            task.cancel()  # those that wait leave the queue, whoever has a place gives it back
        await asyncio.gather(*crowd, return_exceptions=True)
        assert served.count("crowd") == 50 and queue.waiting == 0
        await asyncio.gather(*(trial("crowd") for _ in range(4)))
        assert (queue.held("crowd"), queue.held("small")) == (0, 0)

    play(body)


def test_cancelled_in_the_moment_of_being_served_no_place_is_lost() -> None:
    async def body(loop: SimulatedTime) -> None:
        queue = FairQueue(1)
        await queue.acquire("a")
        waiting = [asyncio.ensure_future(queue.acquire("b")) for _ in range(3)]
        await asyncio.sleep(0)
        queue.release("a")  # serves the first
        waiting[0].cancel()
        waiting[1].cancel()
        await waiting[2]
        assert [task.cancelled() for task in waiting] == [True, True, False] and queue.held("b") == 1

    play(body)


def test_boxes_made_ahead_serve_one_trial_each_and_are_not_kept_for_ever() -> None:
    async def body(loop: SimulatedTime) -> None:
        cloud = Cloud()
        made = pool(cloud, loop, warm=2, max_idle=3)
        first = await made.start(request())
        await asyncio.sleep(5)
        began = loop.now
        second = await made.start(request(name="other name"))
        assert loop.now == began and (made.pool.hits, made.pool.misses) == (1, 1)
        await first.stop()
        await asyncio.sleep(5)
        next(iter(made._idle.values()))[0].sandbox.alive = False  # type: ignore[attr-defined]
        third = await made.start(request())
        assert made.pool.hits == 2 and made.pool.discarded == 1
        await asyncio.sleep(MAX_AGE_SEC + 5)
        fourth = await made.start(request())
        assert made.pool.hits == 2, "too old"
        await asyncio.sleep(5)
        for kind in (1, 2, 3):  # what nobody asks for makes room
            await (await made.start(request(kind))).stop()
            await asyncio.sleep(5)
        assert sum(map(len, made._idle.values())) <= 3
        different = SandboxRequest(name="trial", lower=Path("/tasks/3"), memory_mib=77)
        before = made.pool.misses
        await made.start(different)
        assert made.pool.misses == before + 1
        for box in (second, third, fourth):
            await box.stop()
            await box.stop()
        await made.close()
        assert not cloud.boxes

    play(body)


def test_what_cannot_be_made_ahead_is_told_to_the_trial_that_wants_it() -> None:
    async def body(loop: SimulatedTime) -> None:
        cloud = Cloud(failures=1.0)
        queue = FairQueue(1)
        made = pool(cloud, loop, queue=queue)
        for _ in range(3):
            with pytest.raises(TrialError, match="no node") as caught:
                await made.start(request())
            assert caught.value.termination is Termination.ENV_SETUP_FAILED
            await asyncio.sleep(5)
        assert queue.held("run") == 0 and made.pool.failed == 6
        starting = asyncio.ensure_future(made.start(request()))
        await asyncio.sleep(0.1)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert queue.held("run") == 0
        await made.close()
        assert not cloud.boxes

    play(body)


def test_the_settings_make_a_pool(tmp_path: Path) -> None:
    async def body() -> None:
        plain = make_provider(PlainProcess(), state=tmp_path)
        assert not isinstance(plain, PooledProvider)
        await plain.close()
        (tmp_path / "lower").mkdir()
        made = make_provider(PlainProcess(warm_sandboxes=1, max_sandboxes=1), state=tmp_path)
        assert (
            isinstance(made, PooledProvider)
            and made.capabilities.isolation == "none"
            and made.capabilities.how == "process"
        )
        box = await made.start(SandboxRequest(name="a", lower=tmp_path / "lower"))
        waiting = asyncio.ensure_future(made.start(SandboxRequest(name="b", lower=tmp_path / "lower")))
        assert (await box.exec(["echo", "a"], timeout_sec=20)).stdout == b"a\n"
        assert not waiting.done()
        await box.stop()
        assert (await (await waiting).exec(["echo", "b"], timeout_sec=20)).stdout == b"b\n"
        assert made.counts["hits"] + made.counts["misses"] == 2
        await made.close()

    asyncio.run(body())


RUN = """
import asyncio, sys, time
from pathlib import Path
from runtime.sandboxes.machine_semaphore import MachineSemaphore
async def main(folder, trials):
    places, taken = MachineSemaphore(Path(folder), 6), []
    async def trial(number):
        await places.acquire()
        taken.append(number)
        print(time.time(), "+", flush=True)
        await asyncio.sleep(0.15)
        print(time.time(), "-", flush=True)
        places.release()
    await asyncio.gather(*(trial(number) for number in range(int(trials))))
    assert taken == sorted(taken)
    places.close()
asyncio.run(main(*sys.argv[1:]))
"""


def test_runs_of_one_machine_share_its_places(tmp_path: Path) -> None:
    """A crowd that came first lets the second run have its half; a killed one leaves nothing behind."""

    def run(trials: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", RUN, str(tmp_path), str(trials)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3])

    dead, crowd = run(1000), run(120)
    assert dead.stdout is not None and dead.stdout.readline()
    dead.kill()
    dead.communicate()
    time.sleep(0.5)
    late = run(30)
    outputs = [process.communicate(timeout=60)[0] for process in (crowd, late)]
    assert crowd.returncode == late.returncode == 0
    events = [[(float(when), what) for when, what in map(str.split, text.splitlines())] for text in outputs]
    assert [len(one) for one in events] == [240, 60]
    together = most = 0
    for _, what in sorted(event for one in events for event in one):
        together += 1 if what == "+" else -1
        most = max(most, together)
    assert 3 <= most <= 6
    assert events[1][-1][0] < events[0][-1][0], "who came first was served first, all of it"
    assert [path.name for path in (tmp_path / "6").glob("run-*")] == []


def test_who_waits_for_a_place_is_told_how_long() -> None:
    """Apart from the box's own start, and to the one who waited alone."""

    async def body(loop: SimulatedTime) -> None:
        made = pool(Cloud(), loop, warm=0, queue=FairQueue(1))
        waits: dict[str, float] = {}

        async def one(name: str) -> None:
            with waiting_measured() as waited:
                box = await made.start(request(name=name))
            waits[name] = waited.seconds
            await asyncio.sleep(100)
            await box.stop()

        await asyncio.gather(one("first"), one("second"))
        assert waits["first"] == 0 and 100 < waits["second"] < 103
        await made.close()

    play(body)
