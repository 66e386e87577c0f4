"""A RayJob's pods as processes of this machine: KubeRay's part (the commands and variables that it adds to the bundle's
pods) and the kubelet's (mounts, users, addresses).

The commands are those of KubeRay's operator after 1.7 (``common/pod.go``, ``common/job.go``). Each pod has a network
namespace of its own behind one bridge, a read-only root, its volumes, and an ordinary user without capabilities. This
machine's Python stands for the image. Needs root.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.toolbox import require_command

ROOT = Path(__file__).parents[1]
JOB = "quickstart-x7k2p"
UNITS = {"Gi": 1 << 30, "Mi": 1 << 20}
_GATEWAY = "10.244.7.1"
_HEALTH = (
    "import urllib.request; r=urllib.request.urlopen('{url}', timeout=10); exit(0 if b'success' in r.read() else 1)"
)


@dataclass
class Pod:
    """One running pod. ``process`` is that of its container."""

    name: str
    address: str
    spec: Mapping[str, Any]
    cluster: RayJob
    log: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def container(self) -> Mapping[str, Any]:
        (one,) = self.spec["containers"]
        return one  # type: ignore[no-any-return]

    def port(self, name: str) -> int:
        return next(int(port["containerPort"]) for port in self.container["ports"] if port["name"] == name)

    def start(self, script: str, *, more: Mapping[str, str], shell: str = "-c") -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(["/bin/bash", shell, "--", script], more=more),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={},
            )

    def command(self, words: Sequence[str], *, more: Mapping[str, str]) -> list[str]:
        """``words`` in the container, as the kubelet and a container engine would start them."""
        whole, own = self.spec["securityContext"], self.container["securityContext"]
        assert whole["runAsNonRoot"] and own["capabilities"] == {"drop": ["ALL"]}
        assert own["readOnlyRootFilesystem"] and own["allowPrivilegeEscalation"] is False
        user, group = str(whole["runAsUser"]), str(whole["runAsGroup"])
        drop = ["setpriv", f"--reuid={user}", f"--regid={group}", f"--groups={whole.get('fsGroup', group)}"]
        drop += ["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
        variables = {**self.cluster.image_variables, **self._variables(), **more}
        return [
            *("nsenter", f"--net=/run/netns/{self.cluster.prefix}{self.name}", "bwrap", "--die-with-parent"),
            *("--unshare-pid", "--unshare-ipc", "--unshare-uts", "--hostname", self.name, "--clearenv"),
            *(word for name, value in variables.items() for word in ("--setenv", name, value)),
            *self.cluster.root_arguments(),
            *("--proc", "/proc", "--dev", "/dev"),
            *self._volumes(),
            *_python_arguments(),
            *("--remount-ro", "/", "--chdir", self.cluster.workdir),
            *(word for one in ("SETUID", "SETGID", "SETPCAP") for word in ("--cap-add", f"CAP_{one}")),
            *drop,
            *("--", *words),
        ]

    def _variables(self) -> dict[str, str]:
        made = {}
        for one in self.container["env"]:
            source = one.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
            assert "value" in one or source == "status.podIP", one
            made[one["name"]] = one.get("value", self.address)
        return made

    def _volumes(self) -> list[str]:
        volumes = {volume["name"]: volume for volume in self.spec["volumes"]}
        arguments: list[str] = []
        for mount in sorted(self.container["volumeMounts"], key=lambda one: str(one["mountPath"])):
            volume = volumes[mount["name"]]
            arguments += _way_to(Path(mount["mountPath"]))
            if (kept := volume.get("emptyDir")) is not None and kept.get("medium") == "Memory":
                assert kept["sizeLimit"][-2:] in UNITS
                arguments += ["--perms", "1777", "--tmpfs", mount["mountPath"]]
                continue
            folder = self.cluster.volume(self.name, volume, group=self.spec["securityContext"].get("fsGroup"))
            bind = "--ro-bind" if mount.get("readOnly") or "configMap" in volume else "--bind"
            arguments += [bind, str(folder), mount["mountPath"]]
        return arguments

    def ready(self) -> bool:
        """What the readiness probe says."""
        probe = self.container["readinessProbe"]["httpGet"]
        url = f"http://{self.address}:{self.port(probe['port'])}{probe['path']}"
        ask = f"import urllib.request; urllib.request.urlopen('{url}', timeout=5)"
        command = ["nsenter", f"--net=/run/netns/{self.cluster.prefix}{self.name}", sys.executable, "-I", "-c", ask]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)  # bwrap; all of its pod's processes go with it
            self.process.wait()


@dataclass
class RayJob:
    """``objects``: those of the bundle as kustomize hands them to the cluster. Use ``running``."""

    objects: Sequence[Mapping[str, Any]]
    folder: Path
    prefix: str = field(default_factory=lambda: f"lr{os.getpid()}-")
    pods: list[Pod] = field(default_factory=list)
    workdir: str = "/home/liverl"

    def __post_init__(self) -> None:
        (self.job,) = self._of("RayJob")
        self.namespace = self.job["metadata"]["namespace"]
        self.service = f"{JOB}-head-svc.{self.namespace}.svc.cluster.local"

    def _of(self, kind: str) -> list[Mapping[str, Any]]:
        return [one for one in self.objects if one["kind"] == kind]

    @classmethod
    @contextlib.contextmanager
    def running(cls, bundle: Path, folder: Path) -> Iterator[RayJob]:
        """The Ray cluster of a compiled bundle of the target k8s, all of its pods ready."""
        kubectl = require_command("kubectl", package="kubernetes-client")
        built = subprocess.run([kubectl, "kustomize", str(bundle)], stdout=subprocess.PIPE, text=True, check=True)
        made = cls(list(yaml.safe_load_all(built.stdout)), folder)
        try:
            made._start()
            yield made
        finally:
            made._stop()

    # KubeRay

    def _start(self) -> None:
        self._bridge()
        spec = self.job["spec"]["rayClusterSpec"]
        groups = spec["workerGroupSpecs"]
        pods = [self._pod("head", spec["headGroupSpec"]["template"]["spec"])]
        pods += [
            self._pod(f"{one['groupName']}-{n}", one["template"]["spec"])
            for one in groups
            for n in range(one["replicas"])
        ]
        head = pods[0]
        gcs = head.port("gcs-server")
        self._files(head.address)
        common = {
            "RAY_CLUSTER_NAME": JOB,
            "RAY_CLUSTER_NAMESPACE": self.namespace,
            "RAY_PORT": str(gcs),
            "RAY_USAGE_STATS_KUBERAY_IN_USE": "1",
            "RAY_DASHBOARD_ENABLE_K8S_DISK_USAGE": "1",
        }
        parameters = [spec["headGroupSpec"]["rayStartParams"]]
        parameters += [one["rayStartParams"] for one in groups for _ in range(one["replicas"])]
        for pod, given in zip(pods, parameters, strict=True):
            start = ["ray start --head" if pod is head else "ray start"]
            given = dict(given) if pod is head else {"address": f"{self.service}:{gcs}", **given}
            given |= {"metrics-export-port": "8080", "block": "true", "dashboard-agent-listen-port": "52365"}
            limit = pod.container["resources"]["limits"]["memory"]
            given["memory"] = str(int(limit[:-2]) * UNITS[limit[-2:]])
            start += [f"--{name}" if value == "true" else f"--{name}={value}" for name, value in sorted(given.items())]
            more = {**common, "RAY_ADDRESS": f"{'127.0.0.1' if pod is head else self.service}:{gcs}"}
            more |= {
                "RAY_CLOUD_INSTANCE_ID": pod.name,
                "RAY_NODE_TYPE_NAME": pod.name.rpartition("-")[0] or "headgroup",
            }
            more["KUBERAY_GEN_RAY_START_CMD"] = " ".join(start)
            script = f"ulimit -n ${{RAY_START_ULIMIT_OPEN_FILES:-65536}}; {' '.join(start)}"
            # A container engine allows a million; this machine may allow us less than KubeRay asks for.
            more["RAY_START_ULIMIT_OPEN_FILES"] = str(min(65536, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            if pod is not head:
                more |= {"FQ_RAY_IP": self.service, "RAY_IP": f"{JOB}-head-svc"}
                # An init container of the same image, variables and mounts.
                wait = f"until ray health-check --address {self.service}:{gcs} > /dev/null 2>&1; do sleep 0.2; done"
                script = f"{wait}; {script}"
            pod.start(script, more=more)
            # One after the other: a kubelet would start a worker again that came before its head.
            while not pod.ready():
                assert pod.process is not None and pod.process.poll() is None, pod.log.read_text()
                time.sleep(0.2)

    def submit(self) -> Pod:
        """The submitter's pod, which submits the job and follows it to its end."""
        head = self.pods[0]
        url, identity = f"http://{self.service}:{head.port('dashboard')}", f"{JOB}-submission"
        health = _HEALTH.format(url=f"{url}/api/gcs_healthz")
        script = (
            f'until python -c "{health}" >/dev/null 2>&1 ; do sleep 2 ; done ; '
            f"if ! ray job status --address {url} {identity} >/dev/null 2>&1 ; "
            f"then ray job submit --address {url} --no-wait --submission-id {identity} "
            f"-- {self.job['spec']['entrypoint']} ; "
            f"fi ; ray job logs --address {url} --follow {identity}"
        )
        pod = self._pod("submitter", self.job["spec"]["submitterPodTemplate"]["spec"])
        more = {"PYTHONUNBUFFERED": "1", "RAY_DASHBOARD_ADDRESS": url, "RAY_JOB_SUBMISSION_ID": identity}
        pod.start(script, more=more, shell="-ec")
        return pod

    # the kubelet

    def _pod(self, name: str, spec: Mapping[str, Any]) -> Pod:
        address = f"10.244.7.{10 + len(self.pods)}"
        pod = Pod(name, address, spec, self, self.folder / f"{name}.log")
        self.pods.append(pod)
        own, link = f"{self.prefix}{name}", f"v{len(self.pods)}"
        for words in (
            f"netns add {own}",
            f"link add {link} netns {self.prefix}bridge type veth peer name eth0 netns {own}",
            f"-n {self.prefix}bridge link set {link} master br0 up",
            f"-n {own} addr add {address}/24 dev eth0",
            f"-n {own} link set lo up",
            f"-n {own} link set eth0 up",
            f"-n {own} route add default via {_GATEWAY}",
        ):
            _ip(words)
        return pod

    def _bridge(self) -> None:
        own = f"{self.prefix}bridge"
        for words in (
            f"netns add {own}",
            f"-n {own} link add br0 type bridge",
            f"-n {own} addr add {_GATEWAY}/24 dev br0",
            f"-n {own} link set br0 up",
        ):
            _ip(words)

    def volume(self, pod: str, volume: Mapping[str, Any], *, group: int | None) -> Path:
        """The folder of a volume, made when it is first asked for."""
        shared = "persistentVolumeClaim" in volume
        folder = self.folder / "volumes" / ("claim" if shared else pod) / volume["name"]
        if folder.exists():
            return folder
        folder.mkdir(parents=True)
        if "configMap" in volume:
            name = volume["configMap"]["name"]
            data = next(one["data"] for one in self._of("ConfigMap") if one["metadata"]["name"] == name)
            for name, text in data.items():
                (folder / name).write_text(text)
            return folder
        if group is not None:
            os.chown(folder, 0, group)
        folder.chmod(0o2775 if group is not None and shared else 0o2777 if group is not None else 0o777)
        return folder

    def _files(self, head: str) -> None:
        """Of ``/etc``: what a cluster's name service and the image would have said."""
        own = {"hosts": f"127.0.0.1 localhost\n{head} {self.service}\n"}
        for name, line in (("passwd", "liverl:x:10001:10001::/home/liverl:/bin/sh"), ("group", "liverl:x:10001:")):
            own[name] = f"{Path('/etc', name).read_text()}{line}\n"
        (self.folder / "etc").mkdir()
        for name, text in own.items():
            (self.folder / "etc" / name).write_text(text)

    def root_arguments(self) -> list[str]:
        """The image but its Python: this machine's programs, below folders that everybody may enter."""
        arguments = _way_to(Path(self.workdir, "any"))
        for name in ("usr", "bin", "sbin", "lib", "lib32", "lib64", "etc"):
            path = Path("/", name)
            if path.is_symlink():
                arguments += ["--symlink", str(path.readlink()), str(path)]
            elif path.exists():
                arguments += ["--ro-bind", str(path), str(path)]
        for name in ("hosts", "passwd", "group"):
            arguments += ["--ro-bind", str(self.folder / "etc" / name), f"/etc/{name}"]
        return arguments

    @property
    def image_variables(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name.startswith("OPENBLAS_")}
        path = f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        made = {**kept, "PATH": path, "PYTHONUNBUFFERED": "1", "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"}
        # Ray's own resolver asks a name server and knows no /etc/hosts; and its patience is meant for a quiet machine.
        made |= {"GRPC_DNS_RESOLVER": "native", "RAY_raylet_start_wait_time_s": "300"}
        return {**made, "RAY_worker_register_timeout_seconds": "300"}

    def _stop(self) -> None:
        for pod in reversed(self.pods):
            pod.stop()
        for name in [*(pod.name for pod in self.pods), "bridge"]:
            subprocess.run(["ip", "netns", "delete", f"{self.prefix}{name}"], capture_output=True, check=False)


def require() -> None:
    """Skip the test where no pods can be made; in CI, install what is missing."""
    if os.geteuid() != 0:
        pytest.skip("making pods' networks and users needs root")
    packages = {"ip": "iproute2", "nsenter": "util-linux", "setpriv": "util-linux", "bwrap": "bubblewrap"}
    for command, package in packages.items():
        require_command(command, package=package)


def _way_to(path: Path) -> list[str]:
    """Arguments for folders above ``path`` that everybody may enter; by itself bwrap makes them for root alone."""
    return [word for parent in reversed(path.parents) for word in ("--perms", "755", "--dir", str(parent))]


def _python_arguments() -> list[str]:
    """This machine's Python and this checkout. After the volumes: both may lie below ``/tmp``, which is one of them."""
    arguments: list[str] = []
    for path in dict.fromkeys((Path(sys.base_prefix), ROOT, Path(sys.prefix))):
        if not path.is_relative_to("/usr"):
            arguments += [*_way_to(path), "--ro-bind", str(path), str(path)]
    return arguments


def _ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True, capture_output=True)
