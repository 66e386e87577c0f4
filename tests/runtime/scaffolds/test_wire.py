"""The agent's HTTP client against a real socket: lengths, chunks, kept-alive connections, refusals and outages."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from runtime.scaffolds.shell import wire
from runtime.scaffolds.shell.wire import Client, Refused, Unavailable


@contextmanager
def server(*replies: bytes, keep_alive: bool = True) -> Iterator[tuple[str, list[bytes]]]:
    """Answers one request with each of ``replies``; yields the base URL and the requests it got."""
    listener = socket.create_server(("127.0.0.1", 0))
    got: list[bytes] = []

    def serve() -> None:
        pending = list(replies)
        while pending:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                while pending:
                    request = b""
                    while b"\r\n\r\n" not in request or not request.endswith(b"}"):
                        part = connection.recv(1 << 16)
                        if not part:
                            break
                        request += part
                    if not request:
                        break
                    got.append(request)
                    connection.sendall(pending.pop(0))
                    if not keep_alive:
                        break

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/s/one", got
    finally:
        listener.close()
        thread.join(5)


def reply(body: object, status: str = "200 OK") -> bytes:
    data = json.dumps(body).encode()
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


def test_the_request_is_what_the_official_client_sends() -> None:
    with server(reply({"n": 1}), reply({"n": 2})) as (url, got), closing(Client(url, "sesame")) as client:
        assert client.complete({"model": "policy"}) == {"n": 1}
        assert client.complete({"model": "policy"}) == {"n": 2}
    assert got[0].startswith(b"POST /s/one/v1/chat/completions HTTP/1.1\r\n")
    assert b"Authorization: Bearer sesame\r\n" in got[0]
    assert json.loads(got[1].partition(b"\r\n\r\n")[2]) == {"model": "policy"}


def test_chunked_replies() -> None:
    chunks = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"n":\r\n3\r\n 3}\r\n0\r\n\r\n'
    with server(chunks, reply({"n": 4})) as (url, _), closing(Client(url, "s")) as client:
        assert client.complete({}) == {"n": 3}
        assert client.complete({}) == {"n": 4}


def test_a_closed_connection_is_dialled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire.time, "sleep", lambda seconds: None)
    answers = (reply({"n": 1}), reply({"n": 2}))
    with server(*answers, keep_alive=False) as (url, _), closing(Client(url, "s")) as client:
        assert client.complete({}) == {"n": 1}
        assert client.complete({}) == {"n": 2}


def test_a_refusal_carries_its_code_and_is_not_repeated() -> None:
    error = {"error": {"code": "context_length_exceeded", "message": "too long"}}
    with server(reply(error, "400 Bad Request")) as (url, got):
        with closing(Client(url, "s")) as client, pytest.raises(Refused) as raised:
            client.complete({})
        assert raised.value.code == "context_length_exceeded"
        assert len(got) == 1


def test_an_outage_is_unavailable_after_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(wire.time, "sleep", waits.append)
    busy = reply({"error": {}}, "503 Service Unavailable")
    with server(busy, busy, busy) as (url, got):
        with closing(Client(url, "s")) as client, pytest.raises(Unavailable):
            client.complete({})
        assert len(got) == wire.RETRIES
    assert waits == sorted(waits)
