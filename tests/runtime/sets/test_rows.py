"""Rows in the published form become task directories, one by one; what is no task is named."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from liverl.cli import build_app
from runtime.config import (
    Bubblewrap,
    Ecs,
    EcsCluster,
    Harbor,
    HarborEnvironment,
    Kubernetes,
    KubernetesCluster,
    PublishedSource,
    TaskSet,
    TerminalBenchSource,
)
from runtime.errors import ImageError, MachineError, RunError, UserError
from runtime.grading import swebench_log
from runtime.grading.artifacts import select
from runtime.oci.store import ImageStore
from runtime.sandboxes.entries import Entry
from runtime.task import load_task
from runtime.tasks import prepare as room
from runtime.tasks.images import with_images
from runtime.tasks.index import oracle_seconds, read_index, write_index
from runtime.tasks.sets import files as reading
from runtime.tasks.sets.kept import set_directories
from runtime.tasks.sets.load import SETS, Wanted, import_rows
from runtime.tasks.sets.terminal_bench import import_folders
from runtime.tasks.verify import screen
from tests.runtime.sets.published import FILES, ROWS, TOYS

_ISSUE_ONLY = ("hints", "def clamp", "test_shown", "diff --git", "A prompt with")


@pytest.fixture(autouse=True)
def _parsers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swebench_log, "why_missing", lambda parser: None)


def imported(kind: str, out: Path, rows: Path | None = None, **wanted: Any) -> tuple[list[Path], list[str]]:
    problems: list[str] = []
    made = import_rows(
        kind, Wanted(rows=rows or ROWS / FILES[kind], **wanted), out, cache=out, on_problem=problems.append
    )
    return made, problems


@pytest.mark.parametrize("kind", SETS)
def test_every_published_form_makes_tasks(kind: str, tmp_path: Path) -> None:
    made, problems = imported(kind, tmp_path)
    assert len(made) == len(TOYS) and not problems
    for folder, toy in zip(made, TOYS, strict=True):
        task = load_task(folder)
        facts = task.liverl.published
        assert facts is not None and facts.set == kind and facts.origin == FILES[kind]
        assert task.instruction.strip() == toy.issue and not any(word in task.instruction for word in _ISSUE_ONLY)
        names = [*task.liverl.fail_to_pass, *task.liverl.pass_to_pass]
        names = names or list(json.loads((task.tests / "expected.json").read_bytes()))
        assert [name.rpartition("::")[2] for name in names] in (
            ["test_shown", "test_kept"],
            ["test_kept", "test_shown"],
        )
        assert task.expected_ids == () and task.by_log and task.solve_script is not None
        assert facts.history == ("none" if kind == "swe-smith" else "base")
        assert (len(facts.base_commit) == 40) == (kind not in ("swe-smith", "r2e"))
        shown = b"".join(path.read_bytes() for path in (folder / "environment").rglob("*") if path.is_file())
        assert b"test_shown" not in shown, "tests are shown to nobody but the verifier"
    assert facts.licence == ("apache-2.0" if kind == "swe-rebench" else "")


@pytest.mark.parametrize(
    ("kind", "reference"),
    [
        ("swe-bench", "docker.io/swebench/sweb.eval.x86_64.liverl_1776_clamp-1:latest"),
        ("swe-gym", "docker.io/xingyaoww/sweb.eval.x86_64.liverl_s_clamp-1:latest"),
        ("swe-rebench", "docker.io/swerebench/sweb.eval.x86_64.liverl_1776_clamp-1:latest"),
        ("r2e", f"docker.io/namanjain12/clamp_final:{1:040x}"),
    ],
)
def test_images_have_the_names_of_their_sets(kind: str, reference: str, tmp_path: Path) -> None:
    made, _ = imported(kind, tmp_path, limit=1)
    source = load_task(made[0]).work.source
    assert source is not None and source.reference == reference


def broken(row: dict[str, Any], **changes: Any) -> dict[str, Any]:
    changed = {**row, **changes}
    return {key: value for key, value in changed.items() if value is not None}


def _commit(path: str) -> str:
    return json.dumps({"file_diffs": [{"header": {"file": {"path": path}}, "new_file_content": ""}]})


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("swe-bench", {"eval_script": None}, "no column eval_script"),
        ("swe-bench", {"FAIL_TO_PASS": "[]"}, "FAIL_TO_PASS is empty"),
        ("swe-bench", {"FAIL_TO_PASS": "[1"}, "FAIL_TO_PASS is no list of tests"),
        ("swe-bench", {"problem_statement": " "}, "problem_statement is empty"),
        ("swe-bench", {"test_patch": "diff --git a/../x b/../x\n"}, "leads out of the repository"),
        ("swe-bench", {"image_assets": '{"test_patch": [{"path": "a.png"}]}'}, "image_assets"),
        ("swe-bench", {"instance_id": "../x"}, "is no name of a folder"),
        ("swe-bench", {"meta": 3, "eval_type": "x"}, "eval_type 'x'"),
        ("swe-smith", {"image_name": "python:3"}, "image_name 'python:3'"),
        ("swe-smith", {"problem_statement": ""}, "problem_statement is empty"),
        ("swe-smith", {"FAIL_TO_PASS": ["TestX"]}, "not pytest's"),
        ("swe-gym", {"repo": "a/b"}, "no test command is known for a/b"),
        ("r2e", {"expected_output_json": "[]"}, "expected_output_json is no table"),
        ("r2e", {"docker_image": None}, "docker_image is missing"),
        ("r2e", {"execution_result_content": '{"test_file_names": ["../x"], "test_file_codes": [""]}'}, "no name of a"),
        ("r2e", {"parsed_commit_content": '{"file_diffs": [3]}'}, "without the path"),
        (
            "r2e",
            {"execution_result_content": '{"test_file_names": [".."], "test_file_codes": [""]}'},
            "must be relative",
        ),
        ("r2e", {"parsed_commit_content": _commit("../x.py")}, "must be relative"),
        ("r2e", {"parsed_commit_content": _commit(".git/x.py")}, "must be relative"),
        ("r2e", {"parsed_commit_content": _commit("x" * 300 + ".py")}, "too long for a file"),
        ("r2e", {"parsed_commit_content": "[" * 100_000}, "recursion"),
        ("swe-bench", {"base_commit": "--help"}, "base_commit"),
        ("swe-rebench", {"language": "go", "repo": "x/$(touch x)"}, "none of OWNER/NAME"),
        ("swe-rebench", {"docker_image": None}, "no image of this task"),
        ("swe-rebench", {"install_config": {"log_parser": "x"}}, "test_cmd is missing"),
        ("swe-rebench", {"install_config": None}, "install_config is missing"),
    ],
)
def test_a_broken_row_is_named_and_the_others_go_on(
    kind: str, changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    found = [dict(row) for _, row in reading.read_rows(ROWS / FILES[kind])]
    (tmp_path / "rows.json").write_text(json.dumps([broken(found[0], **changes), found[1]]))
    made, problems = imported(kind, tmp_path / "out", tmp_path / "rows.json")
    assert len(made) == 1 and len(problems) == 1
    assert said in problems[0] and problems[0].startswith(f"{tmp_path}/rows.json[0]: ")


def test_lines_that_are_no_rows_and_rows_that_are_there_twice(tmp_path: Path) -> None:
    lines = (ROWS / FILES["swe-smith"]).read_text().splitlines()
    (tmp_path / "rows.jsonl").write_text("\n".join([lines[0], "{", "[1]", "[" * 100_000, lines[0], lines[1]]))
    made, problems = imported("swe-smith", tmp_path / "out", tmp_path / "rows.jsonl")
    assert len(made) == 2
    starts = [f"{tmp_path}/rows.jsonl:{number}: " for number in (2, 3, 4, 5)]
    assert [problem.startswith(start) for problem, start in zip(problems, starts, strict=True)] == [True] * 4
    assert "no JSON" in problems[0] and "not list" in problems[1] and "is there already" in problems[3]


def test_what_is_asked_for(tmp_path: Path) -> None:
    made, _ = imported("swe-bench", tmp_path / "a", instances=("liverl__slug-2",))
    assert [path.name for path in made] == ["liverl__slug-2"]
    made, _ = imported("swe-bench", tmp_path / "b", repositories=("liverl/wrap", "liverl/slug"), limit=1)
    assert [path.name for path in made] == ["liverl__slug-2"]
    both = ("liverl__clamp-1", "liverl__slug-2")
    made, problems = imported("swe-bench", tmp_path / "one of both", instances=both, limit=1)
    assert len(made) == 1 and not problems
    with pytest.raises(UserError, match="no instance liverl__nothing-1"):
        imported("swe-bench", tmp_path / "c", instances=("liverl__nothing-1",))
    with pytest.raises(RunError, match="no task of swe-gym"):
        imported("swe-gym", tmp_path / "d", ROWS / FILES["swe-smith"])
    (tmp_path / "no.parquet").write_bytes(b"nothing")
    with pytest.raises(UserError, match="no rows can be read"):
        imported("swe-bench", tmp_path / "e", tmp_path / "no.parquet")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="no rows can be read"):
        imported("swe-bench", tmp_path / "e", tmp_path / "deep.json")
    with pytest.raises(UserError, match="no name of a data set"):
        import_rows("swe-bench", Wanted(dataset="a b"), tmp_path, cache=tmp_path, on_problem=pytest.fail)
    with pytest.raises(UserError, match="no rows there"):
        imported("swe-bench", tmp_path / "e", tmp_path / "a")


def test_a_parser_that_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swebench_log, "why_missing", lambda parser: f"no {parser}")
    monkeypatch.setattr(swebench_log, "installed", lambda: "5.0.2")
    problems: list[str] = []
    rows = Wanted(rows=ROWS / FILES["swe-bench"])
    with pytest.raises(RunError):
        import_rows("swe-bench", rows, tmp_path, cache=tmp_path, on_problem=problems.append)
    assert len(problems) == len(TOYS) and all("no parse_log_pytest" in problem for problem in problems)
    monkeypatch.setattr(swebench_log, "installed", lambda: None)
    with pytest.raises(MachineError, match="package swebench is missing") as caught:
        import_rows("swe-bench", rows, tmp_path, cache=tmp_path, on_problem=pytest.fail)
    assert caught.value.fix.startswith("pip install --no-deps")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A hub with one data set, one file of it."""
    content, commit = (ROWS / FILES["swe-bench"]).read_bytes(), "c" * 40
    about = {"id": "a/b", "sha": commit, "siblings": [{"rfilename": "data/test-0.parquet"}, {"rfilename": "README.md"}]}

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            file = self.path.endswith("test-0.parquet")
            tree = [{"type": "file", "path": "data/test-0.parquet", "size": len(content), "oid": "d" * 40}]
            body = content if file else json.dumps(tree if "/tree/" in self.path else about).encode()
            self.send_response(200)
            for name, value in {"ETag": '"e"', "X-Repo-Commit": commit, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    yield address
    server.shutdown()
    thread.join()
    server.server_close()


def test_rows_of_the_hub(hub: str, tmp_path: Path) -> None:
    problems: list[str] = []
    wanted = Wanted(dataset="a/b")
    made = import_rows("swe-bench", wanted, tmp_path / "out", cache=tmp_path, on_problem=problems.append)
    facts = load_task(made[0]).liverl.published
    assert len(made) == len(TOYS) and facts is not None and facts.origin == f"a/b@{'c' * 40}"


def test_no_network_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(MachineError, match="does not give SWE-bench/SWE-bench_Verified") as caught:
        import_rows("swe-bench", Wanted(), tmp_path, cache=tmp_path, on_problem=pytest.fail)
    assert "--rows" in str(caught.value.fix)


def test_a_set_of_a_spec_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is left out is named again by the next run."""
    asked: list[str] = []
    monkeypatch.setattr(room, "with_images", lambda tasks, **more: asked.extend(task.id for task in tasks) or [])
    monkeypatch.setattr(room, "_screened", lambda tasks, **more: tasks)
    found = [dict(row) for _, row in reading.read_rows(ROWS / FILES["swe-smith"])]
    (tmp_path / "rows.json").write_text(json.dumps([{**found[0], "image_name": "x"}, *found[1:]]))
    source = PublishedSource(type="swe-smith", rows=str(tmp_path / "rows.json"))
    for _ in range(2):
        problems: list[str] = []
        room.prepare(
            TaskSet(name="smith", source=source),
            cache=tmp_path / "cache",
            on_problem=problems.append,
            environment=Bubblewrap(),
        )
        assert len(problems) == 1 and "image_name" in problems[0]
    kept = tmp_path / "cache" / "tasks"
    assert len(asked) == 6 and len(list(kept.glob("swe-smith-*"))) == 1
    monkeypatch.setattr(swebench_log, "installed", lambda: "7.0.0")  # which may know parsers that the last one did not
    set_directories(source, cache=tmp_path / "cache", say=str, on_problem=str)
    assert len(list(kept.glob("swe-smith-*"))) == 2


BENCH = {
    "task.yaml": "instruction: |-\n  Make greet.sh say hello.\ndifficulty: easy\ncategory: shell\nparser_name: pytest\n"
    "max_agent_timeout_sec: 360.0\nmax_test_timeout_sec: 60.0\n",
    "Dockerfile": "FROM debian:12\nWORKDIR /app\nCOPY greet.sh /app/\n",
    "greet.sh": "echo no\n",
    "docker-compose.yaml": "services:\n  client:\n    build: {dockerfile: Dockerfile}\n"
    "    image: ${T_BENCH_TASK_DOCKER_CLIENT_IMAGE_NAME}\n    command: [sh, -c, sleep infinity]\n"
    '    environment: ["TEST_DIR=${T_BENCH_TEST_DIR}"]\n    volumes: ["${T_BENCH_TASK_LOGS_PATH}:/logs"]\n',
    "run-tests.sh": '#!/bin/bash\npython3 -m pytest -rA "$TEST_DIR/test_outputs.py"\n',
    "tests/test_outputs.py": "def test_hello():\n    pass\n",
    "solution.sh": "echo 'echo hello' > greet.sh\n",
}


def bench(folder: Path, **changes: str | None) -> Path:
    for name, text in {**BENCH, **changes}.items():
        if text is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    return folder


def test_terminal_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_screened", lambda tasks, **more: tasks)
    bench(tmp_path / "tasks" / "hello")
    steps = "- command: echo hello > greet.sh\n  min_timeout_sec: 1\n"
    bench(tmp_path / "tasks" / "steps", **{"solution.sh": None, "solution.yaml": steps})
    two = "services:\n  client: {image: x}\n  db: {image: y}\n"
    bench(tmp_path / "tasks" / "two", **{"docker-compose.yaml": two})
    more = "services:\n  client:\n    image: x\n    privileged: true\n    volumes: ['/:/host']\n"
    bench(tmp_path / "tasks" / "more", **{"docker-compose.yaml": more})
    bench(tmp_path / "tasks" / "parser", **{"task.yaml": "instruction: x\nparser_name: gtest\n"})
    bench(tmp_path / "tasks" / "none", **{"task.yaml": "difficulty: easy\n"})
    bench(tmp_path / "tasks" / "shown", **{"solution.sh": None})
    (tmp_path / "tasks" / "shown" / "solution.sh").symlink_to("/etc/passwd")
    bench(tmp_path / "tasks" / "shown-tests", **{"tests/test_outputs.py": None})
    (tmp_path / "tasks" / "shown-tests" / "tests").symlink_to("/etc")
    bench(tmp_path / "tasks" / "deep", **{"task.yaml": "[" * 5000})
    bench(tmp_path / "tasks" / "long", **{"task.yaml": "instruction: x\nmax_agent_timeout_sec: .inf\n"})
    problems: list[str] = []
    made = room.prepare(
        TaskSet(name="bench", source=TerminalBenchSource(path=str(tmp_path / "tasks"))),
        cache=tmp_path / "cache",
        on_problem=problems.append,
        environment=Bubblewrap(),
    )
    assert [task.id for task in made] == ["hello", "steps"]
    hello, steps_ = made
    assert hello.instruction == "Make greet.sh say hello.\n" and hello.config.environment.workdir == "/app"
    assert [path.name for path in hello.repository.iterdir()] == ["greet.sh"], "no test, no solution"
    assert (hello.config.agent.timeout_sec, hello.config.verifier.timeout_sec) == (360, 60)
    assert steps_.solve_script is not None and "echo hello > greet.sh" in steps_.solve_script.read_text()
    said = {Path(problem.partition(":")[0]).name: problem for problem in problems}
    assert "services are client, db" in said["two"] and "privileged, /:/host" in said["more"]
    assert "gtest" in said["parser"] and "no instruction" in said["none"]
    assert "solution.sh is a link" in said["shown"] and "tests is a link" in said["shown-tests"]
    assert "recursion" in said["deep"] and "max_agent_timeout_sec = inf" in said["long"] and len(said) == 8


def test_the_index_keeps_what_the_set_says(tmp_path: Path) -> None:
    made, _ = imported("swe-rebench", tmp_path / "tasks", limit=1)
    checks = [{"name": "oracle", "ok": True, "seconds": 2.5}, {"name": "no-op", "ok": True, "seconds": 1.0}]
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"tasks": [{"path": str(made[0]), "checks": checks}]}))
    write_index([load_task(made[0])], tmp_path / "i.parquet", rates={}, seconds=oracle_seconds([report]))
    (row,) = read_index(tmp_path / "i.parquet")
    assert (row["language"], row["difficulty"], row["licence"]) == ("python", "0", "apache-2.0")
    assert (row["oracle_sec"], row["fail_to_pass"], row["pass_to_pass"]) == (2.5, 1, 1)
    with pytest.raises(UserError, match="not a report"):
        oracle_seconds([tmp_path / "i.parquet"])


def test_pods_and_tasks_of_ecs_are_made_of_a_sets_images_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their work directory, a repository that was cut, comes into a volume that hides the image's. Not so Harbor's."""

    def pull(store: ImageStore, name: str) -> None:
        raise ImageError(f"{name}: no network", fix="")

    monkeypatch.setattr(ImageStore, "pull", pull)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made, _ = imported("swe-smith", tmp_path / "tasks", limit=1)
    problems: list[str] = []
    pods = Kubernetes(kubernetes=KubernetesCluster(image="python:3.12", namespace="x"))
    tasks = Ecs(ecs=EcsCluster(cluster="c", image="python:3.12", region="r", subnets=("s",), security_groups=("g",)))
    for environment in (pods, tasks, Harbor(harbor=HarborEnvironment(environment="docker"))):
        assert with_images([load_task(made[0])], environment=environment, on_problem=problems.append, say=str) == []
    assert ["no network" in one for one in problems] == [True, True, False]
    assert "environment.type harbor makes no boxes" in problems[2]


@pytest.mark.parametrize(
    ("kind", "file", "text", "said"),
    [
        ("swe-smith", "task.toml", ("pytest-verbose", "x"), "no log parser 'x'; there are pytest-verbose"),
        ("r2e", "tests/expected.json", ("{", "[["), "tests/expected.json: "),
    ],
)
def test_a_log_that_cannot_be_read_here_is_named_before_a_run(
    kind: str, file: str, text: tuple[str, str], said: str, tmp_path: Path
) -> None:
    """Whatever an earlier screening has found."""
    made, _ = imported(kind, tmp_path, limit=1)
    (made[0] / file).write_text((made[0] / file).read_text().replace(*text))
    problems: list[str] = []
    nobody: Any = None
    stay = screen(
        [load_task(made[0])],
        provider=nobody,
        verifier=nobody,
        concurrency=1,
        memory_mib=1,
        on_problem=problems.append,
    )
    assert asyncio.run(stay) == [] and len(problems) == 1 and said in problems[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["none", "-o", "x"], "'none': no set of this name; there are swe-bench"),
        (["swe-smith", "-o", "x", "--rows", "r", "--split", "s"], "--split: says nothing for swe-smith with --rows"),
        (["swe-smith", "-o", "x", "--registry", "r"], "--registry: says nothing for swe-smith"),
        (["harbor", "-o", "x", "--rows", "r", "--revision", "v"], "--rows, --revision: says nothing for harbor"),
        (["terminal-bench", "-o", "x", "--rows", "r", "--repository", "a/b"], "--repository: says nothing for"),
        (["terminal-bench", "-o", "x"], "give the folder of them with --rows"),
        (["harbor", "-o", "x"], "give --dataset NAME@VERSION and --registry"),
        (["swe-smith", "-o", str(ROWS), "--rows", "r"], "not empty; give a new folder"),
        (["swe-smith", "-o", "x", "--rows", "/nothing"], "/nothing: no such file"),
    ],
)
def test_what_a_command_cannot_mean(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(build_app(), ["tasks", "import", *words])
    assert isinstance(result.exception, UserError) and said in str(result.exception)


def test_the_command_writes_tasks(tmp_path: Path) -> None:
    rows = str(ROWS / FILES["swe-smith"])
    result = CliRunner().invoke(
        build_app(), ["tasks", "import", "swe-smith", "-o", str(tmp_path / "x"), "--rows", rows]
    )
    assert result.exit_code == 0 and f"{len(TOYS)} tasks in {tmp_path}/x" in result.output
    assert len(list((tmp_path / "x").iterdir())) == len(TOYS)


def test_helpers_of_tests_and_what_steers_them_are_the_repositorys_own(tmp_path: Path) -> None:
    """But in sets without repositories, whose work may be just that."""
    made, _ = imported("swe-smith", tmp_path / "rows", limit=1)
    toml = (made[0] / "task.toml").read_text()
    (made[0] / "task.toml").write_text(toml.replace("test_files = [", 'test_files = ["core/tests/deep/test_x.py", '))
    bench(tmp_path / "tasks" / "hello")
    found = [*made, *import_folders(tmp_path / "tasks", tmp_path / "bench", on_problem=pytest.fail)]
    paths = ("core/tests/help.py", "core/tests/new.py", "core/test/lib.py", "pytest.ini", ".git/config")
    taken = []
    for folder in found:
        for path in ("core/tests/help.py", "core/test/lib.py"):
            (folder / "environment" / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / "environment" / path).touch()
        task = load_task(folder)
        workdir = task.config.environment.workdir
        work: dict[str, Entry] = {f"{workdir}/{path}": b"x" for path in paths}
        taken.append([path for path in paths if f"{workdir}/{path}" in select(task, work).files])
    assert taken == [["core/tests/new.py", "core/test/lib.py"], list(paths)]
