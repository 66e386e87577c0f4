"""Nobody may read what is printed: the command says so by its exit code and by nothing else, and a run goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

LIVERL = [sys.executable, "-m", "liverl"]
CLOSED = {"stdin": "<&-", "stdout": ">&-", "stderr": "2>&-"}


def test_a_reader_that_has_seen_enough_is_no_bug_of_ours() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.Popen([*LIVERL, "--help"], stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert process.communicate()[1] == b"" and process.returncode == 141


@pytest.mark.parametrize("streams", [("stdin",), ("stdout",), ("stdin", "stdout"), ("stdin", "stdout", "stderr")])
def test_closed_streams_end_no_command_and_no_child_writes_into_our_files(streams: tuple[str, ...]) -> None:
    closing = " ".join(CLOSED[name] for name in streams)
    script = (
        f'"$@" --version {closing}; [ $? = 0 ] || echo failed; "$@" status nowhere {closing}; [ $? = 2 ] || echo no'
    )
    run = subprocess.run(["sh", "-c", script, "sh", *LIVERL], capture_output=True, text=True)
    assert "no" not in run.stdout.split() and "failed" not in run.stdout and "Traceback" not in run.stderr


RUN = """
import os, sys
from liverl.unread_output import outlive_readers
outlive_readers()
print("begun", flush=True)
sys.stdin.read()
for number in range(20000):
    print("line", number, flush=number % 100 == 0)
os.write(1, b"a child's")
print("went on", file=sys.stderr)
"""


def test_a_run_outlives_its_reader_and_a_full_disk() -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", RUN], **pipes) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == b"begun\n"
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b"went on\n" and process.wait() == 0
    with Path("/dev/full").open("wb") as full:
        script = RUN.replace('os.write(1, b"a child\'s")', "")
        run = subprocess.run([sys.executable, "-c", script], input=b"", stdout=full, stderr=subprocess.PIPE)
    assert (run.returncode, run.stderr) == (0, b"went on\n")


INTERRUPTED = """
from liverl.unread_output import outlive_readers
outlive_readers()
done = 0
while done < 4000:
    try:
        while done < 4000:
            done += 1
            print("line", done, flush=True)
    except KeyboardInterrupt:
        pass
"""


def test_an_interrupt_has_nothing_written_twice() -> None:
    with subprocess.Popen([sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if len(lines) % 20 == 0 and len(lines) < 3000:
                process.send_signal(signal.SIGINT)
        assert process.wait() == 0
    assert len(lines) > 3000 and len(set(lines)) == len(lines)
