"""Harbor's environments (docker, daytona, e2b, gke, modal ... or an import path) as LiveRL's sandboxes.

Needs Python >= 3.12 and the package ``harbor``. Harbor's environments run text commands without standard input, so
input goes in as a file and output comes back in base64. What an environment enforces, Harbor does not say in our terms:
nothing beyond a fresh file system is claimed.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import logging
import secrets
import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime import suggest
from runtime.addresses import web_address
from runtime.config import HarborEnvironment
from runtime.errors import MachineError, Termination, TrialError
from runtime.sandboxes.base import Capabilities, ExecResult, SandboxRequest
from runtime.sandboxes.box import check_lower
from runtime.sandboxes.remote import LinkCut, RemoteSandbox

log = logging.getLogger(__name__)

FAILED = "the environment failed"


class HarborSandbox(RemoteSandbox):
    def __init__(
        self, request: SandboxRequest, provider: HarborProvider, environment: Any, folder: Path, proxy_url: str | None
    ) -> None:
        super().__init__(request, env={}, proxy_url=proxy_url)
        self._provider = provider
        self._environment = environment
        self._folder = folder

    async def _call(self, command: Sequence[str], stdin: bytes, *, timeout_sec: float) -> ExecResult:
        name = f"/tmp/.liverl-{secrets.token_hex(8)}"
        given = self._folder / Path(name).name
        given.write_bytes(stdin)
        script = (
            f"{shlex.join(command)} <{name} >{name}.1 2>{name}.2; c=$?; base64 {name}.1; echo .; base64 {name}.2; "
            f"echo . $c; rm -f {name} {name}.1 {name}.2"
        )
        try:
            async with asyncio.timeout(timeout_sec):
                await self._environment.upload_file(source_path=given, target_path=name)
                answer = await self._environment.exec(command=script)
        except TimeoutError:
            raise
        except Exception as error:  # every environment has exceptions of its own
            raise TrialError(Termination.SANDBOX_LOST, f"sandbox {self.name}: {FAILED}: {error!r}") from error
        finally:
            given.unlink(missing_ok=True)
        try:
            out, err, code = (answer.stdout or "").split(".")
            return ExecResult(int(code), base64.b64decode(out), base64.b64decode(err))
        except (ValueError, binascii.Error) as error:
            raise LinkCut(f"no whole answer (exit code {answer.return_code}): {error}") from error

    async def _end(self) -> None:
        self._provider.forget(self)
        try:
            await self._environment.stop(delete=True)
        finally:
            await asyncio.to_thread(shutil.rmtree, self._folder, True)


class HarborProvider:
    """Implements ``SandboxProvider``."""

    def __init__(self, settings: HarborEnvironment) -> None:
        self._settings = settings
        self._running: set[HarborSandbox] = set()

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            isolation="harbor",
            network_off=False,
            fresh_filesystem=True,
            memory_limit=False,
            cpu_limit=False,
            second_user=True,
            made_by=f"harbor+{self._settings.environment or self._settings.import_path}",
        )

    @property
    def counts(self) -> Mapping[str, float]:
        return {}

    async def start(self, request: SandboxRequest) -> HarborSandbox:
        check_lower(request)
        proxy_url = None
        if request.forward is not None:
            if self._settings.proxy_host is None:
                why = "the environment cannot reach the model proxy: environment.harbor.proxy_host is not set"
                raise TrialError(Termination.ENV_SETUP_FAILED, f"sandbox {request.name}: {why}")
            proxy_url = web_address(self._settings.proxy_host, request.forward[1])
        folder = Path(tempfile.mkdtemp(prefix="liverl-harbor-"))
        environment = None
        try:
            environment = self._make(request, folder)
            await environment.start(force_build=False)
            sandbox = HarborSandbox(request, self, environment, folder, proxy_url)
            await sandbox.furnish(request)
        except BaseException as error:
            if environment is not None:
                with contextlib.suppress(Exception):  # it may not have come far enough to be stopped
                    await asyncio.shield(environment.stop(delete=True))
            await asyncio.to_thread(shutil.rmtree, folder, True)
            if isinstance(error, MachineError) or not isinstance(error, Exception):
                raise
            raise TrialError(Termination.ENV_SETUP_FAILED, f"sandbox {request.name}: {error}") from error
        self._running.add(sandbox)
        return sandbox

    def forget(self, sandbox: HarborSandbox) -> None:
        self._running.discard(sandbox)

    async def close(self) -> None:
        await asyncio.gather(*(sandbox.stop() for sandbox in list(self._running)))

    def _make(self, request: SandboxRequest, folder: Path) -> Any:
        try:
            from harbor.environments.factory import EnvironmentFactory
            from harbor.models.task.config import EnvironmentConfig as TaskEnvironment
            from harbor.models.trial.config import EnvironmentConfig
            from harbor.models.trial.paths import TrialPaths
        except ImportError as error:
            fix = f"with Python 3.12: {suggest.pip('harbor==0.24.0')}"
            raise MachineError(f"no Harbor here: {error}", fix=fix) from error
        for name in ("environment", "trial"):
            (folder / name).mkdir()
        if self._settings.image is not None:
            (folder / "environment" / "Dockerfile").write_text(f"FROM {self._settings.image}\n")
        wanted = {"type": self._settings.environment} if self._settings.environment else {}
        if self._settings.import_path is not None:
            wanted["import_path"] = self._settings.import_path
        session = f"liverl-{secrets.token_hex(6)}__env"
        return EnvironmentFactory.create_environment_from_config(
            EnvironmentConfig(**wanted, kwargs=dict(self._settings.kwargs)),
            environment_dir=folder / "environment",
            environment_name="liverl",
            session_id=session,
            trial_paths=TrialPaths(trial_dir=folder / "trial"),
            task_env_config=TaskEnvironment(
                docker_image=self._settings.image, workdir=request.workdir, memory_mb=request.memory_mib
            ),
        )
