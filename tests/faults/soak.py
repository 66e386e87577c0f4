"""A long run with random faults: training as in ``training.py``, whose trials are real.

Real are, beside what is real there: trials in bubblewrap boxes, an agent's process, proxy, verifier and its script, the
pool of replicas and its health checks, replicas that are processes behind sockets (``replica_program.py``), the bell
and threads. The trainer is a child of this process, which injects faults as trials go by, and after each end of the
child does what the launcher does. Which fault comes when is drawn from a seed; what it meets is the machine's affair.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import faulthandler
import json
import logging
import os
import random
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from runtime import processes
from runtime.agent_loop.groups import GroupRunner
from runtime.agent_loop.services import open_services
from runtime.agent_loop.trial import TrialRunner
from runtime.agent_loop.trial_bytes import from_bytes
from runtime.agent_loop.types import TrialKey, TrialResult
from runtime.errors import HANDLING, RunError
from runtime.proxy.codec import ChatCodec, load_codec
from runtime.proxy.messages import Message
from runtime.rollouter import buffer as buffer_module
from runtime.rollouter.balanced import HealthChecks
from runtime.rollouter.engine import WeightIdentity
from runtime.rollouter.pool import ReplicaPool
from runtime.rollouter.record_log import read_records
from runtime.run_paths import ATTEMPT, RunPaths
from runtime.sandboxes.state import OWNER_VARIABLE
from runtime.task import Task
from runtime.trainer import process, stable
from runtime.trainer.cuda.engine import GatedEngine
from runtime.trainer.environment import ray_dir
from tests.faults.replica_program import SCALE, Life
from tests.faults.training import FAILED, HALTED, Plan, Players, Queue, Training, Witness, check, parts
from tests.runtime.agent_loop.conftest import make_config

REPLICAS = 3
CHECKS = HealthChecks(interval_sec=0.3, timeout_sec=1.0, misses=2, patience_sec=3.5)
BREAKER = {"breaker_pause_sec": 0.06, "breaker_longest_pause_sec": 1.8}
"""A seventeenth of a run's times, as the agent's are less than a hundredth."""
_SYNC_SEC = 20.0
_PATIENCE_SEC = 60.0
"""Without a word of the trainer, before it counts as stalled."""
log = logging.getLogger(__name__)


def post(port: int, path: str, *, timeout_sec: float = 1.0, **body: Any) -> bool:
    """Whether the replica took it."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(), method="POST")
    try:
        with urllib.request.urlopen(request, timeout=timeout_sec):
            return True
    except OSError:
        return False


class LockedQueue(Queue):
    """For the trainer's thread and the agent loop's. Of a trajectory it keeps the numbers of its tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.RLock()

    def kv_list(self, partition: str | None = None) -> dict[str, Any]:
        with self.lock:
            return super().kv_list(partition)

    def kv_clear(self, *, partition_id: str, keys: Sequence[str]) -> None:
        with self.lock:
            super().kv_clear(partition_id=partition_id, keys=keys)

    def put(self, key: str, tag: Mapping[str, Any], row: Any = None) -> None:
        with self.lock:
            super().put(key, tag, row)

    async def async_kv_batch_put(self, *, keys: Any, partition_id: str, fields: Any, tags: Any) -> None:
        for key, row, tag in zip(keys, fields, tags, strict=True):
            mine = zip(row["rollout_log_probs"].tolist(), row["response_mask"].tolist(), strict=True)
            words = [round(-logprob * SCALE) for logprob, mask in mine if mask]
            span = [tag["min_global_steps"], tag["max_global_steps"]]
            self.put(key, tag, {"words": words, "span": span, "reward": float(row["rm_scores"].sum())})

    def groups(self, *states: str) -> list[str]:
        with self.lock:
            return super().groups(*states)

    def saved(self) -> str:
        with self.lock:
            return super().saved()


class RealPlayers(Players):
    """In the place of ``ThisProcess``: the same, and every result is looked at."""

    def __init__(self, training: SoakTraining, runner: TrialRunner) -> None:
        super().__init__(training)
        self._runner = runner

    async def run(self, task: Task, *, key: TrialKey, temperature: float, queued: float = 0.0) -> TrialResult:
        result = await self._runner.run(task, key=key, temperature=temperature, queued=queued)
        self._training.tell(say="played", end=result.termination.value, error=(result.error or "")[:300])
        for wrong in wrongs(result):
            self._training.tell(say="wrong", what=f"{result.key.trial_id}: {wrong}")
        return result


def wrongs(result: TrialResult) -> list[str]:
    """What must not be so of a trial, whatever befell it."""
    graded, fate = result.verdict != "no-grade", result.accounting
    found = []
    if (result.reward is not None) != graded:
        found.append(f"reward {result.reward} with verdict {result.verdict}")
    if graded and not HANDLING[result.termination].grade:
        found.append(f"graded after {result.termination}")
    if fate.trained + fate.discarded + fate.auxiliary + fate.lost != fate.sampled:
        found.append(f"tokens do not add up: {fate}")
    for sample in result.samples:
        versions = [one for one, mask in zip(sample.weight_versions, sample.response_mask, strict=True) if mask]
        if versions != sorted(versions):
            found.append(f"versions go back: {versions}")
    return found


class SoakTraining(Training):
    """One start. ``ports``: of the replicas. ``enough``: a file; once it is there the run ends with its next step. The
    plan saves after each."""

    def __init__(self, *args: Any, ports: Sequence[int], tokenizer: Path, enough: Path, **named: Any) -> None:
        self._enough = enough
        self._ports, self._tokenizer = ports, tokenizer
        self._stack = AsyncExitStack()
        super().__init__(*args, **named)

    def run(self) -> dict[str, Any]:
        self._push(self.version)
        self.tell(say="ready")
        state = super().run()
        asyncio.run_coroutine_threadsafe(self._close(), self.loop).result(60)
        return state

    # -- threads

    def _place_process(self) -> None:
        os.environ |= {processes.MARK: str(self.paths.path), ATTEMPT: str(self.start)}
        os.environ["TMPDIR"] = str(ray_dir(self.paths.path) / "tmp")
        tempfile.tempdir = None
        threading.Thread(target=self._serve, daemon=True, name="agent-loop").start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def _begin(self, rows: list[dict[str, Any]]) -> None:
        self.loop.call_soon_threadsafe(self._manager._start, rows, False)

    def _make_queue(self) -> Queue:
        return LockedQueue()

    def _number(self, result: TrialResult) -> int:
        return number_of(result)

    def _make_manager(self) -> Any:
        manager = super()._make_manager()
        asyncio.run_coroutine_threadsafe(self._open(manager), self.loop).result(60)
        return manager

    async def _open(self, manager: Any) -> None:
        config = make_config(
            environment={"type": "bubblewrap", "agent_timeout_sec": 6.0, "verifier_timeout_sec": 3.0},
            attempts=2,
            spare_trials=0,
        )
        engines = {f"r{number}": GatedEngine(f"http://127.0.0.1:{port}") for number, port in enumerate(self._ports)}
        self._pool = ReplicaPool(engines, config=BREAKER, checks=CHECKS)
        services = await self._stack.enter_async_context(
            open_services(config, engine=self._pool, model_folder=self._tokenizer, state=self.paths.state)
        )
        players = manager._players = RealPlayers(self, TrialRunner(services, config, trials=self.paths.trials))
        manager._config = config
        manager._groups = GroupRunner(players, concurrency=6, deadline_sec=lambda _: 30.0, keeper=self.ledger)

    async def _close(self) -> None:
        left = list(self._manager._background)
        for one in left:
            one.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        in_flight = self._pool.status()["total_inflight"]
        await self._stack.aclose()
        await self._pool.close()
        self.tell(say="closed", in_flight=in_flight, boxes=[one.name for one in self.paths.state.rglob("box-*")])

    # -- the trainer

    def _train(self, batch: Any) -> None:
        self.tell(say="phase", name="train", step=self.step)
        for key in batch.keys:
            uid, index, _ = key.split("_")
            row = self.queue.rows[key]
            self.state["trained"].append({"step": self.step, "uid": uid, "index": int(index), **row})
        self.policies[self.step] = self.start * 100 + self.step
        self.state |= {"step": self.step, "policies": {str(one): name for one, name in self.policies.items()}}

    def _save(self) -> None:
        if self._enough.exists():  # then this step is the last one
            self.plan = replace(self.plan, steps=self.step)
        self.tell(say="phase", name="save", step=self.step)
        super()._save()
        self.tell(say="phase", name="saved", step=self.step)

    def _sync(self) -> None:
        self.tell(say="phase", name="sync", step=self.step)
        super()._sync()
        self._push(self.version)

    def _push(self, version: int) -> None:
        """Weights to every replica that takes them; without one nothing goes on."""
        policy = self.policies[version]
        expected = WeightIdentity(version, str(policy))
        deadline = time.monotonic() + _SYNC_SEC
        while True:
            took = sum(post(port, "/load", version=version, policy=policy) for port in self._ports)
            asyncio.run_coroutine_threadsafe(self._pool.verify(expected), self.loop).result(_SYNC_SEC)
            if took and self._pool.status()["health"]:
                return
            if time.monotonic() > deadline:
                raise RunError(f"NoReplica: none took version {version}")
            time.sleep(0.1)


@dataclass
class Replicas:
    """The processes behind ``ports``."""

    folder: Path
    codec: ChatCodec
    ports: list[int] = field(default_factory=list)
    _lives: int = 0
    _running: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    def open(self) -> None:
        taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(REPLICAS)]
        self.ports = [one.getsockname()[1] for one in taken]
        for one in taken:
            one.close()
        encode = self.codec.tokens.encode
        self._words = {
            word: [[*encode(word[:cut]), *encode(word[cut:])] for cut in (0, 1, 2)]
            for word in ("look", "SOLVE", "BREAK", "CRASH")
        }
        first = self.codec.render_first([Message("user", "Repair calc.add.")], []).encode()
        self._first_ends = first.count(self.codec.stop_token_ids[0])
        for number in range(REPLICAS):
            self.start(number)

    @property
    def log(self) -> Path:
        return self.folder / "said.jsonl"

    def start(self, number: int) -> None:
        self._lives += 1
        life = Life(
            port=self.ports[number],
            log=str(self.log),
            words=self._words,
            end=self.codec.stop_token_ids[0],
            first_ends=self._first_ends,
            numbered=self._lives * 100_000,
            parent=os.getpid(),
        )
        program = [sys.executable, "-P", "-m", "tests.faults.replica_program", json.dumps(asdict(life))]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        with (self.folder / "replicas.log").open("ab") as stderr:
            self._running[number] = subprocess.Popen(program, env=environment, stderr=stderr)

    def signal(self, number: int, which: signal.Signals) -> None:
        self._running[number].send_signal(which)

    def kill(self, number: int) -> None:
        self._running[number].kill()
        self._running[number].wait()

    def close(self) -> None:
        for one in self._running.values():
            one.kill()
            one.wait()

    def said(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_bytes().splitlines()]


@dataclass
class Soak:
    """``trials``: so many are played, and those that the last step needs besides. ``every``: between two faults, at
    most. ``most``: faults, at most. ``kinds``: of faults, with their
    weights. ``deadline_sec``: from the end of a trial to the next one's; how long all take is the machine's affair."""

    plan: Plan
    folder: Path
    tokenizer: Path
    tasks: Sequence[Task]
    trials: int
    every: int
    kinds: Mapping[str, int]
    most: int = 1 << 30
    seed: int = 0
    deadline_sec: float = 170.0
    witness: Witness = field(default_factory=Witness)
    injected: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    causes: Counter[str] = field(default_factory=Counter)
    """Why calls failed for good, without numbers."""
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._dice = random.Random(self.seed)
        self._replicas = Replicas(self.folder, load_codec(self.tokenizer, "hermes"))
        self._later: list[tuple[float, Any]] = []
        self._began = self._moved = time.monotonic()
        self._next = self._dice.randint(1, self.every)
        self.played = 0
        self._kill_at = ""
        self._damages: list[str] = []
        self._filled = False

    def run(self) -> None:
        parts()
        run = self.folder / "run"
        run.mkdir(parents=True)
        if "full" in self.kinds:
            mount(run)
        self._replicas.open()
        try:
            while True:
                code, pid = self._start(run)
                self._left(pid)
                if code == 0:
                    break
                if code not in (FAILED if self._filled else HALTED, HALTED, -signal.SIGKILL):
                    raise AssertionError(
                        f"a start ended with exit code {code}: {self.witness.errors[-1:]}\n{self._tail()}"
                    )
                for damage in self._damages:
                    self._damage(RunPaths(run), damage)
        finally:
            self._replicas.close()
            process.clear(run)
            if "full" in self.kinds:
                subprocess.run(["umount", str(run)], check=True)

    # -- one start

    def _start(self, run: Path) -> tuple[int, int]:
        process.make_scratch(RunPaths(run))
        hear, say = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(hear)
            self._child(run, say)
        os.close(say)
        self.witness.starts += 1
        self._kill_at, self._damages, self._filled = "", [], False
        try:
            code = self._watch(child, hear)
        finally:
            os.close(hear)
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            for when, what in self._later:
                del when
                what()
            self._later.clear()
            process.clear(run)
        return code, child

    def _child(self, run: Path, say: int) -> None:
        def tell(**what: Any) -> None:
            os.write(say, json.dumps(what).encode() + b"\n")

        code = 1
        try:
            stream = (self.folder / "trainer.log").open("a", buffering=1)
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
            faulthandler.enable(stream)
            logging.basicConfig(stream=stream, level=logging.INFO, force=True)
            before = set(sys.modules)
            training = SoakTraining(
                self.plan,
                run,
                start=self.witness.starts,
                tasks=self.tasks,
                tell=tell,
                ports=self._replicas.ports,
                tokenizer=self.tokenizer,
                enough=self.folder / "enough",
            )
            signal.signal(signal.SIGUSR1, lambda *_: _dump(training.loop, stream))
            state = training.run()
            print("NEW MODULES", sorted(set(sys.modules) - before), flush=True)
            tell(say="end", state=state)
            code = 0
        except RunError as error:
            tell(say="error", what=str(error))
            code = HALTED
        except BaseException as error:
            code = FAILED if isinstance(error, OSError) and error.errno == errno.ENOSPC else 1
            tell(say="error", what="".join(traceback.format_exception(error)[-6:]))
        finally:
            os._exit(code)

    def _watch(self, child: int, hear: int) -> int:
        left, heard = b"", time.monotonic()
        while True:
            ready, _, _ = select.select([hear], [], [], 0.02)
            if ready:
                block = os.read(hear, 1 << 16)
                *lines, left = (left + block).split(b"\n")
                heard = time.monotonic() if lines else heard
                for line in lines:
                    self._hear(json.loads(line), child)
                if not block:
                    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            now = time.monotonic()
            for one in [one for one in self._later if one[0] <= now]:
                self._later.remove(one)
                one[1]()
            if now - heard > _PATIENCE_SEC or now - self._moved > self.deadline_sec:
                os.kill(child, signal.SIGUSR1)
                time.sleep(1.0)
                raise AssertionError(f"nothing moves: {self.report()}\n{self._tail()}")

    def _hear(self, one: dict[str, Any], child: int) -> None:
        match one["say"]:
            case "end":
                self.witness.end = one["state"]
            case "error":
                self.witness.errors.append(one["what"])
                log.warning("%s", one["what"])
            case "wrong":
                self.wrong.append(one["what"])
            case "closed":
                if one["in_flight"] or one["boxes"]:
                    self.wrong.append(f"at the end {one}")
            case "phase":
                if self._kill_at == one["name"]:
                    self._kill_at = ""
                    time.sleep(self._dice.choice((0.0, 0.001, 0.005)))
                    os.kill(child, signal.SIGKILL)
            case "played":
                self.played += 1
                self._moved = time.monotonic()
                self.ends[one["end"]] += 1
                if one["end"] == "model_unavailable":
                    self.causes[re.sub(r"[0-9.:/]+", "", one["error"])[:160]] += 1
                if self.played == self.trials:
                    (self.folder / "enough").touch()
                if self.played >= self._next and self.injected.total() < self.most:
                    self._next = self.played + self._dice.randint(1, self.every)
                    (kind,) = self._dice.choices([*self.kinds], [*self.kinds.values()])
                    self._inject(kind, child)
            case _:
                self.witness.said.append(one)

    # -- faults

    def _inject(self, kind: str, child: int) -> None:
        self.injected[kind] += 1
        log.info("after %d trials: %s", self.played, kind)
        number = self._dice.randrange(REPLICAS)
        match kind:
            case "kill":
                os.kill(child, signal.SIGKILL)
            case "train" | "save" | "saved" | "sync":
                self._kill_at = kind
            case "replica":
                self._replicas.kill(number)
                self._after(self._dice.uniform(0.1, 1.0), lambda: self._replicas.start(number))
            case "stopped":
                self._replicas.signal(number, signal.SIGSTOP)
                self._after(self._dice.uniform(0.5, 4.0), lambda: self._replicas.signal(number, signal.SIGCONT))
            case "tail" | "checkpoint":
                self._damages.append(kind)
                os.kill(child, signal.SIGKILL)
            case "box" | "hung":
                if boxes := owned(child):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(self._dice.choice(boxes), signal.SIGKILL if kind == "box" else signal.SIGSTOP)
            case "full":
                self._filled = True
                ballast = self.folder / "run" / "ballast"
                fill(ballast)
                self._after(self._dice.uniform(0.5, 2.0), lambda: ballast.unlink(missing_ok=True))
            case "500" | "429":
                for port in self._replicas.ports:
                    post(port, "/fail", status=int(kind), count=self._dice.randint(1, 6))

    def _after(self, seconds: float, what: Any) -> None:
        self._later.append((time.monotonic() + seconds, what))

    def _damage(self, run: RunPaths, kind: str) -> None:
        """Between two starts: the journal's newest bytes, or the newest checkpoint where there is another."""
        if kind == "checkpoint":
            steps = stable.stable_steps(run.checkpoints)
            if len(steps) > 1:
                os.truncate(stable.step_folder(run.checkpoints, steps[-1]) / "actor" / "model.pt", 1)
            return
        if not (journal := run.groups_journal).exists():
            return
        before = list(read_records(journal))
        os.truncate(journal, max(0, journal.stat().st_size - self._dice.randint(1, 40)))
        for record in before[len(list(read_records(journal))) :]:
            meta, size = buffer_module._unpack(record)
            if meta["do"] == "put":
                result = from_bytes(record[len(record) - size :])
                if result.samples:
                    self.witness.taken_by_disk.add(number_of(result))

    # -- what must hold

    def _left(self, pid: int) -> None:
        """Of a trainer that is gone, after the launcher has cleared up."""
        name = f"owner-{pid}-"
        found = [f"process {one}" for one in owned(pid)]
        groups = (f"{at}/{one}" for at, folders, _ in os.walk("/sys/fs/cgroup") for one in folders)
        found += [group for group in groups if Path(group).name.startswith(f"liverl-{name}")]
        found += [
            line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"{self.folder}/run/" in line
        ]
        run = RunPaths(self.folder / "run")
        found += [str(path) for path in (run.state, ray_dir(run.path)) if path.exists()]
        if found:
            self.wrong.append(f"start {self.witness.starts} left {found}")

    def check(self) -> None:
        assert not self.wrong, self.wrong
        said = {one["first"] + place: one for one in self._replicas.said() for place in range(one["count"])}
        solved = {one["session"] for one in said.values() if one["word"] == "SOLVE"}
        trained = [dict(one) for one in self.witness.end["trained"]]
        for one in trained:
            tokens = [said[number] for number in one["words"]]
            sessions = {token["session"] for token in tokens}
            assert len(sessions) == 1, f"{one}: tokens of several sessions"
            versions = [token["version"] for token in tokens]
            assert one["span"] == [min(versions), max(versions)], f"{one}: sampled by versions {versions}"
            assert one["reward"] in (0.0, 1.0) and (one["reward"] == 0.0 or sessions <= solved), one
            one["words"] = [one["words"][0], *(token["policy"] for token in tokens)]
        plan = replace(self.plan, steps=self.witness.end["step"])
        check(plan, replace(self.witness, end={**self.witness.end, "trained": trained}))

    def report(self) -> str:
        seconds = time.monotonic() - self._began
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = used.ru_utime + used.ru_stime + time.process_time()
        errors = [one.splitlines()[-1][:200] for one in self.witness.errors]
        return (
            f"{self.played} trials in {seconds:.0f} s ({cpu:.0f} of the processor), {self.witness.starts} starts, "
            f"faults {dict(self.injected)}, ends {dict(self.ends)}, causes {dict(self.causes)}, errors {errors}"
        )

    def _tail(self) -> str:
        return (self.folder / "trainer.log").read_text()[-20000:]


def number_of(result: TrialResult) -> int:
    """Of its first token."""
    sample = result.samples[0]
    mine = zip(sample.response_logprobs, sample.response_mask, strict=True)
    return next(round(-logprob * SCALE) for logprob, mask in mine if mask)


def owned(pid: int) -> list[int]:
    """Processes of the sandboxes of this trainer."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{OWNER_VARIABLE}=owner-{pid}-".encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return sorted(found)


def why_no_disk(folder: Path) -> str | None:
    """Why no small disk can be had here."""
    try:
        mount(folder)
    except (OSError, subprocess.CalledProcessError) as error:
        return str(error)
    subprocess.run(["umount", str(folder)], check=True)
    return None


def mount(folder: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128m", "soak", str(folder)], check=True, capture_output=True)


def fill(ballast: Path) -> None:
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as stream:
        while stream.write(bytes(1 << 20)) == 1 << 20:
            pass
        while stream.write(bytes(1 << 12)):
            pass


def _dump(loop: asyncio.AbstractEventLoop, stream: Any) -> None:
    faulthandler.dump_traceback(stream, all_threads=True)
    for task in asyncio.all_tasks(loop):
        task.print_stack(limit=6, file=stream)
