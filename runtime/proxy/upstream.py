"""Any vLLM server as an ``Engine``: token ids over HTTP, by ``/inference/v1/generate`` or by completions.
Several of them are put behind one ``BalancedEngine``.

Knows nothing of sessions or dialects. Weight versions are not reported by either endpoint: every token gets the one
that the caller names.
"""

from __future__ import annotations

import base64
import io
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import aiohttp
import orjson

from runtime.errors import MachineError, Termination, TrialError, UserError
from runtime.rollouter.balanced import BalancedEngine
from runtime.rollouter.engine import Generation, Routing, SamplingParams, WeightIdentity

GENERATE, COMPLETIONS = "/inference/v1/generate", "/v1/completions"
_CONNECT_SEC = 10.0
_WRONG_REQUEST = frozenset({400, 413, 422})
_FINISH: dict[str, Literal["stop", "length", "abort"]] = {"stop": "stop", "length": "length", "abort": "abort"}


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
        self.model: ServedModel | None = None

    async def connect(self) -> ServedModel:
        """Raises ``MachineError`` when no vLLM answers there."""
        if self._client is None:
            # No limit on a reply's time: the agent's own patience and the session's end decide.
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SEC)
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
            self._client = aiohttp.ClientSession(headers=self._headers, timeout=timeout, connector=connector)
        try:
            async with self._client.get(f"{self._url}/v1/models") as response:
                if response.status in (401, 403):
                    raise MachineError(f"{self._url} refuses the API key", fix="name the engine's key: --engine-key")
                listed = orjson.loads(await response.read())["data"][0]
            # An empty object is refused by validation where the endpoint exists (400 or 422).
            async with self._client.post(self._url + GENERATE, json={}) as response:
                path = COMPLETIONS if response.status in (404, 405) else GENERATE
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise MachineError(
                f"no engine answers at {self._url}: {error}", fix="start it: vllm serve MODEL --port 8000"
            ) from None
        except (orjson.JSONDecodeError, KeyError, IndexError, TypeError):
            raise MachineError(
                f"{self._url}/v1/models is not a vLLM server's answer", fix="give the URL of a `vllm serve`"
            ) from None
        self.model = ServedModel(str(listed["id"]), listed.get("max_model_len"), path)
        return self.model

    async def identity(self) -> WeightIdentity:
        """That it lives (``GET /health``); its weights have no fingerprint. Raises ``TrialError(MODEL_UNAVAILABLE)`` if
        not."""
        if self._client is None:
            raise _unavailable(f"{self._url}: not connected")
        try:
            async with self._client.get(f"{self._url}/health") as response:
                if response.status >= 500:
                    raise _unavailable(f"{self._url}/health answered {response.status}")
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise _unavailable(f"{self._url}: {error}") from error
        return WeightIdentity(self._weight_version, "")

    async def generate(self, prompt_ids: Sequence[int], params: SamplingParams, *, session: str) -> Generation:
        """See ``Engine.generate``. A cancelled call closes its connection, which makes vLLM abort the request. Raises
        ``ValueError`` when vLLM says that the request itself is wrong: no other server would take it."""
        model = self.model or await self.connect()
        body = _generate_body if model.path == GENERATE else _completions_body
        request = orjson.dumps(body(list(prompt_ids), params, model.name))
        for attempt in range(2):
            try:
                return self._read(await self._post(model.path, request, session), model.path)
            except (aiohttp.ServerDisconnectedError, ConnectionResetError) as error:
                # A pooled connection that the server had closed meanwhile: once more on a new one.
                if attempt:
                    raise _unavailable(f"{self._url}: {error}") from error
            except (TimeoutError, aiohttp.ClientError, OSError) as error:
                raise _unavailable(f"{self._url}: {error}") from error
        raise AssertionError("unreachable")

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def _post(self, path: str, request: bytes, session: str) -> Any:
        assert self._client is not None
        headers = {"Content-Type": "application/json", "X-Session-ID": session}
        async with self._client.post(self._url + path, data=request, headers=headers) as response:
            raw = await response.read()
            if response.status != 200:
                answered = f"{self._url}{path} answered {response.status}: {raw[:300].decode(errors='replace')}"
                if response.status in _WRONG_REQUEST:
                    raise ValueError(answered)
                raise _unavailable(answered)
            try:
                return orjson.loads(raw)
            except orjson.JSONDecodeError as error:
                raise _unavailable(f"{self._url}{path} answered no JSON: {error}") from None

    def _read(self, reply: Any, path: str) -> Generation:
        try:
            choice = reply["choices"][0]
            ids = choice["token_ids"]
            if ids is None:
                raise KeyError("token_ids")
            given = choice["logprobs"]
            if path == GENERATE:
                logprobs = [entry["logprob"] for entry in given["content"]]
            else:
                logprobs = given["token_logprobs"]
            finish = _FINISH[choice["finish_reason"]]
            usage: Mapping[str, Any] = reply.get("usage") or {}
            cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        except (KeyError, IndexError, TypeError) as error:
            raise _unavailable(
                f"{self._url}{path} gave no token ids with log-probabilities ({error!r}): a newer vLLM is needed"
            ) from None
        routing = self._routing(choice.get("routed_experts"), path)
        return Generation(ids, logprobs, [self._weight_version] * len(ids), finish, cached, routing)

    def _routing(self, encoded: str | None, path: str) -> Routing | None:
        """vLLM answers with a base64 .npy of shape (prompt + reply - 1, layers, experts per token), uint8 or uint16, if
        it was started with ``--enable-return-routed-experts``.
        """
        if encoded is None:
            return None
        import numpy as np

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
        "logprobs": 1,
        "skip_special_tokens": False,
    }


def _generate_body(ids: list[int], params: SamplingParams, model: str) -> dict[str, Any]:
    """vLLM: ``vllm/entrypoints/serve/disagg/protocol.py``, ``GenerateRequest``."""
    return {
        "request_id": uuid.uuid4().hex,
        "token_ids": ids,
        "sampling_params": _sampling(params),
        "model": model,
        "stream": False,
    }


def _completions_body(ids: list[int], params: SamplingParams, model: str) -> dict[str, Any]:
    return {"model": model, "prompt": ids, "stream": False, "return_token_ids": True, **_sampling(params)}
