"""Servers of this machine for evaluation: started, waited for and ended. A small program stands in for vLLM."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import pytest

from runtime.errors import RunError
from runtime.rollouter import vllm_servers as module
from runtime.rollouter.vllm_servers import vllm_servers

PROGRAM = """
import http.server, json, os, subprocess, sys, time
arguments = sys.argv[1:]
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
here = {"arguments": arguments, "gpus": os.environ["CUDA_VISIBLE_DEVICES"], "cwd": os.getcwd(), "child": child.pid}
open(f"seen-{os.environ['CUDA_VISIBLE_DEVICES']}.json", "w").write(json.dumps(here))
if "broken" in arguments[1]:
    child.kill()
    sys.exit("the model is a fish")
class Health(http.server.BaseHTTPRequestHandler):
    began = time.time()
    def do_GET(self):
        self.send_response(200 if time.time() > self.began + 0.3 else 503)
        self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(arguments[arguments.index("--port") + 1])), Health).serve_forever()
"""


def start(tmp_path: Path, model: str, *, replicas: int = 2, each: int = 2):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    return vllm_servers(
        tmp_path / "vllm.yaml",
        Path(model),
        replicas=replicas,
        gpus_per_replica=each,
        logs=tmp_path / "logs",
        environment={"VLLM_NO_USAGE_STATS": "1"},
        command=(sys.executable, str(program)),
    )


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(("mine", "shares"), [(None, ["0,1", "2,3"]), ("4,5,GPU-a,7", ["4,5", "GPU-a,7"])])
def test_every_replica_has_its_gpus_and_all_are_gone_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mine: str | None, shares: list[str]
) -> None:
    if mine is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", mine)

    async def main() -> None:
        async with start(tmp_path, "/models/one") as urls:
            assert len(set(urls)) == 2
            for share in shares:
                seen = json.loads((tmp_path / "logs" / f"seen-{share}.json").read_text())
                assert seen["arguments"][:4] == ["serve", "/models/one", "--config", str(tmp_path / "vllm.yaml")]
                assert seen["cwd"] == str(tmp_path / "logs") and "127.0.0.1" in seen["arguments"]
                assert alive(seen["child"])

    asyncio.run(main())
    for share in shares:
        child = json.loads((tmp_path / "logs" / f"seen-{share}.json").read_text())["child"]
        deadline = time.monotonic() + 20  # it was killed; a busy machine takes its time over it
        while alive(child):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_one_that_ends_before_it_answers_is_an_error_with_its_log(tmp_path: Path) -> None:
    async def main() -> None:
        async with start(tmp_path, "/models/broken", replicas=1, each=1):
            raise AssertionError("it never answered")

    with pytest.raises(RunError, match=rf"exit code 1 before it answered \(logs: {tmp_path}/logs\)"):
        asyncio.run(main())
    assert "the model is a fish" in (tmp_path / "logs" / "vllm-0.log").read_text()


def test_one_that_takes_too_long_is_an_error_and_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_START_SEC", 0.01)

    async def main() -> None:
        async with start(tmp_path, "/models/slow", replicas=1, each=1):
            raise AssertionError("it was not ready")

    with pytest.raises(RunError, match="was not ready"):
        asyncio.run(main())
