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
ORDINARY = 10002
"""The user of an image whose tag is ``ordinary``."""


def mebibytes(quantity: str) -> int:
    units = {"Ki": 1 / 1024, "Mi": 1, "Gi": 1024}
    return int(float(quantity[:-2]) * units[quantity[-2:]])


class Volumes:
    """The volumes of one pod. agents: image -> what it holds at /opt/agent, which its init container copies."""

    def __init__(self, spec: Mapping[str, Any], agents: Mapping[str, Path]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pod-"))
        for volume in spec.get("volumes", ()):
            (self.folder / volume["name"]).mkdir()
            (self.folder / volume["name"]).chmod(0o777)
        for before in spec.get("initContainers", ()):
            if before["image"] in agents:
                name = before["volumeMounts"][0]["name"]
                shutil.copytree(agents[before["image"]], self.folder / name, dirs_exist_ok=True)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class Container:
    """One running container of a pod, its first one or an init container. ``ended`` is set with its terminated state
    once its first process is gone. tree: the files of its image, where that is not this machine's programs."""

    def __init__(
        self,
        spec: Mapping[str, Any],
        volumes: Volumes,
        *,
        box: Mapping[str, Any] | None = None,
        tree: Path | None = None,
    ) -> None:
        self._spec = spec
        self._box = box or spec["containers"][0]
        self._tree = tree
        self._volumes = volumes.folder
        self.folder = Path(tempfile.mkdtemp(prefix="container-"))
        self.memory_mib = mebibytes(self._box["resources"]["limits"]["memory"])
        self.ended: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.oom = False
        self._init: asyncio.subprocess.Process | None = None
        self._pid = 0
        self._watcher: asyncio.Task[None] | None = None

    @property
    def environment(self) -> dict[str, str]:
        given = {e["name"]: e["value"] for e in self._box.get("env", ())}
        return {"PATH": bwrap.PATH, **({} if self._tree else bwrap._interpreter()), **given}

    async def start(self) -> None:
        arguments = bwrap.root_arguments()
        if self._tree is not None:
            root = self.folder / "root"
            await asyncio.to_thread(shutil.copytree, self._tree, root, symlinks=True)
            arguments = ["--bind", str(root), "/"]
        for mount in self._box.get("volumeMounts", ()):
            bind = "--ro-bind" if mount.get("readOnly") else "--bind"
            arguments += [bind, str(self._volumes / mount["name"] / mount.get("subPath", "")), mount["mountPath"]]
        mounted = {mount["mountPath"] for mount in self._box.get("volumeMounts", ())}
        if mounted <= {"/dev/shm"}:  # an image's own folders
            for folder in ("/tmp", "/app", "/logs", "/tests", "/solution", "/root"):
                arguments += ["--perms", "0777", "--tmpfs", folder]
        own = ORDINARY if str(self._box["image"]).endswith(":ordinary") else 0
        user = str(self._spec.get("securityContext", {}).get("runAsUser", own))
        read_only = self._box.get("securityContext", {}).get("readOnlyRootFilesystem")
        read, write = os.pipe()
        # A container's root has more users beside it; here it has one, where a capability is of use.
        added = self._box.get("securityContext", {}).get("capabilities", {}).get("add", ()) if user == "0" else ()
        users = await asyncio.to_thread(userns.two_users) if added else None
        namespace = ("--unshare-user",) if users is None else ("--userns", str(users))
        rights = [word for name in added for word in ("--cap-add", f"CAP_{name}")]
        try:
            self._init = await asyncio.create_subprocess_exec(
                *("bwrap", *namespace, *rights, "--unshare-pid", "--unshare-ipc", "--uid", user, "--gid", user),
                *("--die-with-parent", "--as-pid-1", "--info-fd", str(write), *arguments),
                *("--proc", "/proc", "--dev", "/dev"),
                *(("--remount-ro", "/") if read_only else ()),
                *("--chdir", "/", *self._box["command"]),
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
        while self._init.returncode is None and not self._runs():
            await asyncio.sleep(0.005)
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    def _runs(self) -> bool:
        """Whether the first process has become the container's own program."""
        with contextlib.suppress(OSError):
            return not Path(f"/proc/{self._pid}/cmdline").read_bytes().startswith(b"bwrap\0")
        return True  # it was quick

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
        if self._tree is None and shutil.which(command[0]) is None:
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
                "--wdns=/",
                *command,
            ),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self.environment,
            start_new_session=True,
        )
