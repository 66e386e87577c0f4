"""``liverl run --target``: the client's exact command, its exit code, and what is said when it is missing. The clients
are fakes on PATH that record how they were called."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from liverl import kubernetes_follow, kubernetes_jobs
from runtime.errors import RunError
from runtime.launch import ledger

# A process of the command line each.
pytestmark = pytest.mark.deep

ROOT = Path(__file__).parents[2]
SPEC = str(ROOT / "specs" / "quickstart.jsonnet")
SECRET = (
    'secrets=[{"variable": "HF_TOKEN", "used_by": "policy", "kubernetes": {"name": "hugging-face", "key": "token"}}]'
)


KNOWN = [
    *((f"x v1 {'false' if kind == 'Namespace' else 'true'}", kind) for kind in ("Namespace", "ConfigMap", "Service")),
    *(("x v1 true", kind) for kind in ("ServiceAccount", "ResourceQuota", "LimitRange", "PersistentVolumeClaim")),
    *(("x y rbac.authorization.k8s.io/v1 true", kind) for kind in ("Role", "RoleBinding")),
    ("x netpol networking.k8s.io/v1 true", "NetworkPolicy"),
    ("rayjobs ray.io/v1 true", "RayJob"),
]
"""Of ``kubectl api-resources``; short names may be missing there."""
CLUSTER = """echo "$@" >> {folder}/kubectl.asked
if [ "$1" = api-resources ]; then cat {folder}/known && exit 0; echo "connection refused" >&2; exit 1; fi
case " $* " in
*rayjob*json*) if [ -e {folder}/applied ]; then
    # The states that the job goes through, one for each question; the last one stays.
    head -n 1 {folder}/states; [ $(wc -l < {folder}/states) = 1 ] || sed -i 1d {folder}/states
  else cat {folder}/standing 2>/dev/null; fi; exit 0;;
*" kustomize "*) cat {folder}/kustomized; exit 0;;
*" get pods "*liverl/role=head*) [ -e {folder}/runs ] && echo head-pod; exit 0;;
*" get pods "*) cat {folder}/boxes 2>/dev/null; exit 0;;
*" delete "*|*" annotate "*) exit 0;;
*" logs "*) echo "words of the submitter"; exit 0;;
*" exec "*) while [ "$1" != -- ]; do shift; done; shift; "$@"; exit $?;;
esac
touch {folder}/applied
"""
DONE = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
BUNDLE = "quickstart-bundle-0123456789"


def rayjob(state: str, *, bundle: str = BUNDLE, **annotations: str) -> str:
    """What the cluster has of the job, or kustomize makes."""
    volumes = [{"name": "bundle", "configMap": {"name": bundle}}]
    cluster = {"headGroupSpec": {"template": {"spec": {"volumes": volumes}}}}
    status = {"jobDeploymentStatus": state, "jobStatus": "FAILED" if state == "Failed" else "SUCCEEDED"}
    job = {"kind": "RayJob", "metadata": {"annotations": annotations}, "spec": {"rayClusterSpec": cluster}}
    return json.dumps({**job, "status": status})


def states(folder: Path, *found: dict[str, str] | None) -> None:
    """What the cluster says of the job after it was applied; None: there is none."""
    lines = ["" if one is None else json.dumps({"status": one}) for one in found]
    (folder / "states").write_text("".join(f"{line}\n" for line in lines))


def client(folder: Path, name: str, *, code: int = 0) -> None:
    """A program called ``name`` in ``folder`` that notes its folder and arguments."""
    folder.mkdir(exist_ok=True)
    asked = CLUSTER.format(folder=folder) if name == "kubectl" else '[ "$2" = ps ] && exit 0\n'
    (folder / "known").write_text("".join(f"{one} {kind}\n" for one, kind in KNOWN))
    states(folder, DONE)
    (folder / "kustomized").write_text(rayjob(""))
    (folder / name).write_text(
        f'#!/bin/bash\n{asked}printf "%s\\0" "$PWD" "$@" > {folder}/{name}.called\necho "{name} speaks"\nexit {code}\n'
    )
    (folder / name).chmod(0o755)


def liverl(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "liverl", *arguments],
        cwd=folder,
        # Only the fakes and the shell's own programs: no real client of this machine is ever called.
        env={"PYTHONPATH": str(ROOT), "PATH": f"{folder}/bin:{shell_only(folder)}", "HOME": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


LOOKING = ("ls", "sed", "sh", "stat", "tar", "touch", "wc")


def shell_only(folder: Path) -> str:
    programs = folder / "shell"
    if not programs.exists():
        programs.mkdir()
        for name in (
            "bash",
            "cat",
            "dirname",
            "env",
            "git",
            "grep",
            "head",
            "ls",
            "sed",
            "sh",
            "stat",
            "tar",
            "touch",
            "wc",
        ):
            found = next((path for path in ("/bin", "/usr/bin") if os.access(f"{path}/{name}", os.X_OK)), None)
            if found:
                (programs / name).symlink_to(f"{found}/{name}")
    return str(programs)


@pytest.mark.parametrize(
    ("target", "program", "arguments"),
    [
        ("docker", "docker", ["compose", "up"]),
        ("k8s", "kubectl", ["apply", "--server-side", "--force-conflicts", "--field-manager=liverl", "-k", "."]),
        ("skypilot", "sky", ["jobs", "launch", "--yes", "task.sky.yaml", "--secret", "HF_TOKEN"]),
        ("ray", "ray", ["job", "submit", "--address", "http://127.0.0.1:8265", "--working-dir", "."]),
    ],
)
def test_the_client_gets_the_bundle(tmp_path: Path, target: str, program: str, arguments: list[str]) -> None:
    client(tmp_path / "bin", program)
    ended = liverl(tmp_path, "run", SPEC, "--target", target, "--set", SECRET, HF_TOKEN="hf_secretvalue")
    assert ended.returncode == 0, ended.stderr
    where, *given = (tmp_path / "bin" / f"{program}.called").read_text().split("\0")[:-1]
    assert Path(where) == tmp_path / "build" / "quickstart" / target
    assert given[: len(arguments)] == arguments
    assert f"+ cd build/quickstart/{target} && " in ended.stdout and f"{program} speaks" in ended.stdout
    assert ended.stdout.index("+ cd") < ended.stdout.index("speaks")
    assert "follow with:" in ended.stderr
    everything = ended.stdout + ended.stderr + "".join(path.read_text() for path in Path(where).iterdir())
    assert "secretvalue" not in everything


def test_a_managed_job_gets_the_bucket_of_its_files(tmp_path: Path) -> None:
    client(tmp_path / "bin", "sky")
    bucket = 'cluster.skypilot={"infra": "gcp", "jobs_bucket": "gs://team-jobs/liverl"}'
    assert liverl(tmp_path, "run", SPEC, "--target", "skypilot", "--set", bucket).returncode == 0
    given = (tmp_path / "bin" / "sky.called").read_text().split("\0")[1:-1]
    assert given == ["jobs", "launch", "--yes", "task.sky.yaml", "--config", "jobs.bucket=gs://team-jobs/liverl"]
    (tmp_path / "bin" / "sky").unlink()
    missing = liverl(tmp_path, "run", SPEC, "--target", "skypilot", "--set", bucket)
    assert missing.returncode == 3 and "skypilot[gcp]" in missing.stderr


def test_a_compiled_bundle_is_launched_where_it_lies(tmp_path: Path) -> None:
    client(tmp_path / "bin", "kubectl")
    assert liverl(tmp_path, "compile", SPEC, "--target", "k8s", "-o", "there").returncode == 0
    assert liverl(tmp_path, "run", "there", "--target", "kubernetes").returncode == 0
    assert (tmp_path / "bin" / "kubectl.called").read_text().split("\0")[0] == str(tmp_path / "there")
    other = liverl(tmp_path, "run", "there", "--target", "ray")
    assert other.returncode == 2 and "compiled for k8s, not for ray" in other.stderr


@pytest.mark.parametrize(("target", "program"), [("docker", "docker"), ("k8s", "kubectl"), ("skypilot", "sky")])
def test_a_missing_client_is_named_with_its_cure(tmp_path: Path, target: str, program: str) -> None:
    ended = liverl(tmp_path, "run", SPEC, "--target", target)
    assert ended.returncode == 3
    assert f"the program {program} is missing" in ended.stderr and "fix: " in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_client_beside_this_program_need_not_be_on_the_path(tmp_path: Path) -> None:
    client(tmp_path / "environment", "ray")
    (tmp_path / "environment" / "python").symlink_to(sys.executable)
    ended = subprocess.run(
        [tmp_path / "environment" / "python", "-m", "liverl", "run", SPEC, "--target", "ray"],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{ROOT}:{sysconfig.get_path('purelib')}", "PATH": shell_only(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    assert "ray speaks" in ended.stdout and "follow with: environment/ray job list" in ended.stderr


def test_a_cluster_that_lacks_a_kind_gets_nothing_of_the_bundle(tmp_path: Path) -> None:
    client(tmp_path / "bin", "kubectl")
    lines = (tmp_path / "bin" / "known").read_text().splitlines()
    (tmp_path / "bin" / "known").write_text("\n".join(line for line in lines if "RayJob" not in line))
    ended = liverl(tmp_path, "run", SPEC, "--target", "k8s")
    assert ended.returncode == 3 and "knows no RayJob" in ended.stderr and "KubeRay" in ended.stderr
    (tmp_path / "bin" / "known").unlink()
    ended = liverl(tmp_path, "run", SPEC, "--target", "k8s")
    assert ended.returncode == 3 and "reaches no cluster: connection refused" in ended.stderr
    assert not (tmp_path / "bin" / "kubectl.called").exists()


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the fake ``kubectl`` notes what it is asked, and reads what it answers."""
    client(tmp_path / "bin", "kubectl")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{shell_only(tmp_path)}")
    monkeypatch.setattr(kubernetes_follow, "POLL_SEC", 0.0)
    monkeypatch.setattr(kubernetes_follow, "_RUNS", str(tmp_path / "bin" / "runs"))
    return tmp_path / "bin"


@pytest.fixture
def job(cluster: Path) -> kubernetes_jobs.Job:
    """One that was applied."""
    (cluster / "applied").touch()
    return JOB


JOB = kubernetes_jobs.Job("quickstart", "liverl")
OTHER = "quickstart-bundle-9876543210"


def asked(cluster: Path) -> list[str]:
    return (cluster / "kubectl.asked").read_text().splitlines()


@pytest.mark.parametrize(
    ("standing", "head", "applied", "deleted"),
    [
        ("", False, True, False),
        (rayjob("Running"), True, False, False),
        (rayjob("Suspended"), False, False, False),
        (rayjob("Complete"), True, False, False),
        (rayjob("Complete"), False, True, True),
        (rayjob("Failed", **{kubernetes_jobs.REPORTED: "true"}), True, True, True),
        (rayjob("Failed", bundle=OTHER), True, True, True),
        (json.dumps({"spec": {"clusterSelector": {}}, "status": {"jobDeploymentStatus": "Failed"}}), True, True, True),
    ],
)
def test_what_stands_is_never_applied_again(
    cluster: Path, standing: str, head: bool, applied: bool, deleted: bool
) -> None:
    """Only what ended makes room, and not before its end was told; boxes of a killed trainer only where none goes
    on."""
    (cluster / "standing").write_text(standing)
    (cluster / "boxes").write_text("pod/box-1\n")
    if head:
        (cluster / "runs").mkdir()
    (cluster / "known").write_text("x v1 true ConfigMap\n")
    bundle = cluster / "bundle"
    bundle.mkdir()
    assert kubernetes_jobs.prepare(bundle, JOB) is applied
    assert ("--namespace liverl delete rayjob quickstart" in asked(cluster)) is deleted
    chosen = "--selector liverl/experiment=quickstart,app.kubernetes.io/managed-by=liverl"
    assert any(f"--namespace liverl-sandboxes delete pods {chosen}" in line for line in asked(cluster)) is applied


def test_another_bundle_is_not_put_under_a_living_job(cluster: Path) -> None:
    (cluster / "standing").write_text(rayjob("Running", bundle=OTHER))
    with pytest.raises(RunError, match=r"goes on in liverl \(Running\) with another bundle.*delete rayjob quickstart"):
        kubernetes_jobs.prepare(cluster / "none", JOB)


def test_a_living_job_is_followed_by_the_same_command(tmp_path: Path) -> None:
    client(tmp_path / "bin", "kubectl")
    (tmp_path / "bin" / "standing").write_text(rayjob("Complete"))
    (tmp_path / "bin" / "runs").mkdir()
    ended = liverl(tmp_path, "run", SPEC, "--target", "k8s")
    assert ended.returncode == 0, ended.stderr
    assert not (tmp_path / "bin" / "kubectl.called").exists() and "ended (Complete) while nobody" in ended.stdout
    assert "delete rayjob quickstart" in ended.stderr and "logs --follow" in ended.stderr
    assert asked(tmp_path / "bin")[-1] == "--namespace liverl delete rayjob quickstart", "its nodes are free then"


def far_run(cluster: Path, name: str = "20260101-000000-000", *, beat: float = 2000.0, **record: str) -> Path:
    """A run on the volume, as the head's pod sees it."""
    far = cluster / "runs" / "quickstart" / name
    far.mkdir(parents=True)
    record = {"run": name, "experiment": "quickstart", "target": "k8s", "state": "succeeded", "host": "head", **record}
    (far / "run.json").write_text(json.dumps(record))
    (far / ".heartbeat").touch()
    os.utime(far / ".heartbeat", (beat, beat))
    return far


def test_a_job_is_followed_to_its_end_and_its_run_comes_home(
    job: kubernetes_jobs.Job, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    states(tmp_path / "bin", {}, {"jobDeploymentStatus": "Initializing"}, {"jobDeploymentStatus": "Running"}, DONE)
    far_run(tmp_path / "bin", "20250101-000000-000", beat=1000.0)
    far = far_run(tmp_path / "bin")
    (far / "state").mkdir()
    for _ in range(2):  # the second time it is there already
        kubernetes_follow.follow(job, runs_dir=tmp_path / "runs")
    said = capfd.readouterr().out.splitlines()
    told = [line for line in said if line.startswith("job quickstart")]
    assert told[:4] == [f"job quickstart: {state}" for state in ("New", "Initializing", "Running", "Complete")]
    assert "words of the submitter" in said
    (found,) = ledger.runs(tmp_path / "runs")
    assert found.state == "succeeded" and found.record.run == far.name
    assert not (tmp_path / "runs" / "quickstart" / far.name / "state").exists(), "what is large stays there"
    assert asked(tmp_path / "bin")[-1] == "--namespace liverl delete rayjob quickstart"


@pytest.mark.parametrize(
    ("last", "words"),
    [
        (
            {"jobDeploymentStatus": "Failed", "reason": "DeadlineExceeded", "message": "too late"},
            "DeadlineExceeded too",
        ),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}, "failed: STOPPED"),
        (None, "was deleted"),
    ],
)
def test_a_job_that_fails_fails_the_run(
    job: kubernetes_jobs.Job, tmp_path: Path, last: dict[str, str] | None, words: str
) -> None:
    states(tmp_path / "bin", {"jobDeploymentStatus": "Running"}, last)
    with pytest.raises(RunError, match=words):
        kubernetes_follow.follow(job, runs_dir=tmp_path / "runs")
    assert not any("delete rayjob" in line for line in asked(tmp_path / "bin")), "its pods may still be looked at"
    told = f"--namespace liverl annotate --overwrite rayjob quickstart {kubernetes_jobs.REPORTED}=true"
    assert (told in asked(tmp_path / "bin")) is (last is not None)


BEGAN = "1970-01-01T00:30:00Z"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("old", "the job made no run"),
        ("cut", "the copy was cut off"),
        ("cut without a word", "the copy was cut off"),
        ("no record", "not a run directory"),
        ("nothing", "the job made no run"),
    ],
)
def test_what_cannot_be_brought_home_leaves_what_is_there(
    job: kubernetes_jobs.Job, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str, words: str
) -> None:
    """And the job's end is told all the same."""
    cluster = tmp_path / "bin"
    states(cluster, {**DONE, "startTime": BEGAN})
    (cluster / "runs").mkdir()
    far = far_run(cluster, beat=1000.0 if damage == "old" else 2000.0) if damage != "nothing" else None
    here = tmp_path / "runs" / "quickstart" / "20260101-000000-000"
    here.mkdir(parents=True)
    (here / "run.json").write_text('{"run": "x", "experiment": "x", "target": "k8s", "host": "head"}')
    if damage.startswith("cut"):
        lost = '"$@" | head -c 1536; exit 1;;' if damage == "cut" else '"$@" 2> /dev/null | head -c 1536; exit 0;;'
        script = (cluster / "kubectl").read_text()
        (cluster / "kubectl").write_text(script.replace('"$@"; exit $?;;', lost))
    elif damage == "no record" and far is not None:
        (far / "run.json").unlink()
    kubernetes_follow.follow(job, runs_dir=tmp_path / "runs")
    assert words in capsys.readouterr().err
    assert json.loads((here / "run.json").read_text())["run"] == "x"
    assert not (here.parent / ".arriving").exists()
    assert asked(cluster)[-1] == "--namespace liverl delete rayjob quickstart"


def test_a_connection_that_ends_repeats_little(
    job: kubernetes_jobs.Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was said since the words were last heard, not since they began."""
    clock = [1000.0]
    streams: list[list[str]] = []

    class Stream:
        """Heard at two looks, the second 100 s after it began; found ended 200 s after that."""

        def __init__(self, command: list[str], **_: object) -> None:
            streams.append(command)
            self.looks = 5

        def poll(self) -> int | None:
            self.looks -= 1
            return None if self.looks > 0 else 0

        def wait(self, _: float = 0.0) -> None: ...

        def terminate(self) -> None: ...

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return clock[0]

        @staticmethod
        def sleep(_: float) -> None:
            clock[0] += 100.0

    monkeypatch.setattr(kubernetes_follow, "time", Clock)
    monkeypatch.setattr(kubernetes_follow.subprocess, "Popen", Stream)
    monkeypatch.setattr(kubernetes_follow, "_end", lambda *_, **__: None)
    running = {"jobDeploymentStatus": "Running"}
    answers = iter([*[(running, "")] * 4, (DONE, "")])
    monkeypatch.setattr(kubernetes_follow, "_status", lambda _: next(answers))
    kubernetes_follow.follow(job, runs_dir=tmp_path)
    assert [command[-1] for command in streams] == ["--tail=-1", "--since=201s"]
    assert all("--max-log-requests=25" in command for command in streams)


def test_a_cluster_that_stays_away_ends_the_following(
    job: kubernetes_jobs.Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin" / "kubectl").write_text("#!/bin/bash\necho connection refused >&2\nexit 1\n")
    monkeypatch.setattr(kubernetes_follow, "DEAF", 2)
    with pytest.raises(RunError, match="connection refused; the job quickstart goes on without us"):
        kubernetes_follow.follow(job, runs_dir=tmp_path / "runs")


ENGINE = """case "$1" in info) {info};; image) exit 1;; esac
[ "$2" = version ] && exit {compose}
[ "$2" = ps ] && echo '{ended}' && exit 0
env | grep ^LIVERL_ > {folder}/variables
"""


def engine(folder: Path, *, info: str = "echo 20.10.24+dfsg1 2; exit 0", compose: int = 0, ended: str = "") -> None:
    folder.mkdir(exist_ok=True)
    script = ENGINE.format(info=info, compose=compose, folder=folder, ended=ended)
    (folder / "docker").write_text(f"#!/bin/bash\n{script}")
    (folder / "docker").chmod(0o755)


MACHINE = 'cluster.docker.machine={"cpus": 4, "memory_gib": 8}'


@pytest.mark.parametrize(
    ("settings", "sets", "words"),
    [
        ({"info": "echo cannot connect >&2; exit 1"}, [], "no Docker engine answers: cannot connect"),
        ({"info": "echo 19.03.1 2; exit 0"}, [], "is 19.03"),
        ({"compose": 1}, [], "no plug-in compose"),
        ({}, ["--set", MACHINE], "cluster.docker.machine.cpus: 4, but the engine's machine has 2"),
    ],
)
def test_an_engine_that_cannot_is_named_first(
    tmp_path: Path, settings: dict[str, Any], sets: list[str], words: str
) -> None:
    engine(tmp_path / "bin", **settings)
    ended = liverl(tmp_path, "run", SPEC, "--target", "docker", *sets)
    assert ended.returncode == 3 and words in ended.stderr and not (tmp_path / "bin" / "variables").exists()


def test_compose_is_told_where_the_source_lies(tmp_path: Path) -> None:
    """From any folder, and of another checkout if asked to; without one the image must be there already."""
    engine(tmp_path / "bin")
    ended = liverl(tmp_path, "run", SPEC, "--target", "docker")
    assert ended.returncode == 0, ended.stderr
    bundle = tmp_path / "build" / "quickstart" / "docker"
    told = dict(line.split("=", 1) for line in (tmp_path / "bin" / "variables").read_text().splitlines())
    assert told == {"LIVERL_SOURCE": str(ROOT), "LIVERL_DOCKERFILE": str(bundle / "Dockerfile")}
    ended = liverl(tmp_path, "run", SPEC, "--target", "docker", LIVERL_SOURCE=str(tmp_path))
    assert ended.returncode == 3 and "docker pull" in ended.stderr


@pytest.mark.parametrize(
    ("ended", "code"),
    [('{"Name": "x", "ExitCode": 4}', 4), ('[{"Name": "x", "ExitCode": 126}]', 4), ('{"Name": "x", "ExitCode": 0}', 0)],
)
def test_a_container_that_fails_fails_the_run(tmp_path: Path, ended: str, code: int) -> None:
    """Though Compose is content; older ones print a list."""
    engine(tmp_path / "bin", ended=ended)
    done = liverl(tmp_path, "run", SPEC, "--target", "docker")
    assert done.returncode == code and ("x ended with code" in done.stderr) == bool(code)


def test_a_client_that_fails_fails_the_run(tmp_path: Path) -> None:
    client(tmp_path / "bin", "kubectl", code=5)
    ended = liverl(tmp_path, "run", SPEC, "--target", "k8s")
    assert ended.returncode == 4 and "kubectl ended with code 5" in ended.stderr


@pytest.mark.parametrize(("target", "program"), [("docker", "docker"), ("skypilot", "sky")])
def test_a_secret_that_the_shell_lacks_is_asked_for(tmp_path: Path, target: str, program: str) -> None:
    client(tmp_path / "bin", program)
    ended = liverl(tmp_path, "run", SPEC, "--target", target, "--set", SECRET)
    assert ended.returncode == 3 and "export HF_TOKEN=" in ended.stderr
    assert not (tmp_path / "bin" / f"{program}.called").exists()


@pytest.mark.parametrize("arguments", [["--target", "k8s"], [SPEC, "--target", "k8s", "--resume", "last"]])
def test_what_makes_no_sense_elsewhere_is_refused(tmp_path: Path, arguments: list[str]) -> None:
    ended = liverl(tmp_path, "run", *arguments)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr


def test_resume_auto_finds_the_run_of_this_bundle(tmp_path: Path) -> None:
    """Another host's unfinished run is taken over; one of another bundle, or a finished one, is not."""
    from compiler import compile_in_memory
    from liverl.again import unfinished
    from runtime.files import write_folder
    from runtime.launch import rundir

    files = compile_in_memory(SPEC).files
    other = compile_in_memory(SPEC, sets=["seed=1"]).files
    runs = tmp_path / "runs"
    assert unfinished(files, runs_dir=runs) is None
    mine = rundir.create(runs, experiment="quickstart", target="local")
    write_folder(mine.bundle, files)
    mine.update(state="running", host="a-machine-that-is-gone", kernel="its own")
    foreign = rundir.create(runs, experiment="quickstart", target="local")
    write_folder(foreign.bundle, other)
    assert mine.alive
    found = unfinished(files, runs_dir=runs)
    assert found is not None and found.path == mine.path
    assert not mine.alive and mine.read().state == "running"
    mine.finish("failed", exit_code=4, cause="x")
    again = unfinished(files, runs_dir=runs)
    assert again is not None and again.path == mine.path
    mine.finish("failed", exit_code=4, cause="x", ended_by_itself=True)
    with pytest.raises(RunError, match=r"^x\n\S+ ended by itself.*run --resume"):
        unfinished(files, runs_dir=runs)
    mine.finish("succeeded", exit_code=0, cause="")
    assert unfinished(files, runs_dir=runs) is None
    assert json.loads(foreign.record_file.read_text())["state"] == "pending"
