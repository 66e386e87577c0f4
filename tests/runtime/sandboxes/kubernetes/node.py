"""The kubelet of the test cluster: pods really run, as bubblewrap boxes that share the host's network.

Memory limits are kept by looking at what the pod's processes use; ends are reported as a kubelet reports them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.sandboxes import bwrap, userns

LOOK_SEC = 0.05


def mebibytes(quantity: str) -> int:
    units = {"Ki": 1 / 1024, "Mi": 1, "Gi": 1024}
    return int(float(quantity[:-2]) * units[quantity[-2:]])


class Container:
    """One running container. ``ended`` is set with its terminated state once its first process is gone."""

    def __init__(self, spec: Mapping[str, Any], *, agents: Mapping[str, Path] | None = None) -> None:
        self._spec = spec
        self._agents = agents or {}
        self._box = spec["containers"][0]
        self.folder = Path(tempfile.mkdtemp(prefix="pod-"))
        self.memory_mib = mebibytes(self._box["resources"]["limits"]["memory"])
        self.ended: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.oom = False
        self._init: asyncio.subprocess.Process | None = None
        self._pid = 0
        self._watcher: asyncio.Task[None] | None = None

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": bwrap.PATH, **bwrap._interpreter(), **{e["name"]: e["value"] for e in self._box.get("env", ())}}

    async def start(self) -> None:
        arguments = bwrap.root_arguments()
        for mount in self._box.get("volumeMounts", ()):
            volume = self.folder / mount["name"]
            volume.mkdir()
            volume.chmod(0o777)
            for before in self._spec.get("initContainers", ()):
                if mount["name"] == before["volumeMounts"][0]["name"]:
                    shutil.copytree(self._agents[before["image"]], volume, dirs_exist_ok=True)
            bind = "--ro-bind" if mount.get("readOnly") else "--bind"
            arguments += [bind, str(volume), mount["mountPath"]]
        if not self._box.get("volumeMounts"):  # an image's own folders
            for folder in ("/tmp", "/app", "/logs", "/tests", "/solution", "/root"):
                arguments += ["--perms", "0777", "--tmpfs", folder]
        ready = self.folder / "ready"
        ready.mkdir()
        user = str(self._spec.get("securityContext", {}).get("runAsUser", 0))
        read_only = self._box.get("securityContext", {}).get("readOnlyRootFilesystem")
        read, write = os.pipe()
        # A container's root has more users beside it; here it has one, where a capability is of use.
        added = self._box.get("securityContext", {}).get("capabilities", {}).get("add", ())
        users = await asyncio.to_thread(userns.two_users) if added else None
        namespace = ("--unshare-user",) if users is None else ("--userns", str(users))
        rights = [word for name in added for word in ("--cap-add", f"CAP_{name}")]
        try:
            self._init = await asyncio.create_subprocess_exec(
                *("bwrap", *namespace, *rights, "--unshare-pid", "--unshare-ipc", "--uid", user, "--gid", user),
                *("--die-with-parent", "--as-pid-1", "--info-fd", str(write), *arguments),
                *("--bind", str(ready), "/ready", "--proc", "/proc", "--dev", "/dev"),
                *(("--remount-ro", "/") if read_only else ()),
                *("--chdir", "/", "sh", "-c", 'touch /ready/yes; exec "$@"', "init", *self._box["command"]),
                pass_fds=[write, *([] if users is None else [users])],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                env=self.environment,
                start_new_session=True,
            )
        finally:
            os.close(write)
            if users is not None:
                os.close(users)
        with os.fdopen(read, "rb") as info:  # it arrives in pieces: to the end of file
            self._pid = json.loads(await asyncio.to_thread(info.read))["child-pid"]
        while not (ready / "yes").exists():
            assert self._init.returncode is None
            await asyncio.sleep(0.005)
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        assert self._init is not None
        while self._init.returncode is None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._init.wait()), LOOK_SEC)
            if self._used_mib() > self.memory_mib:
                self.oom = True
                self.kill()
        code = self._init.returncode
        code = 128 - code if code < 0 else code
        if self.oom:
            self._end("OOMKilled", 137)
        else:
            self._end("Completed" if code == 0 else "Error", code)

    def _end(self, reason: str, code: int) -> None:
        if not self.ended.done():
            self.ended.set_result({"reason": reason, "exitCode": code})

    def processes(self) -> list[int]:
        """Of this container, as the host numbers them."""
        found = []
        with contextlib.suppress(OSError):
            inside = Path(f"/proc/{self._pid}/ns/pid").readlink()
            for entry in Path("/proc").iterdir():
                with contextlib.suppress(OSError):
                    if entry.name.isdigit() and (entry / "ns/pid").readlink() == inside:
                        found.append(int(entry.name))
        return found

    def _used_mib(self) -> int:
        pages = 0
        for pid in self.processes():
            with contextlib.suppress(OSError, IndexError):
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") >> 20

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, number)

    async def stop(self) -> None:
        self.kill()
        if self._init is not None:
            self._init.kill() if self._init.returncode is None else None
            await self._init.wait()
        if self._watcher is not None:
            await self._watcher
        await asyncio.to_thread(shutil.rmtree, self.folder, True)

    async def exec(self, command: list[str]) -> asyncio.subprocess.Process:
        """Raises ``FileNotFoundError`` when there is no such program."""
        if shutil.which(command[0]) is None:
            raise FileNotFoundError(command[0])
        return await asyncio.create_subprocess_exec(
            *(
                "nsenter",
                "-t",
                str(self._pid),
                "-U",
                "--preserve-credentials",
                "-m",
                "-p",
                "-i",
                "env",
                "-C",
                "/",
                *command,
            ),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self.environment,
            start_new_session=True,
        )
