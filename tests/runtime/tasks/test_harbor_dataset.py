"""Datasets of a Harbor registry: a registry file, and a git repository that real git fetches from; and Harbor itself
reads the same dataset."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from runtime.config import HarborSource, TaskSet
from runtime.errors import MachineError, UserError
from runtime.sandboxes import bwrap
from runtime.task import Task
from runtime.tasks.harbor_dataset import Dataset, fetch_tasks, find_dataset, read_registry
from runtime.tasks.prepare import prepare
from tests.certificates import Authority
from tests.toolbox import HARBOR, python_tools

NEEDS_SANDBOX = pytest.mark.skipif(bwrap.why_impossible() is not None, reason=str(bwrap.why_impossible()))

FILES = {
    "task.toml": 'version = "1.0"\n',
    "instruction.md": "Make `x` 1.\n",
    "environment/repo/x.py": "x = 0\n",
    "solution/solve.sh": "#!/bin/sh\nset -e\ncd /app\necho 'x = 1' > x.py\n",
    "tests/test.sh": "#!/bin/sh\ncd /app && python3 -c 'import x; assert x.x == 1'\n"
    "if [ $? -eq 0 ]; then echo 1; else echo 0; fi > /logs/verifier/reward.txt\n",
}


class Upstream:
    """A git repository of tasks, and a registry file that names them."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "datasets.git-work"
        self.root.mkdir()
        self._git("init", "-q", "-b", "main")
        for name in ("alpha", "beta", "beta[2]"):
            self.task(name)
        self.first = self.commit()
        self.registry = folder / "registry.json"

    def task(self, name: str) -> Path:
        for path, text in FILES.items():
            file = self.root / "tasks" / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return self.root / "tasks" / name

    def commit(self) -> str:
        self._git("add", "-A")
        self._git("-c", "user.name=x", "-c", "user.email=x@localhost", "commit", "-q", "-m", "Tasks")
        return self._git("rev-parse", "HEAD")

    def _git(self, *arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=self.root, check=True, capture_output=True, text=True).stdout.strip()

    def entry(self, name: str, *, commit: str | None) -> dict[str, Any]:
        where = {"git_url": f"file://{self.root}", "git_commit_id": commit, "path": f"tasks/{name}"}
        return {"name": name, **where}

    def publish(self, *tasks: dict[str, Any], version: str = "1.0") -> HarborSource:
        row = {"name": "toys", "version": version, "description": "", "tasks": list(tasks), "metrics": []}
        self.registry.write_text(json.dumps([row, {**row, "version": "0.9"}, {**row, "name": "others"}]))
        return HarborSource(dataset="toys", version=version, registry=str(self.registry))


@pytest.fixture
def upstream(tmp_path: Path) -> Upstream:
    return Upstream(tmp_path)


def tasks_of(source: HarborSource, cache: Path, *, left_out: int = 0) -> list[Task]:
    problems: list[str] = []
    tasks = prepare(TaskSet(name="toys", source=source), cache=cache, on_problem=problems.append)
    assert len(problems) == left_out, problems
    return tasks


def dataset_of(source: HarborSource) -> Dataset:
    return find_dataset(read_registry(source), source)


def fetch(source: HarborSource, out: Path) -> str:
    """Which tasks were left out, and why."""
    out.mkdir()
    return "\n".join(fetch_tasks(dataset_of(source), out, on_progress=lambda text: None))


@pytest.mark.sandbox
@NEEDS_SANDBOX
def test_tasks_are_fetched_once_at_their_commit(upstream: Upstream, tmp_path: Path) -> None:
    (upstream.root / "tasks/alpha/environment/repo/x.py").write_text("x = 7\n")
    second = upstream.commit()
    source = upstream.publish(upstream.entry("alpha", commit=second), upstream.entry("beta[2]", commit=upstream.first))
    tasks = tasks_of(source, tmp_path / "cache")
    assert [task.id for task in tasks] == ["alpha", "beta__2__"]
    assert (tasks[0].repository / "x.py").read_text() == "x = 7\n"
    assert (tasks[1].repository / "x.py").read_text() == "x = 0\n"
    assert (tasks[0].tests / "test.sh").read_text() == FILES["tests/test.sh"]
    upstream.root.rename(tmp_path / "gone")
    assert [task.path for task in tasks_of(source, tmp_path / "cache")] == [task.path for task in tasks]


@pytest.mark.sandbox
@NEEDS_SANDBOX
def test_what_moves_stays_as_it_was_first_fetched(upstream: Upstream, tmp_path: Path) -> None:
    source = upstream.publish(upstream.entry("alpha", commit=None), version="head")
    (task,) = tasks_of(source, tmp_path / "cache")
    (upstream.root / "tasks/alpha/environment/repo/x.py").write_text("x = 7\n")
    upstream.commit()
    (again,) = tasks_of(source, tmp_path / "cache")
    assert (again.repository / "x.py").read_text() == "x = 0\n" and again.path == task.path
    (anew,) = tasks_of(source, tmp_path / "another")
    assert (anew.repository / "x.py").read_text() == "x = 7\n"


@pytest.mark.sandbox
@NEEDS_SANDBOX
def test_patterns_choose_and_folders_of_this_machine_are_read_where_they_lie(
    upstream: Upstream, tmp_path: Path
) -> None:
    here = {"name": "gamma", "path": str(upstream.task("gamma"))}
    entries = [upstream.entry(name, commit=upstream.first) for name in ("alpha", "beta")]
    source = upstream.publish(*entries, here)
    chosen = source.model_copy(update={"task_names": ("*a",), "exclude_task_names": ("be*",)})
    tasks = tasks_of(chosen, tmp_path / "cache")
    assert [task.id for task in tasks] == ["alpha", "gamma"]
    assert tasks[1].path == upstream.root / "tasks" / "gamma"
    limited = source.model_copy(update={"limit": 2})
    assert [task.name for task in dataset_of(limited).tasks] == ["alpha", "beta"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dataset": "toy"}, "no dataset has this name; there are others, toys"),
        ({"version": "2.0"}, "there are versions 0.9, 1.0"),
        ({"task_names": ("z*",)}, "none of the 1 tasks"),
        ({"registry": "nowhere.json"}, "nowhere.json: No such file"),
        ({"registry": "http://localhost/registry.json"}, "not an https:// address"),
    ],
)
def test_a_wrong_description_is_said(upstream: Upstream, changes: dict[str, Any], said: str) -> None:
    source = upstream.publish(upstream.entry("alpha", commit=upstream.first)).model_copy(update=changes)
    with pytest.raises(UserError, match=said):
        dataset_of(source)


def test_a_file_that_is_no_registry(upstream: Upstream) -> None:
    source = upstream.publish(upstream.entry("alpha", commit=None))
    for text in ('{"datasets": []}', "[1]", '[{"name": "toys"}]', "no json"):
        upstream.registry.write_text(text)
        with pytest.raises(UserError, match="give a Harbor registry"):
            dataset_of(source)


@pytest.mark.parametrize("path", ["../secrets", "/etc", ".git", ".", "a/../../b"])
def test_paths_out_of_the_repository_are_refused(upstream: Upstream, tmp_path: Path, path: str) -> None:
    source = upstream.publish({**upstream.entry("alpha", commit=upstream.first), "path": path})
    assert "no path below a repository" in fetch(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("url", "commit"), [("ext::sh -c id", "HEAD"), ("--upload-pack=id", "HEAD"), ("file:///x", "--help")]
)
def test_addresses_that_would_run_something_are_refused(
    upstream: Upstream, tmp_path: Path, url: str, commit: str
) -> None:
    source = upstream.publish({**upstream.entry("alpha", commit=commit), "git_url": url})
    assert "not an address and commit that git fetches" in fetch(source, tmp_path / "out")


def test_a_task_that_points_elsewhere_is_refused(upstream: Upstream, tmp_path: Path) -> None:
    repo = upstream.root / "tasks/alpha/environment/repo"
    (repo / "same.py").symlink_to("x.py")
    inside = upstream.commit()
    fetch(upstream.publish(upstream.entry("alpha", commit=inside)), tmp_path / "inside")
    assert (tmp_path / "inside/alpha/environment/repo/same.py").read_text() == "x = 0\n"
    for number, target in enumerate(("/etc/hostname", "../../../beta/task.toml")):
        (repo / "same.py").unlink()
        (repo / "same.py").symlink_to(target)
        commit = upstream.commit()
        source = upstream.publish(upstream.entry("alpha", commit=commit), upstream.entry("beta", commit=commit))
        said = fetch(source, tmp_path / f"outside-{number}")
        assert "tasks/alpha: environment/repo/same.py: a link out of the task" in said and "beta" not in said
        assert [path.name for path in (tmp_path / f"outside-{number}").iterdir()] == ["beta"], "the others stay"


def test_contents_in_git_lfs_are_refused(upstream: Upstream, tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    (upstream.root / "tasks/alpha/tests/data.bin").write_text(pointer)
    source = upstream.publish(upstream.entry("alpha", commit=upstream.commit()))
    assert "data.bin: lies in Git LFS" in fetch(source, tmp_path / "out")


def test_what_git_cannot_fetch_is_a_fault_of_the_machine(upstream: Upstream, tmp_path: Path) -> None:
    source = upstream.publish(upstream.entry("alpha", commit="0" * 40))
    with pytest.raises(MachineError, match="git fetch") as caught:
        fetch(source, tmp_path / "out")
    assert caught.value.fix == f"git ls-remote file://{upstream.root}"
    missing = upstream.publish(upstream.entry("delta", commit=upstream.first))
    assert "no such folder in the repository" in fetch(missing, tmp_path / "other")


@pytest.mark.parametrize(
    "here",
    [
        {"path": "/etc"},
        {"path": "~/tasks"},
        {"git_url": "file:///srv/x", "path": "a"},
        {"git_url": "/srv/x", "path": "a"},
    ],
)
def test_a_registry_elsewhere_names_nothing_of_this_machine(upstream: Upstream, here: dict[str, str]) -> None:
    entries = [{"name": "here", **here}, {"name": "there", "git_url": "https://git.invalid/x", "path": "a"}]
    local = upstream.publish(*entries)
    assert len(dataset_of(local).tasks) == 2, "a registry of this machine may"
    remote = local.model_copy(update={"registry": "https://registry.invalid/registry.json"})
    found = find_dataset(upstream.registry.read_bytes(), remote)
    assert [task.name for task in found.tasks] == ["there"]
    assert len(found.left_out) == 1 and "here: " in found.left_out[0] and "this machine" in found.left_out[0]
    upstream.publish(entries[0])
    with pytest.raises(UserError, match="of this machine"):
        find_dataset(upstream.registry.read_bytes(), remote)


@pytest.mark.sandbox
@NEEDS_SANDBOX
def test_a_registry_elsewhere_is_read_once(upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"git_url": "https://git.invalid/toys", "git_commit_id": upstream.first}
    upstream.publish(
        *({"name": name, "path": f"tasks/{name}", **there} for name in ("alpha", "nowhere")),
        {"name": "here", "path": str(upstream.root / "tasks" / "beta")},
    )
    for name, value in (
        ("COUNT", "1"),
        ("KEY_0", f"url.file://{upstream.root}.insteadOf"),
        ("VALUE_0", there["git_url"]),
    ):
        monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
    issued = Authority(tmp_path / "authority").issue(tmp_path / "issued", "IP:127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(issued / "ca.pem"))
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200 if self.path == "/registry.json" else 404)
            self.end_headers()
            self.wfile.write(upstream.registry.read_bytes())

        def log_message(self, *arguments: object) -> None: ...

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued / "cert.pem", issued / "key.pem")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            address = f"https://127.0.0.1:{server.server_port}"
            source = HarborSource(dataset="toys", version="1.0", registry=f"{address}/registry.json")
            assert [task.id for task in tasks_of(source, tmp_path / "cache", left_out=2)] == ["alpha"]
            with pytest.raises(MachineError, match="404") as caught:
                read_registry(source.model_copy(update={"registry": f"{address}/other.json"}))
            assert caught.value.fix.startswith(f"curl -fL {address}")
        finally:
            server.shutdown()
            thread.join()
    again = tasks_of(source, tmp_path / "cache", left_out=2)
    assert [task.id for task in again] == ["alpha"], "resumed without the registry"
    assert asked == ["/registry.json", "/other.json"]
    with pytest.raises(MachineError, match="cannot be read"):
        tasks_of(source, tmp_path / "another")


_DOWNLOAD = """
import asyncio, sys
from pathlib import Path
from harbor.registry.client.factory import RegistryClientFactory
client = RegistryClientFactory.create(registry_path=Path(sys.argv[1]))
asyncio.run(client.download_dataset("toys@1.0", output_dir=Path(sys.argv[2]), export=True))
"""


@pytest.mark.consumers
@pytest.mark.network
def test_harbor_reads_the_same_tasks(upstream: Upstream, tmp_path: Path) -> None:
    source = upstream.publish(*(upstream.entry(name, commit=upstream.first) for name in ("alpha", "beta")))
    fetch(source, tmp_path / "ours")
    tools = python_tools(HARBOR)
    theirs = tmp_path / "theirs"
    command = [str(tools / "python"), "-c", _DOWNLOAD, str(upstream.registry), str(theirs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    def contents(folder: Path) -> dict[str, bytes]:
        files = (path for path in folder.rglob("*") if path.is_file())
        return {"/".join(path.relative_to(folder).parts): path.read_bytes() for path in files}

    found = contents(theirs)
    assert {name.split("/", 1)[0] for name in found} == {"alpha", "beta"}, sorted(found)
    assert found == contents(tmp_path / "ours")
