"""Any vLLM server as an ``Engine``: token ids over HTTP, by ``/inference/v1/generate`` or by completions.
Several of them are put behind one ``BalancedEngine``.

Knows nothing of sessions or dialects. vLLM itself reports no weight version: every token gets the one that the caller
names, unless the reply says another (``runtime.trainer.cuda.gate``).
"""

from __future__ import annotations

import base64
import io
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import aiohttp
import msgspec
import numpy as np
import orjson

from runtime.errors import MachineError, Termination, TrialError, UserError
from runtime.rollouter.balanced import BalancedEngine
from runtime.rollouter.engine import Generation, Routing, SamplingParams, WeightIdentity

GENERATE, COMPLETIONS = "/inference/v1/generate", "/v1/completions"
_CONNECT_SEC = 10.0
_KEPT_SEC = 3.0
"""An idle connection is kept for so long. vLLM closes one after 5 s, and who is busy hears of it late."""
_WRONG_REQUEST = frozenset({400, 413, 422})
_FINISH: dict[str, Literal["stop", "length", "abort"]] = {"stop": "stop", "length": "length", "abort": "abort"}


_Ids = np.ndarray[Any, np.dtype[np.int32]]

# What is read of vLLM's replies. The decoder checks types, passes over all else without making objects of it (a reply
# of 800 tokens would be 1600 dictionaries), and the collector does not track what it makes.


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens_details: _Details | None = None


class _Entry(msgspec.Struct, gc=False):
    logprob: Any


class _Entries(msgspec.Struct, gc=False):
    content: list[_Entry]


class _Values(msgspec.Struct, gc=False):
    token_logprobs: list[Any]


class _Choice(msgspec.Struct, gc=False, kw_only=True):
    token_ids: list[int]
    finish_reason: str
    routed_experts: str | None = None


class _GenerateChoice(_Choice, gc=False, kw_only=True):
    logprobs: _Entries


class _CompletionsChoice(_Choice, gc=False, kw_only=True):
    logprobs: _Values


class _Generated(msgspec.Struct, gc=False):
    """vLLM: ``vllm/entrypoints/serve/disagg/protocol.py``, ``GenerateResponse``."""

    choices: list[_GenerateChoice]
    usage: _Usage | None = None
    weight_version: int | None = None


class _Completed(msgspec.Struct, gc=False):
    choices: list[_CompletionsChoice]
    usage: _Usage | None = None


_GENERATED, _COMPLETED = msgspec.json.Decoder(_Generated), msgspec.json.Decoder(_Completed)


@dataclass(frozen=True)
class ServedModel:
    """What the server says about itself; ``context_length`` is in tokens, None when it does not say."""

    name: str
    context_length: int | None
    path: str


class VLLMEngine:
    """One server. ``connect`` finds out what it serves and which of the two endpoints it has."""

    def __init__(self, url: str, *, api_key: str | None = None, weight_version: int = 0) -> None:
        """``url`` without ``/v1``. Connects nothing yet."""
        self._url = url.rstrip("/").removesuffix("/v1")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._weight_version = weight_version
        self._client: aiohttp.ClientSession | None = None
        self._fresh: aiohttp.ClientSession | None = None
        """Makes a connection for each call."""
        self.model: ServedModel | None = None

    async def connect(self) -> ServedModel:
        """Raises ``MachineError`` when no vLLM answers there."""
        client = self.open()
        try:
            async with client.get(f"{self._url}/v1/models") as response:
                if response.status in (401, 403):
                    raise MachineError(f"{self._url} refuses the API key", fix="name the engine's key: --engine-key")
                listed = orjson.loads(await response.read())["data"][0]
            # An empty object is refused by validation where the endpoint exists (400 or 422).
            async with client.post(self._url + GENERATE, json={}) as response:
                # 403: newer versions have it and serve it only when told (--enable-scale-out).
                path = COMPLETIONS if response.status in (403, 404, 405) else GENERATE
            self.model = ServedModel(str(listed["id"]), listed.get("max_model_len"), path)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise MachineError(
                f"no engine answers at {self._url}: {error}", fix="start it: vllm serve MODEL --port 8000"
            ) from None
        except (orjson.JSONDecodeError, KeyError, IndexError, TypeError, AttributeError):
            raise MachineError(
                f"{self._url}/v1/models is not a vLLM server's answer", fix="give the URL of a `vllm serve`"
            ) from None
        return self.model

    async def identity(self) -> WeightIdentity:
        """That it lives (``GET /health``); its weights have no fingerprint. Raises ``TrialError(MODEL_UNAVAILABLE)`` if
        not."""
        if self._client is None:
            raise _unavailable(f"{self._url}: not connected")
        await self.get("/health")
        return WeightIdentity(self._weight_version, "")

    def open(self) -> aiohttp.ClientSession:
        """The connections to the server, made at the first call."""
        if self._client is None:
            # No limit on a reply's time: the agent's own patience and the session's end decide.
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SEC)
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEPT_SEC)
            self._client = aiohttp.ClientSession(headers=self._headers, timeout=timeout, connector=connector)
            connector = aiohttp.TCPConnector(limit=0, force_close=True)
            self._fresh = aiohttp.ClientSession(headers=self._headers, timeout=timeout, connector=connector)
        return self._client

    async def get(self, path: str) -> bytes:
        """What the server answers to a question about itself. Raises ``TrialError(MODEL_UNAVAILABLE)`` when it does
        not, or says that it cannot serve."""
        try:
            async with self.open().get(self._url + path) as response:
                raw = await response.read()
                if response.status >= 500:
                    said = raw[:300].decode(errors="replace")
                    raise _unavailable(f"{self._url}{path} answered {response.status}: {said}")
                return raw
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise _unavailable(f"{self._url}: {error}") from error

    async def generate(self, prompt_ids: Sequence[int], params: SamplingParams, *, session: str) -> Generation:
        """See ``Engine.generate``. A cancelled call closes its connection, which makes vLLM abort the request. Raises
        ``ValueError`` when vLLM says that the request itself is wrong: no other server would take it."""
        model = self.model or await self.connect()
        body = _generate_body if model.path == GENERATE else _completions_body
        # The proxy's own array is read where it lies; no Python integer is made of any id.
        ids = np.asarray(prompt_ids, dtype=np.int32)
        request = orjson.dumps(body(ids, params, model.name), option=orjson.OPT_SERIALIZE_NUMPY)
        for attempt in range(2):
            try:
                return self._read(await self._post(model.path, request, session, fresh=attempt > 0), model.path)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, ConnectionResetError) as error:
                # A pooled connection that the server had closed meanwhile (aiohttp says so in one of these ways,
                # according to how far it got): once more on a new one.
                if attempt or isinstance(error, aiohttp.ClientConnectorError):
                    raise _unavailable(f"{self._url}: {error}") from error
            except (TimeoutError, aiohttp.ClientError, OSError) as error:
                raise _unavailable(f"{self._url}: {error}") from error
        raise AssertionError("unreachable")

    async def close(self) -> None:
        for client in (self._client, self._fresh):
            if client is not None:
                await client.close()
        self._client = self._fresh = None

    async def _post(self, path: str, request: bytes, session: str, *, fresh: bool) -> bytes:
        client = self._fresh if fresh else self._client
        assert client is not None
        headers = {"Content-Type": "application/json", "X-Session-ID": session}
        async with client.post(self._url + path, data=request, headers=headers) as response:
            raw = await response.read()
            if response.status != 200:
                answered = f"{self._url}{path} answered {response.status}: {raw[:300].decode(errors='replace')}"
                if response.status in _WRONG_REQUEST:
                    raise ValueError(answered)
                raise _unavailable(answered)
            return raw

    def _read(self, raw: bytes, path: str) -> Generation:
        logprobs: list[float]
        try:
            if path == GENERATE:
                generated = _GENERATED.decode(raw)
                choice: _Choice = generated.choices[0]
                # None stays None: the session types a reply without usable values.
                logprobs = [entry.logprob for entry in generated.choices[0].logprobs.content]
                usage, said = generated.usage, generated.weight_version
            else:
                completed = _COMPLETED.decode(raw)
                choice = completed.choices[0]
                logprobs = completed.choices[0].logprobs.token_logprobs
                usage, said = completed.usage, None
            finish = _FINISH[choice.finish_reason]
        except (msgspec.ValidationError, KeyError, IndexError) as error:
            raise _unavailable(
                f"{self._url}{path} gave no token ids with log-probabilities ({error!r}): a newer vLLM is needed"
            ) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _unavailable(f"{self._url}{path} answered no JSON: {error}") from None
        ids = choice.token_ids
        details = usage.prompt_tokens_details if usage is not None else None
        cached = (details.cached_tokens if details is not None else None) or 0
        routing = self._routing(choice.routed_experts, path)
        version = self._weight_version if said is None else said
        return Generation(ids, logprobs, [version] * len(ids), finish, cached, routing)

    def _routing(self, encoded: str | None, path: str) -> Routing | None:
        """vLLM answers with a base64 .npy of shape (prompt + reply - 1, layers, experts per token), uint8 or uint16, if
        it was started with ``--enable-return-routed-experts``.
        """
        if encoded is None:
            return None
        try:
            rows = np.load(io.BytesIO(base64.b64decode(encoded, validate=True)), allow_pickle=False)
            _, layers, chosen = rows.shape
        except ValueError as error:
            raise _unavailable(f"{self._url}{path} gave routed experts that are no array of rows ({error})") from None
        if rows.dtype.kind != "u":
            raise _unavailable(f"{self._url}{path} gave routed experts of type {rows.dtype}")
        little = np.ascontiguousarray(rows, dtype=rows.dtype.newbyteorder("<"))
        return Routing(0, little.tobytes(), (layers, chosen), rows.dtype.itemsize)


async def connect(urls: Sequence[str], *, api_key: str | None = None) -> tuple[BalancedEngine[VLLMEngine], ServedModel]:
    """All of ``urls`` as one balanced engine, and the model that they serve, with the shortest context length of them.

    Raises ``MachineError`` when one does not answer, ``UserError`` when one is named twice or they serve different
    models.
    """
    engines = {url: VLLMEngine(url, api_key=api_key) for url in urls}
    if len(engines) < len(urls):
        raise UserError(f"--engine: {', '.join(urls)}: give every server once")
    try:
        served = {url: await engine.connect() for url, engine in engines.items()}
        if len({model.name for model in served.values()}) > 1:
            said = ", ".join(f"{url} serves {model.name}" for url, model in served.items())
            raise UserError(f"--engine: {said}; give replicas of one model")
    except BaseException:
        for engine in engines.values():
            await engine.close()
        raise
    first = next(iter(served.values()))
    lengths = [model.context_length for model in served.values() if model.context_length is not None]
    return BalancedEngine(engines), replace(first, context_length=min(lengths, default=None))


def _unavailable(message: str) -> TrialError:
    return TrialError(Termination.MODEL_UNAVAILABLE, message)


def _sampling(params: SamplingParams) -> dict[str, Any]:
    return {
        "max_tokens": params.max_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k,
        "stop_token_ids": list(params.stop_token_ids),
        "seed": params.seed,
        # The sampled token's alone: each further one costs the engine an object per token.
        "logprobs": 0,
        "skip_special_tokens": False,
    }


def _generate_body(ids: _Ids, params: SamplingParams, model: str) -> dict[str, Any]:
    """vLLM: ``vllm/entrypoints/serve/disagg/protocol.py``, ``GenerateRequest``."""
    return {
        "request_id": uuid.uuid4().hex,
        "token_ids": ids,
        "sampling_params": _sampling(params),
        "model": model,
        "stream": False,
    }


def _completions_body(ids: _Ids, params: SamplingParams, model: str) -> dict[str, Any]:
    return {"model": model, "prompt": ids, "stream": False, "return_token_ids": True, **_sampling(params)}
