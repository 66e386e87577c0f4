"""Where the rest of the runtime meets sandboxes: protocols and plain data, no implementation.

A ``Sandbox`` is one fresh box for one trial (or one verdict). A ``SandboxProvider`` makes them for one backend and
says, as data, what it can do. What a box is used for is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from runtime.errors import Termination, TrialError
from runtime.oci.types import Image
from runtime.sandboxes.entries import Entry

AGENT = "/opt/agent"
"""Where published agents are in a sandbox."""
TASK_FILES = "/opt/task"
"""Where scripts of a task are shown, read-only; they are copied to where they are run."""


@dataclass(frozen=True)
class ExecResult:
    """Outcome of one command: exit code (negative = killed by that signal), at most ``max_output`` bytes per stream."""

    exit_code: int
    stdout: bytes
    stderr: bytes


@dataclass(frozen=True)
class Capabilities:
    """What a backend really enforces. ``isolation`` goes into every trial record."""

    isolation: Literal["bubblewrap", "docker", "kubernetes", "ecs", "harbor", "imported", "none"]
    network_off: bool
    fresh_filesystem: bool
    memory_limit: bool
    cpu_limit: bool
    defences: tuple[str, ...] = ()
    """What else holds against untrusted code, for records and for ``required_defences``: user_namespace,
    no_capabilities, no_new_privileges, seccomp, process_limit."""
    second_user: bool = False
    """Boxes can run code under test as another user than its tests (``SandboxRequest.second_user``), or may: where
    the user of an image decides, a test run that asks for it and is not root says so (``guest/second.py``)."""
    second_box: bool = False
    """A request for a second user is met by two boxes where there is none (``pair.py``), for test runs alone; with
    ``second_user`` too: a request for a second box is."""
    task_images: bool = False
    """Boxes can be made of an image that the task names or brings (``SandboxRequest.root``)."""
    made_by: str = ""
    """How boxes are made, for records, where ``isolation`` alone does not say it: ``bubblewrap+zygote``."""

    @property
    def how(self) -> str:
        return self.made_by or self.isolation


@dataclass(frozen=True)
class Mount:
    """A host file or folder shown read-only inside the sandbox."""

    source: Path
    target: str
    image: str | None = None
    """Container image that holds the same at ``target``: a backend that runs images may take it from there."""
    hides: bool = False
    """``source`` is an empty file or folder, and the task's own image has something at ``target`` that no box shows."""


@dataclass(frozen=True)
class SandboxRequest:
    """What one trial needs: the pristine work directory (shared, never written) and what else is visible inside.

    ``forward`` is the host's (host, port) that is reachable inside as ``127.0.0.1:forward_port``; nothing else of the
    network is.
    """

    name: str
    lower: Path
    workdir: str = "/app"
    mounts: tuple[Mount, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    forward: tuple[str, int] | None = None
    forward_port: int = 8080
    memory_mib: int = 1024
    pids: int = 128
    root: Image | None = None
    """The image that the box is made of, in place of the backend's own; ``lower`` is then its work directory, with what
    the task adds."""
    image: str | None = None
    """Pinned packages that Python finds inside (``images.py``), for example ``pytest==8.4.2``."""
    compile_once: bool = True
    """Compile the Python files of ``lower`` and of mounts below ``/opt/liverl`` once for all sandboxes, if possible."""
    second_user: bool = False
    """Prepare the box for test runs whose code under test is another user (``Capabilities.second_user``)."""
    second_box: bool = False
    """In the place of a second user: the image's own turned out not to be root."""
    limit_address_space: bool = True
    """Without control groups, limit the address space of each process to ``memory_mib`` in their place."""


@runtime_checkable
class Sandbox(Protocol):
    """One running box. Every method may raise ``TrialError`` (sandbox boundary); ``stop`` never raises, even twice."""

    @property
    def proxy_url(self) -> str | None:
        """Base URL (no trailing slash) at which the forwarded host port answers inside; None without forwarding."""

    @property
    def alive(self) -> bool:
        """False once the box is known to be gone; a backend that cannot tell says True."""

    async def exec(
        self,
        argv: Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        timeout_sec: float,
        max_output: int = 1 << 20,
    ) -> ExecResult:
        """Run a command to its end. Raises ``TimeoutError`` after killing its whole process group."""

    async def upload(self, files: Mapping[str, bytes], *, mode: int = 0o644) -> None:
        """Write files (absolute path inside -> content), making folders; goes through a process inside the box."""

    async def download(self, paths: Sequence[str], *, max_bytes: int = 16 << 20) -> dict[str, bytes]:
        """Regular files below the given files or folders, path inside -> content; links and specials are left out."""

    async def tree(
        self, paths: Sequence[str], *, max_bytes: int, known: Mapping[str, str] | None = None
    ) -> dict[str, Entry]:
        """Files, links (as links) and folders at and below the given paths, path inside -> entry; special files are
        left out. known: path inside -> ``entries.mark`` of all that was there; what is still so may come as ``Same``,
        and then counts nothing. Raises ``ArtifactsRefused`` for more than ``max_bytes``, too many entries or too deep
        folders."""

    async def run_tests(self, runner: str, *, timeout_sec: float, **arguments: Any) -> dict[str, Any]:
        """Run the test kit (``runtime/grading/testkit``) inside; ``arguments`` are those of its ``run``, without
        timeout. The report is data from a box in which the code under test ran."""

    async def stop(self) -> None:
        """Kill everything inside and remove every trace on the host."""


class SandboxProvider(Protocol):
    """Makes sandboxes of one backend."""

    @property
    def capabilities(self) -> Capabilities: ...

    async def start(self, request: SandboxRequest) -> Sandbox:
        """A running sandbox; raises ``TrialError(ENV_SETUP_FAILED)``, leaving nothing behind."""

    @property
    def counts(self) -> Mapping[str, float]:
        """Numbers for the metrics, since the start; nothing is fine."""

    async def close(self) -> None:
        """Stop every sandbox that is still running and remove the provider's own state. Idempotent."""


class ArtifactsRefused(TrialError):
    """The agent left more than may be taken over (bytes, files, depth). Its own doing: graded as if it had left
    nothing, never retried, so that a flood is no way out of a bad grade.
    """

    def __init__(self, message: str) -> None:
        super().__init__(Termination.COMPLETED, message)

    def __reduce__(self) -> tuple[type[ArtifactsRefused], tuple[str]]:  # type: ignore[override]
        return (ArtifactsRefused, (str(self),))
