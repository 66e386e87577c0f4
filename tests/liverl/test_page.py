"""``liverl dashboard``: what it refuses, how it serves, and what differs between the specs of two runs."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner

from compiler.bundle import write_bundle
from liverl import cli_run
from liverl.cli import build_app
from liverl.cli_page import differences
from liverl.compiled import bundle_files
from runtime.errors import MachineError, UserError
from runtime.launch import ledger, local
from runtime.launch.rundir import create
from runtime.page.library import Run

ROOT = Path(__file__).parents[2]


def test_differences_are_those_of_liverl_diff(tmp_path: Path) -> None:
    runs = []
    for seed in (1, 2):
        directory = create(tmp_path, experiment="quickstart", target="local")
        files = bundle_files(
            ROOT / "specs" / "quickstart.jsonnet",
            target="local", sandbox=None, tla=None, settings=[f"seed={seed}"],
        )  # fmt: skip
        write_bundle(directory.bundle, files)
        runs.append(Run(directory.path))
    (found,) = differences(runs)
    assert found["b"] == runs[1].name and found["error"] is None
    spec = next(section for section in found["sections"] if section["title"] == "Spec")
    assert ("seed", "1", "2") in [(one["path"], one["old"], one["new"]) for one in spec["changes"]]
    (runs[1].directory.bundle / "resolved.json").unlink()
    assert differences(runs)[0]["error"]


def test_it_serves_with_a_token_where_others_reach_it_and_ends_in_order(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "liverl", "dashboard", str(tmp_path), "--port", "0", "--host", "0.0.0.0"]
    page = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert page.stdout is not None
        line = page.stdout.readline()
        match = re.search(r"http://\S+:(\d+)/\?token=(\S{20,})", line)
        assert match, line
        root = f"http://127.0.0.1:{match[1]}/api/runs"
        with pytest.raises(urllib.error.HTTPError, match="401") as refused:
            urllib.request.urlopen(root, timeout=60)
        refused.value.close()
        asked = urllib.request.Request(root, headers={"Authorization": f"Bearer {match[2]}"})
        with urllib.request.urlopen(asked, timeout=60) as answer:
            assert answer.read() == b"[]"
        page.send_signal(signal.SIGINT)
        assert page.wait(60) == 0
    finally:
        page.kill()
        page.communicate()


def test_what_cannot_be_served_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused = CliRunner().invoke(build_app(), ["dashboard", str(tmp_path / "file")])
    assert isinstance(refused.exception, UserError) and "not a folder" in str(refused.exception)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        lacking = CliRunner().invoke(build_app(), ["dashboard", str(tmp_path), "--port", port])
    assert isinstance(lacking.exception, MachineError) and "--port" in lacking.exception.fix


def test_a_run_says_where_it_can_be_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = create(tmp_path / "runs", experiment="quickstart", target="local")
    monkeypatch.setattr(ledger, "find", lambda run, *, runs_dir: directory)
    monkeypatch.setattr(local, "reopen", lambda found: found)
    monkeypatch.setattr(local, "execute", lambda found: None)
    cli_run.run(resume="last", runs_dir=tmp_path / "runs")
    said = capsys.readouterr().out
    assert f"dashboard {tmp_path / 'runs'}" in said
    assert f"http://127.0.0.1:8090/#/overview?run=quickstart%2F{directory.path.name}" in said
