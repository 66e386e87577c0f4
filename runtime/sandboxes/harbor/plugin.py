"""LiveRL's sandboxes as an environment of Harbor (0.24): no container engine, a trial in well under a second.

    harbor run --path TASK --agent oracle --environment-import-path runtime.sandboxes.harbor.plugin:LiverlEnvironment

A Dockerfile is not built: the box shows the machine's programs and Python, and the work directory is
``environment/repo`` (as LiveRL's generators write it) or else what the Dockerfile copies (``task_format/``); one that
asks for more is refused. The network is always off. ``/tests`` and ``/solution`` are read-only inside, and the only
user is the box's root.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from harbor.environments.base import BaseEnvironment, ExecResult
from harbor.environments.capabilities import EnvironmentCapabilities

from runtime.config import Bubblewrap
from runtime.sandboxes import make_provider
from runtime.sandboxes.base import Mount, Sandbox, SandboxProvider, SandboxRequest
from runtime.task_format.work_directory import WorkDirectory, work_directory

FOREVER_SEC = 86_400.0
MAX_OUTPUT = 16 << 20
MAX_DOWNLOAD = 512 << 20
_HANDED_IN = ("/tests", "/solution")


class _Shared:
    """One provider for all trials of a process: it keeps a fork server warm. Closed with its last sandbox."""

    provider: SandboxProvider | None = None
    users = 0


def _ours(task: Path) -> bool:
    """Tasks of LiveRL's generators record what their Dockerfile installs."""
    try:
        metadata = tomllib.loads((task / "task.toml").read_text(encoding="utf-8")).get("metadata")
    except (OSError, ValueError):
        return False
    return isinstance(metadata, dict) and "liverl" in metadata


class LiverlEnvironment(BaseEnvironment):  # type: ignore[misc]  # Harbor's classes are not there for the type checker
    """packages: exact pins of Python packages that the box shows, as for LiveRL's own tasks; "" for none."""

    def __init__(self, *args: Any, packages: str = "pytest==8.4.2", **kwargs: Any) -> None:
        self._packages = packages
        self._sandbox: Sandbox | None = None
        self._folder: Path | None = None
        super().__init__(*args, **kwargs)

    @staticmethod
    def type() -> str:
        return "liverl"

    @property
    def capabilities(self) -> EnvironmentCapabilities:
        return EnvironmentCapabilities(disable_internet=True)

    def _validate_definition(self) -> None:
        work = self._work()
        if work.problems:
            raise ValueError(f"{self.environment_name}: {'; '.join(work.problems)}")
        if work.source is not None:
            raise ValueError(f"{self.environment_name}: needs the image {work.source}, and this box is made of none")

    def _work(self) -> WorkDirectory:
        settings, task = self.task_env_config, self.environment_dir.parent
        return work_directory(task, path=settings.workdir, ours=_ours(task), docker_image=settings.docker_image)

    async def start(self, force_build: bool) -> None:
        if _Shared.provider is None:
            state = Path(os.environ.get("LIVERL_SANDBOX_STATE") or Path(tempfile.gettempdir()) / "liverl-sandboxes")
            # No await in between: trials start concurrently, and only one of them may make it.
            _Shared.provider = make_provider(Bubblewrap(require_isolation=True), state=state)
        _Shared.users += 1
        self._folder = Path(tempfile.mkdtemp(prefix="liverl-harbor-"))
        for name in _HANDED_IN:
            (self._folder / name.strip("/")).mkdir()
        try:
            self._sandbox = await _Shared.provider.start(self._request(self._folder))
            await self._sandbox.upload({f"/logs/{name}/.keep": b"" for name in ("agent", "verifier", "artifacts")})
        except BaseException:
            await self.stop(delete=True)
            raise

    def _request(self, folder: Path) -> SandboxRequest:
        work = self._work()
        settings = self.task_env_config
        return SandboxRequest(
            name=self.session_id,
            lower=work.lower,
            workdir=work.path,
            mounts=(
                *(Mount(folder / name.strip("/"), name) for name in _HANDED_IN),
                *(Mount(source, target) for source, target in work.elsewhere),
            ),
            env={**work.env, **(self._merge_env(None) or {})},
            memory_mib=settings.memory_mb or 1024,
            image=self._packages or None,
        )

    async def stop(self, delete: bool) -> None:
        sandbox, self._sandbox = self._sandbox, None
        if sandbox is not None:
            await sandbox.stop()
        if self._folder is not None:
            folder, self._folder = self._folder, None
            await asyncio.to_thread(shutil.rmtree, folder, True)
            _Shared.users -= 1
            if _Shared.users == 0 and _Shared.provider is not None:
                provider, _Shared.provider = _Shared.provider, None
                await provider.close()

    async def exec(
        self,
        command: str,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        timeout_sec: int | None = None,
        user: str | int | None = None,
    ) -> ExecResult:
        if user not in (None, "root", 0, "0"):
            raise ValueError(f"user {user!r}: the box knows its root only")
        try:
            result = await self._box.exec(
                ["bash", "-c", command],
                cwd=cwd,
                env=self._merge_env(env),
                timeout_sec=timeout_sec or FOREVER_SEC,
                max_output=MAX_OUTPUT,
            )
        except TimeoutError as error:
            raise RuntimeError(f"Command timed out after {timeout_sec} seconds") from error
        code = result.exit_code
        return ExecResult(
            stdout=result.stdout.decode(errors="replace"),
            stderr=result.stderr.decode(errors="replace"),
            return_code=128 - code if code < 0 else code,
        )

    async def upload_file(self, source_path: Path | str, target_path: str) -> None:
        source = Path(source_path)
        await self._put({str(target_path): source.read_bytes()}, executable=os.access(source, os.X_OK))

    async def upload_dir(self, source_dir: Path | str, target_dir: str) -> None:
        root = Path(source_dir)
        plain: dict[str, bytes] = {}
        programs: dict[str, bytes] = {}
        for path in sorted(root.rglob("*")):
            if path.is_file():
                group = programs if os.access(path, os.X_OK) else plain
                group[str(PurePosixPath(target_dir) / path.relative_to(root).as_posix())] = path.read_bytes()
        await self._put(plain, executable=False)
        await self._put(programs, executable=True)

    async def _put(self, files: Mapping[str, bytes], *, executable: bool) -> None:
        """Into the box; what belongs to ``/tests`` and ``/solution`` through the host's side of those folders."""
        mode = 0o755 if executable else 0o644
        inside: dict[str, bytes] = {}
        for name, content in files.items():
            path = PurePosixPath(name)
            if any(path.is_relative_to(root) for root in _HANDED_IN) and ".." not in path.parts:
                assert self._folder is not None
                target = self._folder / str(path).lstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
                target.chmod(mode)
            else:
                inside[name] = content
        if inside:
            await self._box.upload(inside, mode=mode)

    async def download_file(self, source_path: str, target_path: Path | str) -> None:
        found = await self._box.download([str(source_path)], max_bytes=MAX_DOWNLOAD)
        if str(source_path) not in found:
            raise FileNotFoundError(f"{source_path}: no such regular file in the sandbox")
        Path(target_path).parent.mkdir(parents=True, exist_ok=True)
        Path(target_path).write_bytes(found[str(source_path)])

    async def download_dir(self, source_dir: str, target_dir: Path | str) -> None:
        root = PurePosixPath(source_dir)
        for name, content in (await self._box.download([str(root)], max_bytes=MAX_DOWNLOAD)).items():
            relative = PurePosixPath(name).relative_to(root)
            if ".." in relative.parts or relative.name == ".keep":
                continue
            target = Path(target_dir) / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)

    @property
    def _box(self) -> Sandbox:
        if self._sandbox is None:
            raise RuntimeError("the environment is not started")
        return self._sandbox
