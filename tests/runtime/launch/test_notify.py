"""Who is told of a run's end: a real HTTP server, a real program; and what they are never told."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from compiler import SpecError, compile_in_memory
from compiler.library import find_spec
from runtime.config import RuntimeConfig
from runtime.errors import MachineError, RunError
from runtime.launch import lifecycle, machine
from runtime.launch.notify import notifying
from runtime.launch.rundir import RunDirectory, create
from tests.runtime.rows import append_row

SECRET = 'sesame "open"'


def _config(*notify: dict[str, Any], secrets: list[str] | None = None) -> RuntimeConfig:
    named = [{"variable": name, "used_by": "observability"} for name in secrets or []]
    sets = [f"observability.notify={json.dumps(notify)}", f"secrets={json.dumps(named)}"]
    files = compile_in_memory(find_spec(Path("quickstart")), target="local", sets=sets).files
    return RuntimeConfig.model_validate_json(files["runtime.json"])


class _Listener(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.heard.append((self.path, json.loads(body)))  # type: ignore[attr-defined]
        self.send_response({"/moved": 307, "/broken": 500}.get(self.path, 200))
        self.send_header("location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Any]:
    with HTTPServer(("127.0.0.1", 0), _Listener) as listening:
        listening.heard = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        yield listening
        listening.shutdown()
        thread.join()


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    directory = create(tmp_path / "runs", experiment="x", target="local")
    append_row(directory.metrics, 0, {"val-core/held-out/reward/mean@1": 0.25})
    append_row(directory.metrics, 4, {"critic/score/mean": 0.5, "val-core/held-out/reward/mean@1": 0.75})
    return directory


def _end(directory: RunDirectory, config: RuntimeConfig, error: BaseException | None = None) -> None:
    with contextlib.suppress(RunError, KeyboardInterrupt), notifying(directory, config), lifecycle.running(directory):
        if error is not None:
            raise error


def test_an_address_hears_of_a_good_end(run: RunDirectory, server: Any) -> None:
    config = _config({"type": "webhook", "url": f"http://127.0.0.1:{server.server_port}/hook"})
    _end(run, config)
    ((path, told),) = server.heard
    assert path == "/hook" and told["state"] == "succeeded" and told["exit_code"] == 0 and told["step"] == 4
    assert told["held_out"] == {"held-out": {"first": 0.25, "last": 0.75}}
    assert told["text"] == f"x/{run.path.name} succeeded, step 4, held-out 25.0% → 75.0%"


def test_a_secret_address_hears_of_a_halt_and_no_secret(
    run: RunDirectory, server: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"http://127.0.0.1:{server.server_port}/broken"
    monkeypatch.setenv("HOOK", address)
    monkeypatch.setenv("WORD", SECRET)
    config = _config({"type": "webhook", "url_variable": "HOOK"}, secrets=["HOOK", "WORD"])
    assert address not in config.model_dump_json()
    _end(run, config, RunError(f"login with {SECRET} at {address} failed"))
    ((_, told),) = server.heard
    assert told["state"] == "failed" and told["cause"] == "login with (secret) at (secret) failed"
    said = capsys.readouterr().err
    assert "observability.notify[0]: nobody was told that the run ended: the address answered 500" in said
    assert address not in said


def test_only_on_the_occasions_that_are_named(run: RunDirectory, server: Any) -> None:
    base = f"http://127.0.0.1:{server.server_port}"
    config = _config(
        {"type": "webhook", "url": f"{base}/good", "on": ["succeeded"]},
        {"type": "webhook", "url": f"{base}/stopped", "on": ["stopped", "failed"]},
        {"type": "webhook", "url": f"{base}/default"},
    )
    _end(run, config, KeyboardInterrupt())
    assert [path for path, _ in server.heard] == ["/stopped"]


def test_a_redirect_is_not_followed(run: RunDirectory, server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    _end(run, _config({"type": "webhook", "url": f"http://127.0.0.1:{server.server_port}/moved"}))
    assert [path for path, _ in server.heard] == ["/moved"] and "answered 307" in capsys.readouterr().err


def test_a_program_gets_the_message(run: RunDirectory, tmp_path: Path) -> None:
    program = f"import sys; open({str(tmp_path / 'heard')!r}, 'w').write(sys.stdin.read())"
    _end(run, _config({"type": "command", "argv": [sys.executable, "-c", program]}))
    assert json.loads((tmp_path / "heard").read_text())["state"] == "succeeded"


@pytest.mark.parametrize(
    ("notify", "said"),
    [
        ({"type": "command", "argv": ["/nowhere/program"]}, "No such file"),
        ({"type": "command", "argv": ["sh", "-c", "echo no >&2; exit 3"]}, "exit code 3: no"),
        ({"type": "command", "argv": ["sleep", "60"], "timeout_sec": 0.05}, "ended after 0.05 s"),
        ({"type": "webhook", "url": "http://127.0.0.1:9/"}, "refused"),
    ],
)
def test_what_fails_is_said_and_the_run_is_as_it_was(
    run: RunDirectory, notify: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _end(run, _config(notify))
    assert said in capsys.readouterr().err and run.read().state == "succeeded"


@pytest.mark.parametrize(
    "address",
    ["hooks.example/T0", "file:///etc/passwd", "http://127.0.0.1:9/sesame open", "http://[sesame/", "http://sesame:x/"],
)
def test_a_bad_secret_address_is_not_shown_and_changes_nothing(
    run: RunDirectory, address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOOK", address)
    config = _config({"type": "webhook", "url_variable": "HOOK"}, secrets=["HOOK"])
    _end(run, config)
    said = capsys.readouterr().err
    assert "notify[0]: nobody was told" in said and "HOOK: " in said
    assert "sesame" not in said and address not in said
    if "sesame/" not in address and "sesame:" not in address:
        with pytest.raises(MachineError, match="HOOK holds no web address") as refused:
            machine.check_addresses(config)
        assert address not in str(refused.value)


def test_secrets_go_before_anything_is_cut_and_numbers_stay(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key = "-----BEGIN KEY-----\nabcdefghij\n-----END KEY-----"
    monkeypatch.setenv("KEY", key)
    monkeypatch.setenv("PART", "abcdefghij")
    monkeypatch.setenv("DIGITS", "4")
    monkeypatch.setenv("STATE", "state")
    program = "import os, sys; sys.stderr.write(os.environ['KEY'] + 'x' * 180); sys.exit(1)"
    config = _config(
        {"type": "command", "argv": ["tee", str(tmp_path / "heard")]},
        {"type": "command", "argv": [sys.executable, "-c", program]},
        secrets=["KEY", "PART", "DIGITS", "STATE"],
    )
    _end(run, config, RunError("x" * 1990 + key))
    told = json.loads((tmp_path / "heard").read_text())
    assert told["step"] == 4 and told["state"] == "failed" and told["cause"] == "x" * 1990 + "(secret)"
    assert "KEY" not in told["text"] and "KEY" not in capsys.readouterr().err


def test_an_answer_that_never_ends_is_not_waited_for(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip() -> None:
            connection, _ = listening.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"HTTP/1.0 200 OK\r\nx: ")
                while not done.wait(0.02):  # each read has something in time
                    connection.sendall(b"y")

        thread = threading.Thread(target=drip)
        thread.start()
        address = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        _end(run, _config({"type": "webhook", "url": address, "timeout_sec": 0.2}))
        done.set()
        thread.join()
    assert "no answer within 0.2 s" in capsys.readouterr().err and run.read().state == "succeeded"


@pytest.mark.parametrize(
    ("notify", "said"),
    [
        ({"type": "webhook"}, "no address"),
        ({"type": "webhook", "url": "https://x.example/", "url_variable": "HOOK"}, "two addresses"),
        ({"type": "webhook", "url_variable": "HOOK"}, "HOOK is not one of secrets"),
        ({"type": "webhook", "url": "ftp://x.example/"}, "notify"),
        ({"type": "webhook", "url": "https://me:word@x.example/"}, "looks like a secret"),
        ({"type": "command", "argv": []}, "argv"),
    ],
)
def test_a_wrong_notification_is_refused(notify: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        _config(notify)
