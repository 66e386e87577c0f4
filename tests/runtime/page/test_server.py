"""The page's server without a browser: answers, and what it refuses."""

from __future__ import annotations

import asyncio
import hashlib
import tomllib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import orjson
import pytest
from aiohttp import ClientSession, CookieJar
from aiohttp.test_utils import TestServer
from yarl import URL

from runtime.launch.rundir import RunDirectory
from runtime.page import access, server
from runtime.page.library import Library
from runtime.page.prometheus import render
from runtime.telemetry.metrics import Follower
from tests.runtime.page.made import add_step, make_run

Ask = Callable[[ClientSession, URL], Awaitable[Any]]


def served(runs_dir: Path, ask: Ask, *, token: str | None = None) -> Any:
    """What ``ask`` returns of a served folder."""

    async def main() -> Any:
        async with (
            TestServer(server.make_app(Library(runs_dir), token=token)) as page,
            ClientSession(cookie_jar=CookieJar(unsafe=True)) as session,
        ):
            return await ask(session, page.make_url("/"))

    return asyncio.run(main())


def status_of(path: str, **options: Any) -> Ask:
    async def ask(session: ClientSession, root: URL) -> int:
        async with session.get(URL(str(root) + path.lstrip("/"), encoded=True), **options) as answer:
            return answer.status

    return ask


def test_curves_are_the_file(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    name = f"small/{run.path.name}"

    async def ask(session: ClientSession, root: URL) -> Any:
        async with session.get(root / f"api/run/{name}/curves") as answer:
            return orjson.loads(await answer.read())

    found = served(tmp_path, ask)
    rows = [orjson.loads(line) for line in run.metrics.read_bytes().splitlines()]
    assert found["steps"] == [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    for at, row in enumerate(rows):
        for key, value in row["data"].items():
            assert found["series"][key][at] == pytest.approx(value), key
    assert found["series"]["solve/train/low"][1] < found["series"]["solve/train"][1]


def test_one_run_can_be_served_by_its_own_folder(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=1)
    assert served(run.path, status_of(f"api/run/small/{run.path.name}/overview")) == 200


def test_the_list_reads_only_what_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended, live, odd = (make_run(tmp_path, steps=1, experiment=name) for name in ("ended", "live", "odd"))
    ended.finish("succeeded", exit_code=0, cause="")
    odd.update(start="yesterday", tasks=[])
    lib = Library(tmp_path)
    try:
        first = lib.briefs()
        assert [one["state"] for one in first] == ["succeeded", "running", "unreadable"]
        live.update(start="2020-01-01T00:00:00+00:00")
        read: list[str] = []
        record = RunDirectory.read
        monkeypatch.setattr(RunDirectory, "read", lambda one: (read.append(one.path.parent.name), record(one))[1])
        monkeypatch.setattr(Follower, "poll", lambda _: pytest.fail("no row moved"))
        second = lib.briefs([f"ended/{ended.path.name}", f"live/{live.path.name}"])
        assert second[0] == first[0] and set(read) == {"live"}
        assert second[1]["step"] == 1 and second[1]["seconds"] > first[1]["seconds"] + 3600
        monkeypatch.undo()
        add_step(ended, 2)  # taken up again
        assert lib.briefs([f"ended/{ended.path.name}"])[0]["step"] == 2
        assert render(lib.runs()).count("liverl_run_step{") == 2
    finally:
        lib.close()

    async def ask(session: ClientSession, root: URL) -> Any:
        async with session.get(root / "api/runs", params={"run": f"live/{live.path.name}"}) as answer:
            return await answer.json()

    assert [one["name"] for one in served(tmp_path, ask)] == [f"live/{live.path.name}"]


def test_news_come_when_a_file_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "NEWS_SEC", 0.02)
    run = make_run(tmp_path, steps=1)

    async def ask(session: ClientSession, root: URL) -> bytes:
        async with session.get(root / "events") as answer:
            assert answer.content_type == "text/event-stream"
            await answer.content.readuntil(b"\n\n")
            for step in range(2, 500):  # the watcher takes its first look at some time after we asked
                add_step(run, step)
                try:
                    return await asyncio.wait_for(answer.content.readuntil(b"\n\n"), 0.2)
                except TimeoutError:
                    continue
        raise AssertionError("no news")

    assert served(tmp_path, ask) == f'event: change\ndata: ["small/{run.path.name}"]\n\n'.encode()


@pytest.mark.parametrize(
    "path",
    [
        "assets/../server.py",
        "assets/..%2fserver.py",
        "assets/%2e%2e/%2e%2e/server.py",
        "assets/index.html",
        "assets/uPlot.LICENSE%00",
        "api/run/small/..%2f../overview",
        "api/run/../../etc/overview",
        "api/run/small/nothing/curves",
        "api/differences?run=../..",
    ],
)
def test_no_path_leads_out(tmp_path: Path, path: str) -> None:
    make_run(tmp_path / "runs", steps=1)
    (tmp_path / "run.json").write_text("{}")
    assert served(tmp_path / "runs", status_of(path)) == 404


@pytest.mark.parametrize("trial", ["../../run.json", "..", "always.train-always.0/../../../run.json", "x\0", ""])
def test_no_trial_is_a_path(tmp_path: Path, trial: str) -> None:
    run = make_run(tmp_path, steps=1)
    for what in ("trial", "tokens"):
        query = urlencode({"step": "1", "id": trial})
        assert served(tmp_path, status_of(f"api/run/small/{run.path.name}/{what}?{query}")) == 404


@pytest.mark.parametrize("record", ["", "{}", "[]", "null", '{"run": null}', '{"run": "x"'])
def test_a_damaged_record_is_told_and_hides_no_other_run(tmp_path: Path, record: str) -> None:
    run, other = make_run(tmp_path, steps=1), make_run(tmp_path, steps=1)

    async def ask(session: ClientSession, root: URL) -> Any:
        async with session.get(f"{root}api/run/small/{run.path.name}/overview") as answer:
            assert answer.status == 200
        run.record_file.write_text(record)
        async with session.get(f"{root}api/runs") as answer:
            names = {one["name"] for one in orjson.loads(await answer.read())}
            assert names == {f"small/{run.path.name}", f"small/{other.path.name}"}
        async with session.get(f"{root}api/run/small/{run.path.name}/overview") as answer:
            return answer.status, await answer.text()

    status, said = served(tmp_path, ask)
    assert status == 422 and "run.json" in said


def test_numbers_and_texts_that_json_does_not_know_are_shown_together() -> None:
    told = server.as_json({"cause": "half \ud83d", "curve": [float("nan"), float("inf"), 1.5], 3: (float("nan"),)})
    assert orjson.loads(told.replace(b"\\ud83d", b"?")) == {"cause": "half ?", "curve": [None, None, 1.5], "3": [None]}


def test_wrong_words_of_a_query_are_as_none(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=1)

    async def ask(session: ClientSession, root: URL) -> Any:
        query = "step=x&sort=;drop&page=-9&size=99999999999999999999&min=nan&max=&words='\"*"
        async with session.get(f"{root}api/run/small/{run.path.name}/trials?{query}") as answer:
            return answer.status, orjson.loads(await answer.read())["total"]

    assert served(tmp_path, ask) == (200, 0)


def test_another_name_for_this_machine_is_refused(tmp_path: Path) -> None:
    for host, status in {
        "evil.example": 403,
        "evil.example:80": 403,
        "[::1": 403,
        "localhost:1": 200,
        "[::1]": 200,
    }.items():
        assert served(tmp_path, status_of("", headers={"Host": host})) == status, host


def test_with_a_token_everybody_must_bring_it(tmp_path: Path) -> None:
    word = access.new_token()

    async def ask(session: ClientSession, root: URL) -> list[int]:
        statuses = []
        for url, headers in (
            (root, {}),
            (root.with_query(token="wrong"), {}),
            (root / "api/runs", {"Authorization": "Bearer wrong"}),
            (root / "api/runs", {"Authorization": f"Bearer {word}"}),
            (root.with_query(token=word), {}),  # leaves the cookie
            (root / "api/runs", {}),
        ):
            async with session.get(url, headers=headers) as answer:
                statuses.append(answer.status)
                assert word not in str(answer.url)
        return statuses

    assert served(tmp_path, ask, token=word) == [401, 401, 401, 200, 200, 200]
    assert access.cookie_of("a.example:8001") != access.cookie_of("a.example:8002") and access.cookie_of("[::1")


@pytest.mark.parametrize("path", ["", "assets/base.js", "api/runs", "api/run/a/b/curves", "nothing"])
def test_every_answer_forbids_foreign_scripts(tmp_path: Path, path: str) -> None:
    async def ask(session: ClientSession, root: URL) -> Any:
        async with session.get(root / path if path else root) as answer:
            return dict(answer.headers)

    headers = served(tmp_path, ask)
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "script-src 'self';" in policy and "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_scripts_make_no_html_from_text() -> None:
    folder = Path(server.__file__).parent / "assets"
    for path in folder.glob("*.js"):
        if path.name.startswith("uPlot"):
            continue
        words = path.read_text()
        for bad in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
            assert bad not in words, path.name
    html = (folder / "index.html").read_text()
    assert "<style" not in html and "style=" not in html and "onclick" not in html and "http" not in html.lower()


def test_what_is_bundled_is_what_it_is_said_to_be() -> None:
    facts = orjson.loads(server.asset("vendor.json"))
    for name, digest in facts["uPlot"]["sha256"].items():
        assert hashlib.sha256(server.asset(name)).hexdigest() == digest
    assert b"MIT" in server.asset("uPlot.LICENSE")


def test_every_file_is_served_or_of_the_package(tmp_path: Path) -> None:
    folder = Path(server.__file__).parent / "assets"
    assert {path.name for path in folder.iterdir()} == {*server.ASSETS, "index.html", "vendor.json", "uPlot.LICENSE"}
    project = tomllib.loads((Path(server.__file__).parents[2] / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["package-data"]["runtime.page"] == ["assets/*"]
