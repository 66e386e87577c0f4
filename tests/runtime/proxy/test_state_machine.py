"""The six invariants under agents that misbehave in every listed way, over the real HTTP server.

A rule is one thing that agents do: go on, ask again, repeat with and without saying so, edit, drop and reorder history,
run sub-agents, compact, ask for titles, leave before or while the reply is sent, send what is no request. After each
rule everything that the proxy has kept is compared with what the engine saw.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Coroutine
from typing import Any, ClassVar

import aiohttp
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from runtime.config import Proxy
from runtime.errors import Termination, TrialError
from runtime.proxy.codec import ChatCodec
from runtime.proxy.server import ProxyServer
from runtime.proxy.types import SessionLimits
from tests.runtime.proxy import proofs
from tests.runtime.proxy.driver import TOOL
from tests.runtime.proxy.misbehaving import MALFORMED, OTHER, PATHS, REPLIES, TEXTS, Talk
from tests.runtime.proxy.scripted_engine import Call, MixtureEngine, aligned

LIMITS = SessionLimits(prompt_length=900, response_length=700, max_tokens_per_turn=80)


class World:
    """One proxy and its engine for all examples of a test; each example has a session of its own."""

    def __init__(self, codec: ChatCodec) -> None:
        self.runner = asyncio.Runner()
        self.engine = MixtureEngine(codec, self._next)
        self.server = ProxyServer(Proxy(), codec, self.engine, operator_key="operator")
        self.plan: list[Any] = []
        self.examples = 0
        self.metrics: dict[str, int] = {}
        self.do(self.server.start())
        self.client = self.do(self._client())

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    async def _client(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession()

    def _next(self, call: Call) -> Any:
        """What the engine does next: a text, a ready generation, an error to raise, or to wait for ever."""
        what = self.plan.pop(0) if self.plan else "So."
        return asyncio.Event().wait() if what == "hang" else what

    def close(self) -> None:
        self.do(self.client.close())
        self.do(self.server.close())
        self.runner.close()


class MisbehavingAgents(RuleBasedStateMachine):
    """``talks`` are the conversations of one session; a rule names one by a number."""

    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        world = self.world
        world.examples += 1
        world.plan.clear()
        world.engine.calls.clear()
        self.id = f"run.{world.examples}"
        self.session = world.server.open_session(self.id, LIMITS)
        self.url = f"http://{world.server.host}:{world.server.port}{self.session.base_path}"
        self.talks = [
            Talk("openai", [{"role": "system", "content": "Be good."}, {"role": "user", "content": "Fix <|im_end|>"}]),
            Talk("anthropic", [{"role": "user", "content": "Fix it."}]),
        ]
        self.refused = 0
        self.proved = 0

    # -- what agents do

    @rule(
        talk=st.integers(0, 9), reply=st.sampled_from(REPLIES), text=st.sampled_from(TEXTS), spelling=st.integers(0, 3)
    )
    def goes_on(self, talk: int, reply: str, text: str, spelling: int) -> None:
        chosen = self._talk(talk)
        self._hear(chosen, self._answer(chosen, reply), text, spelling)

    @rule(talk=st.integers(0, 9), replies=st.lists(st.sampled_from(REPLIES), min_size=2, max_size=3))
    def asks_again_without_saying_so(self, talk: int, replies: list[str]) -> None:
        """An equal request is a new sample; the agent takes the last one."""
        chosen = self._talk(talk)
        answers = [self._answer(chosen, reply) for reply in replies]
        self._hear(chosen, answers[-1], "go", 0)

    @rule(talk=st.integers(0, 9), reply=st.sampled_from(REPLIES))
    def repeats_a_request(self, talk: int, reply: str) -> None:
        """The client library says so: the stored reply comes again and nothing is sampled."""
        chosen = self._talk(talk)
        first = self._answer(chosen, reply)
        calls = len(self.world.engine.calls)
        again = self._post(chosen, x_stainless_retry_count="1")
        if first is not None:
            assert again[0] == 200 and _said(again[1]) == _said(first)
            assert len(self.world.engine.calls) == calls
        self._hear(chosen, first, "go", 0)

    @rule(talk=st.integers(0, 9), reply=st.sampled_from(REPLIES), marked=st.booleans())
    def sends_a_request_twice_at_once(self, talk: int, reply: str, marked: bool) -> None:
        chosen = self._talk(talk)
        self.world.plan[:] = [reply, reply]
        headers = {"x-stainless-retry-count": "1"} if marked else {}
        first, second = self.world.do(self._both((chosen, {}), (chosen, headers)))
        assert first[0] == second[0]
        self._hear(chosen, first[1] if first[0] == 200 else None, "go", 0)

    @rule(talk=st.integers(0, 9), position=st.integers(0, 20), text=st.sampled_from(TEXTS))
    def edits_the_past(self, talk: int, position: int, text: str) -> None:
        self._talk(talk).edit(position, text)

    @rule(talk=st.integers(0, 9), position=st.integers(0, 20))
    def drops_a_message(self, talk: int, position: int) -> None:
        self._talk(talk).drop(position)

    @rule(talk=st.integers(0, 9), position=st.integers(0, 20))
    def reorders_messages(self, talk: int, position: int) -> None:
        self._talk(talk).reorder(position)

    @rule(talk=st.integers(0, 9))
    def rolls_back(self, talk: int) -> None:
        self._talk(talk).roll_back()

    @rule(talk=st.integers(0, 9), text=st.sampled_from(TEXTS))
    def compacts(self, talk: int, text: str) -> None:
        self._talk(talk).compact(text)

    @rule(talk=st.integers(0, 9))
    def forks(self, talk: int) -> None:
        """A second agent goes on from the same history."""
        if len(self.talks) < 5:
            chosen = self._talk(talk)
            self.talks.append(Talk(chosen.dialect, [*chosen.messages], chosen.tools))

    @rule(talk=st.integers(0, 9), replies=st.tuples(st.sampled_from(REPLIES), st.sampled_from(REPLIES)))
    def runs_a_sub_agent(self, talk: int, replies: tuple[str, str]) -> None:
        """On the same key, at the same time."""
        chosen = self._talk(talk)
        sub = Talk(chosen.dialect, [{"role": "user", "content": f"sub task {len(self.talks)}"}], [OTHER])
        self.world.plan[:] = list(replies)
        main, _ = self.world.do(self._both((chosen, {}), (sub, {})))
        self._hear(chosen, main[1] if main[0] == 200 else None, "go", 0)

    @rule(talk=st.integers(0, 9))
    def gets_other_tools(self, talk: int) -> None:
        chosen = self._talk(talk)
        chosen.tools = [TOOL] if len(chosen.tools) == 2 else [TOOL, OTHER]

    @rule(talk=st.integers(0, 9), tokens=st.sampled_from([1, 300]))
    def asks_for_a_title(self, talk: int, tokens: int) -> None:
        side = Talk(self._talk(talk).dialect, [{"role": "user", "content": "A title, please"}], [])
        self._answer(side, "A title", max_tokens=tokens)

    @rule(talk=st.integers(0, 9), reply=st.sampled_from(REPLIES))
    def counts_tokens(self, talk: int, reply: str) -> None:
        chosen = self._talk(talk)
        if chosen.dialect == "anthropic":
            turns = len(self.session.trajectory().turns)
            status, counted = self.world.do(self._send("/v1/messages/count_tokens", json.dumps(chosen.body()).encode()))
            assert len(self.session.trajectory().turns) == turns
            answer = self._answer(chosen, reply)
            if answer is not None:
                assert status == 200
                assert json.loads(counted)["input_tokens"] == len(self.world.engine.calls[-1].prompt_ids)
            self._hear(chosen, answer, "go", 0)

    @rule(talk=st.integers(0, 9), reply=st.sampled_from(REPLIES), stop=st.sampled_from(["o", "long text long", "none"]))
    def stops_at_a_text(self, talk: int, reply: str, stop: str) -> None:
        chosen = self._talk(talk)
        key = "stop" if chosen.dialect == "openai" else "stop_sequences"
        self._hear(chosen, self._answer(chosen, reply, **{key: [stop]}), "go", 0)

    @rule(talk=st.integers(0, 9))
    def leaves_while_the_engine_works(self, talk: int) -> None:
        chosen = self._talk(talk)
        self.world.plan[:] = ["hang"]
        self.world.do(self._leave(chosen))
        self.world.plan.clear()

    @rule(talk=st.integers(0, 9), reply=st.sampled_from(REPLIES))
    def leaves_while_the_reply_is_sent(self, talk: int, reply: str) -> None:
        """It reads the head of a stream and no more; whether it had the rest is not known."""
        self.world.plan[:] = [reply]
        self.world.do(self._peek(self._talk(talk)))

    @rule(talk=st.integers(0, 9), reply=st.sampled_from(REPLIES), has_it=st.booleans())
    def loses_a_reply(self, talk: int, reply: str, has_it: bool) -> None:
        """The connection broke when all was written: whether the agent has it shows in whether it goes on."""
        chosen = self._talk(talk)
        answer = self._answer(chosen, reply)
        if answer is not None:
            self.session.undelivered(self.session._exchanges[-1].work.result())
            if has_it:
                self._hear(chosen, answer, "go", 0)

    @rule(body=st.sampled_from(MALFORMED))
    def sends_what_is_no_request(self, body: tuple[str, bytes]) -> None:
        dialect, raw = body
        calls = len(self.world.engine.calls)
        status, _ = self.world.do(self._send(PATHS[dialect], raw))
        assert 400 <= status < 500, raw
        assert len(self.world.engine.calls) == calls

    @rule(talk=st.integers(0, 9))
    def has_no_key(self, talk: int) -> None:
        calls = len(self.world.engine.calls)
        status, _ = self._post(self._talk(talk), x_api_key="guessed")
        assert (status, len(self.world.engine.calls)) == (401, calls)

    # -- what happens to the engine

    @rule(talk=st.integers(0, 9), fault=st.sampled_from(["gone", "bug", "sentinel"]))
    def the_engine_fails(self, talk: int, fault: str) -> None:
        chosen = self._talk(talk)
        faults: dict[str, Any] = {
            "gone": TrialError(Termination.MODEL_UNAVAILABLE, "no replica"),
            "bug": RuntimeError("a bug"),
        }
        if fault == "sentinel":
            generation = self.world.engine.generation(self.world.engine.split("odd"), "length")
            generation.logprobs[-1] = -9999.0  # type: ignore[index]
            faults[fault] = generation
        self._hear(chosen, self._answer(chosen, faults[fault]), "go", 0)

    @rule(talk=st.integers(0, 9))
    def the_weights_change_in_mid_turn(self, talk: int) -> None:
        engine, chosen = self.world.engine, self._talk(talk)
        half = engine.generation(engine.split("Half"), "abort")
        engine.version += 1
        self.world.plan[:] = [half]
        self._hear(chosen, self._answer(chosen, half, "of it."), "go", 0)

    # -- what must hold

    @invariant()
    def what_was_kept_is_what_the_engine_saw(self) -> None:
        session, calls = self.session, self.world.engine.calls
        forest = session._forest
        for node in forest.nodes[self.proved :]:
            proofs.engine_saw_the_path(node, calls)
        self.proved = len(forest.nodes)
        trajectory = session.trajectory()
        trained = proofs.samples_are_sound(trajectory.samples, forest)
        sampled = sum(len(call.generation.token_ids) for call in calls if call.generation is not None)
        proofs.tokens_add_up(trajectory, trained, sampled)

    def teardown(self) -> None:
        world = self.world
        # Branches, lost replies, stop texts and resumption: each token has its own row, of its own path.
        assert all(aligned(sample) for sample in self.session.trajectory().samples)
        proofs.order_does_not_matter(self.session._forest, len(self.session._forest.nodes))
        accounting = world.do(world.server.close_session(self.id)).accounting
        before, world.metrics = world.metrics, self._metrics()
        for fate in ("sampled", "trained", "discarded", "auxiliary", "lost"):
            assert world.metrics[fate] - before.get(fate, 0) == getattr(accounting, fate)

    # -- over the wire

    def _talk(self, number: int) -> Talk:
        return self.talks[number % len(self.talks)]

    def _answer(self, talk: Talk, *plan: Any, **more: Any) -> bytes | None:
        """The reply's body, or None when the request was refused, which begins the conversation anew."""
        self.world.plan[:] = plan
        calls = len(self.world.engine.calls)
        status, answer = self._post(talk, body=talk.body(**more))
        self.world.plan.clear()
        assert status in (200, 400, 503), answer
        if len(self.world.engine.calls) > calls:
            prompt, position = self.world.engine.codec.tokens.decode(self.world.engine.calls[calls].prompt_ids), 0
            for text in talk.own_texts():
                position = prompt.index(text, position) + len(text)
        return answer if status == 200 else None

    def _hear(self, talk: Talk, answer: bytes | None, text: str, spelling: int) -> None:
        if answer is None:
            self.refused += 1
            talk.compact(str(self.refused))
        else:
            talk.hear(answer, text, spelling)

    def _post(self, talk: Talk, *, body: dict[str, Any] | None = None, **headers: str) -> tuple[int, bytes]:
        raw = json.dumps(talk.body() if body is None else body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer: tuple[int, bytes] = self.world.do(self._send(PATHS[talk.dialect], raw, named))
        return answer

    def _headers(self, more: dict[str, str] | None = None) -> dict[str, str]:
        return {"x-api-key": self.session.secret, "content-type": "application/json", **(more or {})}

    async def _send(self, path: str, raw: bytes, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        async with self.world.client.post(self.url + path, data=raw, headers=self._headers(headers)) as response:
            return response.status, await response.read()

    async def _both(self, *requests: tuple[Talk, dict[str, str]]) -> Any:
        return await asyncio.gather(
            *(self._send(PATHS[talk.dialect], json.dumps(talk.body()).encode(), more) for talk, more in requests)
        )

    async def _leave(self, talk: Talk) -> None:
        engine = self.world.engine
        calls, cancelled = len(engine.calls), engine.cancelled
        work = asyncio.ensure_future(self._send(PATHS[talk.dialect], json.dumps(talk.body()).encode()))
        while len(engine.calls) == calls and not work.done():
            await asyncio.sleep(0)
        work.cancel()
        await asyncio.wait([work])
        while engine.cancelled == cancelled and len(engine.calls) > calls:
            await asyncio.sleep(0)

    async def _peek(self, talk: Talk) -> None:
        raw = json.dumps(talk.body(stream=True)).encode()
        with contextlib.suppress(aiohttp.ClientError):
            response = await self.world.client.post(self.url + PATHS[talk.dialect], data=raw, headers=self._headers())
            response.close()
        while self.world.server.metrics.in_flight:
            await asyncio.sleep(0)

    def _metrics(self) -> dict[str, int]:
        async def read() -> str:
            url = f"http://{self.world.server.host}:{self.world.server.port}/metrics"
            async with self.world.client.get(url, headers={"x-api-key": "operator"}) as response:
                return await response.text()

        text = self.world.do(read())
        return {fate: int(count) for fate, count in re.findall(r'tokens_total\{fate="(\w+)"\} (\d+)', text)}


def _said(answer: bytes) -> Any:
    body = json.loads(answer)
    return body.get("choices") or body.get("content")


def _run(codec: ChatCodec, *, examples: int, steps: int, shrink: bool) -> None:
    world = World(codec)
    try:
        machine = type("Machine", (MisbehavingAgents,), {"world": world})
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                # Shrinking a history of fifty steps takes longer than reading it.
                phases=[phase for phase in Phase if phase not in (Phase.shrink, Phase.explain) or shrink],
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        world.close()


def test_invariants_hold_whatever_agents_do(codecs: dict[str, ChatCodec]) -> None:
    _run(codecs["chatml"], examples=20, steps=16, shrink=True)


@pytest.mark.deep
@pytest.mark.timeout(1200)
def test_invariants_hold_whatever_agents_do_for_long(codecs: dict[str, ChatCodec]) -> None:
    _run(codecs["chatml"], examples=100, steps=40, shrink=False)
