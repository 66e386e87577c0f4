"""A Docker engine of our own, from Debian's packages, with a base image made without a registry."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Authority
from tests.toolbox import CACHE, DEBIAN_MIRROR, alone, require_command

BASE = "liverl/base:bookworm"
START_SEC = 60


@dataclass
class Engine:
    """A ``dockerd`` whose files are all below ``root``."""

    root: Path
    port: int = 0
    """Of TLS on 127.0.0.1 and, where the certificate does not hold, 127.0.0.2; 0: none."""
    more: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextlib.contextmanager
    def temporary(cls, **settings: Any) -> Iterator["Engine"]:
        """Started, with the base image, below a short folder of its own: names of sockets are limited."""
        if os.geteuid() != 0:
            pytest.skip("starting a Docker engine needs root")
        require_command("docker", package="docker.io")
        archive = base_archive()
        engine = cls(Path(tempfile.mkdtemp(prefix="liverl-docker-", dir="/tmp")), **settings)
        try:
            engine.start()
            engine.docker("import", str(archive), BASE)
            yield engine
        finally:
            engine.stop()
            engine.sweep()
            shutil.rmtree(engine.root, ignore_errors=True)

    @property
    def url(self) -> str:
        return f"unix://{self.root}/docker.sock"

    @property
    def tls(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def docker(self, *arguments: str) -> str:
        command = ["docker", "-H", self.url, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout.strip()

    def start(self) -> None:
        where = ["--data-root", f"{self.root}/data", "--exec-root", f"{self.root}/exec", "-H", self.url]
        more = ["-p", f"{self.root}/docker.pid", "--bridge=none", "--iptables=false", *self.more]
        if self.port:
            if not (self.root / "ca").exists():
                authority = Authority(self.root / "ca")
                authority.issue(self.root / "server", "IP:127.0.0.1")
                authority.issue(self.root / "certs", "DNS:client")
            more += ["--tlsverify", *(f"-H=tcp://127.0.0.{number}:{self.port}" for number in (1, 2))]
            files = {"--tlscacert": "ca.pem", "--tlscert": "cert.pem", "--tlskey": "key.pem"}
            more += [f"{option}={self.root}/server/{name}" for option, name in files.items()]
        path = f"/usr/sbin:/sbin:{os.environ['PATH']}"
        with (self.root / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [require_command("dockerd", package="docker.io"), *where, *more],
                stdout=log,
                stderr=log,
                env={**os.environ, "PATH": path},
            )
        deadline = time.monotonic() + START_SEC
        while time.monotonic() < deadline and self.process.poll() is None:
            if subprocess.run(["docker", "-H", self.url, "version"], capture_output=True, check=False).returncode == 0:
                return
            time.sleep(0.2)
        self.stop()
        last = (self.root / "log").read_text().splitlines()[-1:]
        pytest.skip(f"dockerd does not start here: {''.join(last)}")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.kill()

    def sweep(self) -> None:
        """End the containers' keepers that a killed engine left, and the mounts that they held."""
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if f"{self.root}/".encode() in path.read_bytes():
                    os.kill(int(path.parent.name), signal.SIGKILL)
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        for place in sorted((line.split()[4] for line in lines if f" {self.root}/" in line), reverse=True):
            subprocess.run(["umount", "-l", place], check=False, capture_output=True)

    def kill(self) -> None:
        """As a crash of the machine would end it, but that its containers run on."""
        assert self.process is not None
        threads = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        containerd = [int(word) for path in threads for word in path.read_text().split()]
        self.process.kill()
        self.process.wait()
        for pid in containerd:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # Where nobody reaps orphans, the dead containerd still counts as running by its number.
        for name in ("docker.pid", "docker.sock", "exec/containerd/containerd.pid"):
            (self.root / name).unlink(missing_ok=True)


def base_archive() -> Path:
    """A Debian root file system with Python, made from packages once and kept."""
    archive = CACHE / "docker-base-bookworm.tar"
    with alone(archive.name):
        if archive.exists():
            return archive
        program = require_command("mmdebstrap", package="mmdebstrap")
        partial = CACHE / f".{archive.name}.{os.getpid()}.tar"
        command = [program, "-q", "--variant=minbase", "--include=python3", "bookworm", str(partial), DEBIAN_MIRROR]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1500)
        if done.returncode:
            partial.unlink(missing_ok=True)
            pytest.skip(f"no base image can be made here: {done.stderr.strip().splitlines()[-1:]}")
        partial.rename(archive)
    return archive


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
