"""The one way to an engine of a run: HTTP in front of vLLM, in the engine's own server process.

Token ids in, token ids with log-probabilities, the true reason of the end and the weight version out, in the words of
vLLM's ``/inference/v1/generate``. Requests wait while weights change, and are refused while the engine holds others
than the trainer sent. Nothing that vLLM itself would serve can be reached: no adapters are loaded, no settings changed
from outside. Imports neither vLLM nor verl. Upstream: ``vllm/entrypoints/serve/disagg/protocol.py``, 0.24.0.
"""

from __future__ import annotations

import asyncio
import base64
import io
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

GENERATE, IDENTITY = "/inference/v1/generate", "/liverl/identity"
NAME = "runtime.trainer.cuda.gate.Gate"
"""For vLLM's ``--middleware``."""

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]


class ServedWeights:
    """Which policy an engine holds, and whether it may answer with it."""

    def __init__(self) -> None:
        self.version = -1
        self.fingerprint = ""
        self.refusal = "no weights have arrived yet"
        self._settled = asyncio.Event()

    @property
    def settled(self) -> bool:
        """Whether no weights are on their way."""
        return self._settled.is_set()

    async def wait(self) -> None:
        await self._settled.wait()

    def begin(self) -> None:
        """New weights are on their way: calls wait."""
        self._settled.clear()

    def settle(self, version: int, *, sent: str, served: str) -> bool:
        """The weights of ``version`` have arrived. Calls go on if the engine holds what was sent, and are refused if
        not."""
        self.version, self.fingerprint = version, served
        self.refusal = "" if served == sent else f"weight version {version}: serves {served}, not {sent}"
        self._settled.set()
        return not self.refusal


class Sampling(msgspec.Struct, gc=False):
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    stop_token_ids: list[int] = []
    # No seed: with one per call vLLM draws each call's noise by a kernel of its own in each step (``random_sample`` in
    # ``vllm/v1/sample/ops/topk_topp_sampler.py``), and what it draws still depends on the batch.


class Request(msgspec.Struct, gc=False):
    """vLLM's ``GenerateRequest``, as far as it is used."""

    request_id: str
    token_ids: list[int]
    sampling_params: Sampling


@dataclass(frozen=True)
class Reply:
    """``routed_experts``: vLLM's array of rows, if it keeps them."""

    token_ids: list[int]
    logprobs: list[float]
    finish_reason: str
    cached_tokens: int = 0
    routed_experts: Any = None


class Call(Protocol):
    """One request in the engine."""

    async def reply(self) -> Reply:
        """Wait for its end; cancelling this aborts it."""


class Server(Protocol):
    """What the gate needs of the process that it stands in."""

    weights: ServedWeights
    key: str

    def why_dead(self) -> str:
        """Empty while the engine lives."""

    async def admit(self, request: str) -> bool:
        """Wait until calls may begin; False: not soon, ask another replica. After True comes one ``landed``."""

    def landed(self) -> None:
        """The admitted call has reached the engine, or has failed before."""

    async def start(self, request: Request) -> Call:
        """Give it to the engine. Raises ``ValueError`` for a request that no engine would take."""


_REQUEST = msgspec.json.Decoder(Request)
_serving: list[Server] = []


def stand_before(server: Server) -> None:
    """The gate that vLLM makes next in this process is this server's."""
    _serving[:] = [server]


class _Answer(Exception):
    """An answer that is no reply."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Gate:
    """An ASGI application in the place of ``app``, which only hears of its start and end."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._server = _serving[0]
        self._authorization = f"Bearer {self._server.key}".encode()

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        else:
            await self._answer(scope, receive, send)

    async def _answer(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        status = 200
        try:
            self._check_key(scope)
            place = scope["method"], scope["path"]
            if place == ("POST", GENERATE):
                body = await _within_connection(self._generate(await _body(receive)), receive)
                if body is None:
                    return
            elif place == ("GET", IDENTITY):
                body = self._identity()
            else:
                raise _Answer(404, f"not served here: {scope['method']} {scope['path']}")
        except Exception as error:
            answer = error if isinstance(error, _Answer) else _Answer(503, f"{type(error).__name__}: {error}")
            status, body = answer.status, msgspec.json.encode({"error": str(answer)})
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _check_key(self, scope: _Message) -> None:
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        if not secrets.compare_digest(given, self._authorization):
            raise _Answer(401, "the key of this run is needed")

    def _identity(self) -> bytes:
        weights = self._server.weights
        if why := self._server.why_dead():
            raise _Answer(503, why)
        if weights.settled and weights.refusal:
            raise _Answer(503, weights.refusal)
        return msgspec.json.encode({"version": weights.version, "fingerprint": weights.fingerprint})

    async def _generate(self, raw: bytes) -> bytes:
        try:
            request = _REQUEST.decode(raw)
        except msgspec.DecodeError as error:
            raise _Answer(400, str(error)) from None
        if not await self._server.admit(request.request_id):
            raise _Answer(503, "this replica takes no calls now")
        # Whoever replaces weights waits for calls that were admitted and aborts them: one version for the whole reply.
        version = self._server.weights.version
        try:
            if self._server.weights.refusal:
                raise _Answer(503, self._server.weights.refusal)
            call = await self._server.start(request)
        except ValueError as error:
            raise _Answer(400, str(error)) from None
        finally:
            self._server.landed()
        return _encoded(await call.reply(), version)


def _encoded(reply: Reply, version: int) -> bytes:
    """In the shape of vLLM's ``GenerateResponse``."""
    choice = {
        "token_ids": reply.token_ids,
        "finish_reason": reply.finish_reason,
        "logprobs": {"content": [{"logprob": value} for value in reply.logprobs]},
        "routed_experts": _array(reply.routed_experts),
    }
    usage = {"prompt_tokens_details": {"cached_tokens": reply.cached_tokens}}
    return msgspec.json.encode({"choices": [choice], "usage": usage, "weight_version": version})


def _array(rows: Any) -> str | None:
    """As vLLM sends it: base64 of a .npy."""
    if rows is None:
        return None
    import numpy as np

    file = io.BytesIO()
    np.save(file, np.asarray(rows), allow_pickle=False)
    return base64.b64encode(file.getvalue()).decode("ascii")


async def _body(receive: _Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise _Answer(400, "the request was cut off")
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def _within_connection(work: Any, receive: _Receive) -> bytes | None:
    """The outcome of ``work``, which is cancelled (None) when the client leaves."""
    task, left = asyncio.ensure_future(work), asyncio.ensure_future(receive())
    try:
        await asyncio.wait((task, left), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            return None
        body: bytes = task.result()
        return body
    finally:
        left.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))
