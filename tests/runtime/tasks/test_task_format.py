"""What a task from elsewhere asks for is done, or refused by name before a run: keys, files, links, Dockerfiles."""

from __future__ import annotations

import json
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from runtime.errors import TrialError
from runtime.task import Task, TaskConfig, load_task
from runtime.task_format import keys
from runtime.task_format.dockerfile import read_recipe
from runtime.task_format.work_directory import _with_loose, work_directory
from tests.runtime.tasks.foreign import TOML, write
from tests.toolbox import HARBOR, python_tools

PUBLISHED = Path(__file__).with_name("harbor_task_keys.txt").read_text().split()


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def refused(folder: Path) -> str:
    with pytest.raises(TrialError) as caught:
        load_task(folder)
    return str(caught.value)


def test_every_published_key_has_a_rule() -> None:
    below_refused = tuple(
        f"{name}{mark}." for name, key in keys.KEYS.items() if key.how == "refused" for mark in ("", "[]")
    )
    wanted = {key for key in PUBLISHED if not key.startswith(below_refused)} - set(keys.TABLES)
    older = {"version", "environment.memory", "environment.storage"}
    assert set(keys.KEYS) - older == wanted


@pytest.mark.consumers
def test_the_published_keys_are_harbors() -> None:
    python = python_tools(HARBOR) / "python"
    program = Path(__file__).with_name("harbor_task_keys.py")
    done = subprocess.run([python, "-W", "ignore", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == PUBLISHED


VALUES = (
    *("3", "-1", "0", "2.5", "inf", '"x"', '""', "true", "[]", '["a"]', "[1]", "{}", '{a = "b"}', "{a = 1}", '"4"'),
    *("2020-01-01", '"allowlist"', '"public"', '"root"', '"windows"', '"shared"', '[{name = "a"}]'),
)
LABELS = ("source", "multi_step_reward_strategy", "task", "metadata")


@pytest.mark.consumers
def test_what_harbor_does_not_take_is_refused_here_too(tmp_path: Path) -> None:
    """Every key of the schema with values of every kind: none is silently taken for something, but for labels, of which
    nothing follows."""
    folder = write(tmp_path / "x", {})
    published = [key for key in PUBLISHED if "[]" not in key and key.count(".") < 2 and not key.startswith(LABELS)]
    texts, ours = [], []
    for key in published:
        table, _, name = key.rpartition(".")
        for value in VALUES:
            texts.append(f"[{table}]\n{name} = {value}\n" if table else f"{name} = {value}\n")
            (folder / "task.toml").write_text(texts[-1])
            try:
                load_task(folder)
                ours.append(True)
            except TrialError:
                ours.append(False)
    program = Path(__file__).with_name("harbor_task_keys.py")
    done = subprocess.run(
        [python_tools(HARBOR) / "python", "-W", "ignore", program, "taken"],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    theirs = json.loads(done.stdout)
    odd = [text for text, here, there in zip(texts, ours, theirs, strict=True) if here and not there]
    assert set(odd) <= {f"[{table}]\nallowed_hosts = []\n" for table in ("agent", "verifier")}, odd
    assert sum(ours) > 60


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (f"{name} = {value}", key)
        for name, value, key in [
            ("environment.docker_image", '"python 3.11"', "docker_image"),
            ("environment.os", '"windows"', "Linux"),
            ("environment.gpus", "1", "GPU"),
            ("environment.gpu_types", '["T4"]', "GPU"),
            ("environment.tpu", '{type = "v6e", topology = "2x2"}', "TPU"),
            ("environment.mcp_servers", '[{name = "x", url = "http://x"}]', "MCP"),
            ("environment.skills_dir", '"/skills"', "skills"),
            ("environment.healthcheck", '{command = "true"}', "healthcheck"),
            ("environment.network_mode", '"allowlist"', "network_mode"),
            ("environment.allowed_hosts", '["pypi.org"]', "allowed_hosts"),
            ("environment.env", '{KEY = "${KEY}"}', "variable of the host"),
            ("verifier.env", '{KEY = "${API_KEY}"}', "variable of the host"),
            ("solution.env", '{KEY = "${API_KEY}"}', "variable of the host"),
            ("environment.env", '{"A=B" = "1"}', "no name of a variable"),
            ("verifier.env", '{"" = "1"}', "no name of a variable"),
            ("solution.env", '{A = "x\\u0000"}', "NUL"),
            ("agent.user", '"agent"', "root only"),
            ("verifier.user", "1000", "root only"),
            ("verifier.environment", '{docker_image = "x"}', "verifier.environment"),
            ("verifier.collect", '[{command = "true"}]', "verifier.collect"),
            ("steps", '[{name = "one"}, {name = "two"}]', "several steps"),
            ("artifacts", '["/etc/passwd"]', "/etc/passwd"),
            ("artifacts", '["/app/../etc"]', "/app/../etc"),
            ("artifacts", '[{source = "/app/x", service = "db"}]', "no other service"),
            ("artifacts", '[{source = "/app/x", exclude = ["*.log"]}]', "taken whole"),
        ]
    ],
)
def test_what_cannot_be_done_is_refused_by_name(tmp_path: Path, line: str, why: str) -> None:
    text = refused(write(tmp_path / "word", {"task.toml": line + "\n"}))
    assert line.partition(" ")[0].partition("[")[0] in text and why in text, text
    assert str(tmp_path / "word" / "task.toml") in text


NO_NUMBERS = (
    *("inf", "-inf", "nan", "-1", "0", "0.0", "1e308", "9223372036854775807", "true"),
    *('"soon"', '"inf"', "[600]"),
)


@pytest.mark.parametrize("name", [*keys.NUMBERS, "metadata.liverl.test_timeout_sec"])
def test_a_number_out_of_its_range_is_refused_by_name(tmp_path: Path, name: str) -> None:
    """Python's timers and the boxes would end with an error of their own, in every trial."""
    whole = name in keys.NUMBERS and keys.NUMBERS[name].whole
    for number, value in enumerate((*NO_NUMBERS, *(["1.5"] if whole else []))):
        text = refused(write(tmp_path / str(number), {"task.toml": f"{name} = {value}\n"}))
        assert name in text and "more than 0, at most " in text, (value, text)
    for number, value in enumerate(("600", '"600"', "1")):
        runner = 'metadata.liverl.runner = "mini"\n' if "liverl" in name else ""
        assert load_task(write(tmp_path / f"sound-{number}", {"task.toml": f"{name} = {value}\n{runner}"}))


@pytest.mark.parametrize("size", ["0G", "-4G", "1e9G", "infG", "nanM", "0.1K"])
def test_a_size_of_the_older_spelling_has_the_same_range(tmp_path: Path, size: str) -> None:
    text = refused(write(tmp_path / "word", {"task.toml": f'environment.memory = "{size}"\n'}))
    assert "at most 16777216" in text or "no size such as" in text


def test_all_problems_are_named_at_once(tmp_path: Path) -> None:
    toml = 'environment.gpus = 1\nverifier.user = "bob"\n[environment.healthcheck]\ncommand = "true"\n'
    text = refused(write(tmp_path / "word", {"task.toml": toml, "tests/test.sh": None}))
    assert all(word in text for word in ("environment.gpus", "verifier.user", "healthcheck", "tests/test.sh")), text


@pytest.mark.parametrize(("text", "why"), [(b"caf\xe9", "can't decode byte"), (b"a\0b", "NUL")])
def test_an_instruction_that_is_no_text_is_named(tmp_path: Path, text: bytes, why: str) -> None:
    task = write(tmp_path / "word", {})
    (task / "instruction.md").write_bytes(text)
    said = refused(task)
    assert said.startswith(f"{task / 'instruction.md'}: ") and why in said


@pytest.mark.parametrize(
    "value", ["agent.user = 'root'", "environment.gpus = 0", "environment.os = 'Linux'", "steps = []"]
)
def test_what_asks_for_nothing_is_taken(tmp_path: Path, value: str) -> None:
    assert load_task(write(tmp_path / "word", {"task.toml": value + "\n"})).promises == ()


@pytest.mark.parametrize(
    ("toml", "memory_mb"),
    [('memory = "4G"', 4096), ('memory = "512M"', 512), ("memory_mb = 700", 700), ("cpus = 2.0", None)],
)
def test_sizes_in_both_spellings(tmp_path: Path, toml: str, memory_mb: int | None) -> None:
    task = load_task(write(tmp_path / "word", {"task.toml": f"[environment]\n{toml}\n"}))
    assert task.config.environment.memory_mb == memory_mb
    assert task.memory_mib(1024) == min(1024, memory_mb or 1024)


@pytest.mark.parametrize(
    "toml",
    [
        'memory = "infG"',
        'memory = "nanG"',
        'memory = "4 giga"',
        'memory = "4G"\nmemory_mb = 5',
        'memory = "G"',
        "memory = 4096",
        "memory_mb = 0",
    ],
)
def test_sizes_that_are_none(tmp_path: Path, toml: str) -> None:
    assert "environment" in refused(write(tmp_path / "word", {"task.toml": f"[environment]\n{toml}\n"}))


@pytest.mark.parametrize("workdir", ["app", "/", "//", "/usr", "/tests", "/opt", "/app/../tests", "//app", ""])
def test_work_directories_that_no_box_can_have(tmp_path: Path, workdir: str) -> None:
    toml = f'[environment]\nworkdir = "{workdir}"\n'
    assert "environment.workdir" in refused(write(tmp_path / "word", {"task.toml": toml}))


@pytest.mark.parametrize("line", ["WORKDIR //app", "COPY a.txt //app/", "COPY . //app", "WORKDIR //app//x/.."])
def test_two_slashes_at_the_start_are_one(tmp_path: Path, line: str) -> None:
    recipe = f"FROM x\nWORKDIR /app\n{line}\nCOPY a.txt .\n"
    task = load_task(write(tmp_path / "word", {"environment/Dockerfile": recipe, "environment/a.txt": "a"}))
    assert task.config.environment.workdir == "/app" and (task.repository / "a.txt").read_text() == "a"


def test_keys_of_a_later_schema_are_not_passed_over(tmp_path: Path) -> None:
    later = 'schema_version = "2.0"\n[environment]\nquantum = true\n'
    assert "environment.quantum" in refused(write(tmp_path / "word", {"task.toml": later}))
    load_task(write(tmp_path / "other", {"task.toml": later.replace("2.0", "1.4")}))  # Harbor ignores it


def test_variables_without_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODE", "secret of the host")
    toml = 'environment.env = {MODE = "${MODE:-prod}", A = "1"}\n'
    task = load_task(write(tmp_path / "word", {"task.toml": toml}))
    assert task.config.environment.env == {"MODE": "prod", "A": "1"}


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"task.yaml": "instruction: Do it.\n"}, "Terminal-Bench"),
        ({"trajectory.json": "{}"}, "earlier conversation"),
        ({"environment/docker-compose.yaml": "services: {app: {}, db: {}}\n"}, "app, db are not started"),
        ({"environment/docker-compose.yaml": "services: {app: {image: x, volumes: [a]}}\n"}, "app.volumes"),
        ({"environment/docker-compose.yaml": "services: {app: {build: ..}}\n"}, "leaves environment/"),
        ({"environment/docker-compose.yaml": "services: {app: {}}\n"}, "has neither image nor build"),
        ({"environment/docker-compose.yaml": "nonsense"}, "cannot be read"),
    ],
)
def test_files_that_are_not_read(tmp_path: Path, files: dict[str, str], why: str) -> None:
    assert why in refused(write(tmp_path / "word", files))


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("environment/host", "/etc"),
        ("environment/up", "../../../secret"),
        ("environment/answer", "../solution/solve.sh"),
        ("tests/files/passwd", "/etc/passwd"),
        ("solution/x", "../environment/a.txt"),
        ("instruction.md", "/etc/hostname"),
    ],
)
def test_links_that_leave_their_folder(tmp_path: Path, link: str, target: str) -> None:
    folder = write(tmp_path / "word", {})
    (folder / link).parent.mkdir(parents=True, exist_ok=True)
    (folder / link).unlink(missing_ok=True)
    (folder / link).symlink_to(target)
    assert str(folder / link) in refused(folder)


def test_links_within_a_folder_stay(tmp_path: Path) -> None:
    folder = write(tmp_path / "word", {"environment/Dockerfile": "FROM x\nWORKDIR /app\nCOPY . .\n"})
    (folder / "environment" / "same").symlink_to("a.txt")
    (folder / "environment" / "dangling").symlink_to("nowhere")
    assert load_task(folder).repository == folder / "environment"


def shown(task: Task) -> dict[str, str]:
    """Path inside -> content of all that the boxes show."""
    roots = [(task.repository, task.config.environment.workdir), *task.work.elsewhere]
    return {
        f"{place}/{path.relative_to(root)}" if path != root else place: path.read_text()
        for root, place in roots
        for path in [root, *root.rglob("*")]
        if path.is_file()
    }


CONTEXT = {"environment/calc.py": "a - b\n", "environment/lib/x": "x\n", "environment/grader.py": "secret\n"}


@pytest.mark.parametrize(
    ("dockerfile", "files"),
    [
        (
            "COPY calc.py /app/calc.py\nCOPY grader.py /opt/canonical/grader.py",
            ["/app/calc.py", "/opt/canonical/grader.py"],
        ),
        ("COPY calc.py .", ["/app/calc.py"]),
        ("COPY calc.py /app", ["/app/calc.py"]),
        ("COPY calc.py renamed.py", ["/app/renamed.py"]),
        ("COPY lib /app/lib/", ["/app/lib/x"]),
        ("COPY lib/ ./", ["/app/x"]),
        ('COPY ["calc.py", "lib/x", "sub/"]', ["/app/sub/calc.py", "/app/sub/x"]),
        ("COPY *.py \\\n  # a comment in between\n\n  /app/", ["/app/calc.py", "/app/grader.py"]),
        ("COPY lib /data/", ["/data/x"]),
        ('LABEL a=b\nEXPOSE 80\nCMD ["sh"]\nCOPY calc.py .', ["/app/calc.py"]),
        ("", []),
    ],
)
def test_boxes_show_what_the_dockerfile_copies_and_nothing_else(
    tmp_path: Path, dockerfile: str, files: list[str]
) -> None:
    text = f"# syntax=docker/dockerfile:1\nFROM python:3.11 AS base\nWORKDIR /app\n{dockerfile}\n"
    task = load_task(write(tmp_path / "word", {**CONTEXT, "environment/Dockerfile": text}))
    assert sorted(shown(task)) == files
    assert load_task(task.path).repository == task.repository, "made once"


def test_the_work_directory_and_variables_of_a_dockerfile(tmp_path: Path) -> None:
    recipe = 'FROM x\nENV A=1 B="two words"\nENV C three words\nWORKDIR /srv\nWORKDIR app\nCOPY a.txt .\n'
    files = {"environment/Dockerfile": recipe, "task.toml": '[environment.env]\nA = "2"\n'}
    task = load_task(write(tmp_path / "word", files))
    assert task.config.environment.workdir == "/srv/app"
    assert task.config.environment.env == {"A": "2", "B": "two words", "C": "three words"}


@pytest.mark.parametrize(
    "line",
    [
        "RUN mkdir /srv/app",
        "run true",
        "ADD https://x/y.tar /app/",
        "COPY --from=builder /x /y",
        "COPY --chown=app:app a.txt .",
        "COPY $FILE /app/",
        "COPY missing.txt /app/",
        "COPY <<EOF /app/x\nEOF",
        "COPY a.txt /usr/bin/tool",
        "COPY a.txt /tests/test.sh",
        "COPY . /",
        "COPY . /opt",
        "ENV PATH=/x:$PATH",
        "USER app",
        "VOLUME /data",
        'ENTRYPOINT ["/start"]',
        "FROM other",
        "ARG X=1",
        "nonsense",
    ],
)
def test_what_more_than_copies_must_be_built(tmp_path: Path, line: str) -> None:
    folder = write(tmp_path / "word", {"environment/Dockerfile": f"FROM x\nWORKDIR /app\n{line}\n"})
    task = load_task(folder)
    assert task.image_missing is not None and task.image_missing.dockerfile == folder / "environment/Dockerfile"
    with pytest.raises(TrialError, match="is not here"):
        _ = task.root
    (folder / "environment" / "a.txt").write_text("another file in the context")
    changed = load_task(folder).image_missing
    assert changed is not None and changed.key != task.image_missing.key


def test_the_image_that_a_task_names(tmp_path: Path) -> None:
    named = load_task(write(tmp_path / "word", {"task.toml": 'environment.docker_image = "debian:12"\n'}))
    assert str(named.image_missing) == "docker.io/library/debian:12"
    service = "services: {main: {image: debian, command: sleep}}\n"
    compose = {"environment/docker-compose.yaml": service, "task.toml": ""}
    task = load_task(write(tmp_path / "compose", compose))
    assert task.image_missing is not None and task.image_missing.reference == "docker.io/library/debian:latest"
    ours = '[environment]\ndocker_image = "debian:12"\n[metadata.liverl]\nfail_to_pass = ["t.py::test"]\n'
    given = load_task(write(tmp_path / "ours", {"task.toml": ours, "environment/repo/x.py": ""}))
    assert str(given.image_missing) == "docker.io/library/debian:12", "whoever wrote the task"


def test_files_beside_an_image_are_not_led_out_by_its_links(tmp_path: Path) -> None:
    victim, image, loose = (tmp_path / name for name in ("victim", "image", "loose"))
    for folder in (victim, image, loose / "linked", loose / "was_file", loose / "was_folder"):
        folder.mkdir(parents=True)
    (victim / "kept").write_text("untouched")
    for name, target in (("linked", victim), ("file", victim / "kept"), ("new", victim / "new")):
        (image / name).symlink_to(target)
    (image / "was_file").write_text("a file")
    (image / "stays").write_text("stays")
    for name in ("linked/kept", "linked/more", "file", "new", "was_file/inner"):
        (loose / name).write_text("of the task")
    made = _with_loose(image, loose, tmp_path / "cache")
    assert sorted(path.name for path in victim.iterdir()) == ["kept"] and (victim / "kept").read_text() == "untouched"
    assert not any(path.is_symlink() for path in made.rglob("*"))
    there = {path.name for path in made.rglob("*") if path.is_file()}
    assert there == {"stays", "kept", "more", "file", "new", "inner"}
    (loose / "link").symlink_to("file")
    first = _with_loose(image, loose, tmp_path / "cache")
    (loose / "link").unlink()
    (loose / "link").symlink_to("new")
    assert _with_loose(image, loose, tmp_path / "cache") != first, "another target is another folder"


def test_a_recipe_without_a_work_directory(tmp_path: Path) -> None:
    files = {"environment/Dockerfile": "FROM x\nCOPY a.txt /srv/a.txt\n", "task.toml": ""}
    assert load_task(write(tmp_path / "word", files)).image_missing is not None, "the image's own is not known"
    assert load_task(write(tmp_path / "named", {**files, "task.toml": TOML})).config.environment.workdir == "/app"


def test_tasks_of_our_own_are_what_they_record(tmp_path: Path) -> None:
    """The Dockerfile of a generated task is for Harbor; what it installs is recorded as the task's image."""
    files = {
        "environment/Dockerfile": "FROM python:3.11-slim\nRUN pip install pytest\nWORKDIR /app\nCOPY repo/ /app/\n",
        "environment/repo/x.py": "",
        "task.toml": '[metadata.liverl]\nfail_to_pass = ["t.py::test"]\n',
    }
    task = load_task(write(tmp_path / "word", files))
    assert task.repository == tmp_path / "word" / "environment" / "repo"
    assert task.handed_in == ("/app",)


@pytest.mark.parametrize("change", ["content", "mode", "name", "folder", "target"])
def test_a_made_work_directory_is_found_again_by_all_that_is_in_it(tmp_path: Path, change: str) -> None:
    recipe = "FROM x\nWORKDIR /app\nCOPY a.txt sub /app/in/\n"
    folder = write(tmp_path / "word", {"environment/Dockerfile": recipe, "environment/sub/b": "b"})

    def made() -> Path:
        return work_directory(folder, path=None, ours=False, cache=tmp_path / "cache").lower

    before = made()
    assert made() == before
    environment = folder / "environment"
    if change == "content":
        (environment / "a.txt").write_text("other\n")
    elif change == "mode":
        (environment / "a.txt").chmod(0o755)
    elif change == "name":
        (environment / "sub" / "b").rename(environment / "sub" / "c")
    elif change == "folder":
        (environment / "sub" / "empty").mkdir()
    else:
        (environment / "Dockerfile").write_text(recipe.replace("/in/", "/out/"))
    after = made()
    assert after != before and after.is_dir() and before.is_dir()


@given(sources=st.lists(st.sampled_from(["a", "b", "d", "d/e", ".", "*"]), min_size=1, max_size=3), data=st.data())
def test_relatives_of_copy(tmp_path_factory: pytest.TempPathFactory, sources: list[str], data: st.DataObject) -> None:
    """Whatever is copied: every file shown is one of the context under its own content, below the target."""
    context = tmp_path_factory.mktemp("copy") / "environment"
    for name in ("a", "b", "d/c", "d/e/f"):
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        (context / name).write_text(name)
    target = data.draw(st.sampled_from(["/app/", "./", "/data/x/", "sub/"]))
    (context / "Dockerfile").write_text(f"FROM x\nWORKDIR /app\nCOPY {' '.join(sources)} {target}\n")
    recipe = read_recipe(context / "Dockerfile", context=context)
    assert recipe.problems == []
    place = target if target.startswith("/") else f"/app/{target.removeprefix('./')}"
    for inside, source in recipe.files.items():
        assert inside.startswith(place) and source.is_relative_to(context)
        assert inside.rpartition("/")[2] == source.name
    assert recipe.files


_VALUES: st.SearchStrategy[object] = st.recursive(
    st.booleans() | st.integers(-9, 9999) | st.floats() | st.text(max_size=6) | st.sampled_from(["4G", "root", "${A}"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(min_size=1, max_size=4), inner, max_size=2),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from([*keys.KEYS, *keys.TABLES]), _VALUES, max_size=4))
def test_whatever_keys_hold_a_task_is_read_or_refused(values: dict[str, object]) -> None:
    raw: dict[str, object] = {}
    for path, value in values.items():
        table, dot, name = path.rpartition(".")
        inner = raw.setdefault(table, {}) if dot else raw
        if isinstance(inner, dict):
            inner[name or path] = value
    problems = keys.problems_of(raw)
    assert all(isinstance(problem, str) for problem in [*problems, *keys.promises_of(raw)])
    with suppress(ValidationError):
        TaskConfig.model_validate(raw)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["FROM", "COPY", "WORKDIR", "ENV", "USER", "RUN", "#", ""]),
            st.text(alphabet="ab./*[]\"'\\ ={}$\n\0-", max_size=12) | st.sampled_from(["[1, 2]", "**a b", "../x y"]),
        ),
        max_size=5,
    )
)
def test_whatever_a_dockerfile_says_it_is_done_or_refused(
    tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[str, str]]
) -> None:
    context = tmp_path_factory.mktemp("recipe") / "environment"
    context.mkdir()
    (context / "a").write_text("a")
    (context / "Dockerfile").write_text("".join(f"{name} {rest}\n" for name, rest in lines))
    recipe = read_recipe(context / "Dockerfile", context=context)
    assert all(path.startswith("/") and source.is_relative_to(context) for path, source in recipe.files.items())
    with suppress(OSError):  # a file where another line makes a folder: load_task says so
        work_directory(context.parent, path="/app", ours=False, cache=context.parent / "cache")
