"""The page in a real browser: a run in progress and a finished one show what their files say, to everybody."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import orjson
import pytest

from runtime.launch.rundir import RunDirectory
from runtime.page.library import Run
from runtime.page.static import write_static
from tests.runtime.page import made
from tests.runtime.page.browser import Watched, axe, chromium, served, until, violations

pytestmark = pytest.mark.consumers


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    runs = tmp_path_factory.mktemp("runs")
    made.make_run(runs, experiment="other", lr=3e-4).finish("failed", exit_code=4, cause=made.HOSTILE)
    run = made.make_run(runs)
    run.finish("succeeded", exit_code=0, cause="")
    return run


@pytest.fixture(scope="module")
def address(finished: RunDirectory) -> Iterator[str]:
    with served(finished.runs_dir) as found:
        yield found


@pytest.fixture
def watched(browser: Any) -> Iterator[Watched]:
    found = Watched(browser, viewport={"width": 1200, "height": 900})
    yield found
    found.page.close()
    assert found.complaints == []


def rows(run: RunDirectory) -> list[Any]:
    return [orjson.loads(line) for line in run.metrics.read_bytes().splitlines()]


def shown_numbers(page: Any, panel: str, key: str) -> list[tuple[int, float]]:
    """Numbers of one series in the table below a plot."""
    page.locator(f"#panel-{panel} summary").click() if not page.locator(f"#panel-{panel} table").count() else None
    page.wait_for_selector(f"#panel-{panel} td[data-key]")
    cells = page.eval_on_selector_all(
        f"#panel-{panel} td[data-key='{key}']", "cells => cells.map(cell => [cell.dataset.step, cell.dataset.value])"
    )
    return [(int(step), float(value)) for step, value in cells if value != ""]


def file_numbers(run: RunDirectory, key: str) -> list[tuple[int, float]]:
    return [(row["step"], row["data"][key]) for row in rows(run) if key in row["data"]]


def test_a_finished_run_shows_its_files(watched: Watched, address: str, finished: RunDirectory) -> None:
    page = watched.page
    page.goto(f"{address}#/overview?run=small/{finished.path.name}")
    page.wait_for_selector("#panel-reward canvas")
    assert page.inner_text("#tile-state .big") == "succeeded"
    assert page.inner_text("#tile-step .big") == "4 of 10"
    for panel, key in (("reward", "critic/score/mean"), ("lr", "actor/lr"), ("turns", "num_turns/mean")):
        assert shown_numbers(page, panel, key) == file_numbers(finished, key)
    last = file_numbers(finished, "critic/score/mean")[-1][1]
    assert float(page.get_attribute("#tile-score-0", "data-value")) == pytest.approx(last)
    assert page.locator("[data-lamp]").count() > 8


def test_a_run_in_progress_grows_on_the_page(watched: Watched, tmp_path: Path) -> None:
    run = made.make_run(tmp_path, steps=2)
    page = watched.page
    with served(tmp_path) as address:
        page.goto(address)
        page.wait_for_selector("#live[data-state=live]")
        assert page.inner_text("#tile-state .big") == "running"
        assert len(shown_numbers(page, "reward", "critic/score/mean")) == 2
        # Whether the watcher has had its first look cannot be seen from here: every further step is news, too.
        for step in range(3, 60):
            made.add_step(run, step)
            page.wait_for_timeout(500)
            if len(shown_numbers(page, "reward", "critic/score/mean")) > 2:
                break
        until(page, "step => document.querySelector('#tile-step .big').textContent.startsWith(step + ' of')", step)
        page.wait_for_selector(f"#panel-reward td[data-step='{step}']")
        assert shown_numbers(page, "reward", "critic/score/mean") == file_numbers(run, "critic/score/mean")
        run.finish("succeeded", exit_code=0, cause="")
        until(page, "document.querySelector('#tile-state .big').textContent === 'succeeded'")
        page.goto("about:blank")  # closes its stream before the server ends


def test_news_leave_the_keyboard_where_it_was(watched: Watched, tmp_path: Path) -> None:
    run = made.make_run(tmp_path, steps=1)
    with served(tmp_path) as address:
        page = go(watched, address, run, "trials", "#trials td a", sort="task", order="up")
        page.wait_for_selector("#live[data-state=live]")
        page.locator("#trials td a").first.focus()
        where = page.evaluate("document.activeElement.getAttribute('href')")
        for step in range(2, 60):
            made.add_step(run, step)
            page.wait_for_timeout(500)
            if page.locator("#trials tbody tr").count() > 6:
                break
        assert page.locator("#trials tbody tr").count() > 6
        assert page.evaluate("document.activeElement.getAttribute('href')") == where
        page.goto("about:blank")


def test_runs_are_laid_over_each_other(watched: Watched, address: str) -> None:
    page = watched.page
    page.goto(address)
    page.wait_for_selector("#panel-lr canvas")
    page.locator(".overlay summary").click()
    page.locator(".overlay input").first.check()
    until(page, "document.querySelectorAll('#panel-lr .legend li').length === 2")
    assert sorted(page.eval_on_selector_all("#panel-lr .legend b", "all => all.map(one => +one.dataset.value)")) == [
        1e-4,
        3e-4,
    ]


def go(watched: Watched, address: str, run: RunDirectory, view: str, ready: str, **query: Any) -> Any:
    """The page on a view, when ``ready`` is there."""
    words = urlencode({"run": f"{run.path.parent.name}/{run.path.name}", **query})
    watched.page.goto(f"{address}#/{view}?{words}")
    watched.page.wait_for_selector(ready)
    return watched.page


VIEWS = {
    "overview": ("#panel-reward canvas", {}),
    "groups": ("#grid table", {}),
    "trials": ("#trials td a", {}),
    "trial": ("#tokens button", {"step": 2, "id": "sometimes.train-sometimes.0"}),
    "diagnosis": ("#rules h2", {}),
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Any, address: str, finished: RunDirectory, scheme: str) -> None:
    watched = Watched(browser, viewport={"width": 1200, "height": 900}, color_scheme=scheme)
    found = {}
    for view, (ready, query) in VIEWS.items():
        page = go(watched, address, finished, view, ready, **query)
        if view == "trial":
            page.click("#tokens button.sample")
            page.wait_for_selector(".token")
            page.click("#side-by-side")
            page.wait_for_selector(".beside .card")
        found[view] = violations(page, axe())
    assert found == {view: [] for view in VIEWS}
    watched.page.close()
    assert watched.complaints == []


def test_a_trial_is_shown_turn_by_turn_and_token_by_token(
    watched: Watched, address: str, finished: RunDirectory
) -> None:
    trial = finished.trials / "2" / "sometimes.train-sometimes.0"
    page = go(watched, address, finished, "trials", "#trials td a", task="sometimes", step=2)
    assert page.locator("#trials tbody tr").count() == 2
    page.click(f"text={trial.name}")
    page.wait_for_selector("#turn-1")
    record = orjson.loads((trial / "trial.json").read_bytes())
    assert page.inner_text("[data-fact=verdict]") == record["verdict"] == "solved"
    assert float(page.inner_text("[data-fact=reward]")) == record["reward"]
    assert page.locator("#siblings tbody tr").count() == 2
    assert page.locator("#times .bar.model").count() == 2
    page.click("#tokens button.sample")
    page.wait_for_selector(".token.own")
    sample = orjson.loads((trial / "trajectory.json").read_bytes())["samples"][0]
    own = page.eval_on_selector_all(".token.own", "all => all.map(one => +one.dataset.at)")
    assert own == [len(sample["prompt_ids"]) + at for at, mask in enumerate(sample["response_mask"]) if mask]
    page.click(".token.own >> nth=1")
    assert "-2.5, weight version 1" in page.inner_text("#token-about")


def test_what_agents_wrote_is_text_and_nothing_else(watched: Watched, address: str, finished: RunDirectory) -> None:
    page = go(watched, address, finished, "trial", "#turn-1", step=2, id="sometimes.train-sometimes.0")
    for node in page.query_selector_all("details"):
        node.evaluate("one => { one.open = true; }")
    page.wait_for_selector("pre.output")
    shown = page.eval_on_selector_all("pre", "all => all.map(one => one.textContent)")
    assert f"Repair sometimes. {made.HOSTILE}" in shown and f"FAIL {made.HOSTILE}" in shown and made.HOSTILE in shown
    assert page.locator("main img, main script, main iframe").count() == 0
    assert page.title().startswith("LiveRL: ")
    # Whatever a mistake of ours may do: the browser refuses to make HTML of text here.
    with pytest.raises(Exception, match="TrustedHTML"):
        page.evaluate("document.body.innerHTML = '<p>'")
    other = next(path for path in finished.runs_dir.glob("other/*"))
    page = go(watched, address, RunDirectory(other), "overview", "#tile-state")
    assert made.HOSTILE in page.text_content("#tile-state")
    watched.complaints.clear()  # of what this test itself tried


def test_tasks_by_step(watched: Watched, address: str, finished: RunDirectory) -> None:
    page = go(watched, address, finished, "groups", "#grid table")
    cells = page.eval_on_selector_all(
        "#grid td[data-task]", "all => all.map(one => [one.dataset.task, +one.dataset.step, +one.dataset.share])"
    )
    assert sorted(map(tuple, cells)) == [
        (task, step, share) for task, share in (("always", 1), ("never", 0), ("sometimes", 0.5)) for step in range(1, 5)
    ]
    assert page.eval_on_selector_all("#grid tbody tr td:nth-child(3)", "all => all.map(one => one.textContent)") == [
        "never solved", "now and then", "always solved",
    ]  # fmt: skip


def test_a_page_of_files_opens_without_a_server(watched: Watched, finished: RunDirectory, tmp_path: Path) -> None:
    shown = Run(finished.path)
    other = Run(made.make_run(tmp_path / "runs", steps=2).path)
    what = [{"title": "Spec", "changes": [{"path": "seed", "old": "0", "new": "1", "because": []}]}]
    write_static(
        shown,
        tmp_path / "page",
        trials=3,
        over=[other],
        compare=lambda runs: [{"b": one.name, "error": None, "sections": what} for one in runs[1:]],
    )
    shown.close()
    other.close()
    address = (tmp_path / "page" / "index.html").as_uri()
    page = go(watched, address, finished, "overview", "#panel-reward canvas")
    assert page.inner_text("#live") == "static copy"
    assert shown_numbers(page, "reward", "critic/score/mean") == file_numbers(finished, "critic/score/mean")
    page = go(watched, address, finished, "trials", "#trials td a")
    assert page.locator("#trials tbody tr").count() == 24 and page.locator("#trials a.trial").count() == 3
    page.select_option("#filter-verdict", "solved")
    until(page, "() => document.querySelectorAll('#trials tbody tr').length === 12")
    page.locator("#trials a.trial").first.click()
    page.wait_for_selector("#turn-1")
    page.click("#tokens button.sample")
    page.wait_for_selector(".token")
    page = go(watched, address, finished, "groups", "#grid table")
    page = go(watched, address, finished, "diagnosis", "#rules h2")
    page = go(watched, address, finished, "overview", "#panel-reward canvas")
    page.click(".overlay summary")
    page.check(f".overlay input[value='{other.name}']")
    page.wait_for_selector("#differences td")
    assert other.name in page.inner_text("#differences")
    page = go(watched, address, other.directory, "trials", "#trials tbody tr")
    assert page.locator("#trials tbody tr").count() == 12 and page.locator("#trials a.trial").count() == 0


def test_a_long_trial_makes_few_elements(watched: Watched, tmp_path: Path) -> None:
    """A browser is slow by the number of elements, which do not depend on how busy this machine is."""
    run = made.make_run(tmp_path, steps=1)
    trial = made.add_long_trial(run, turns=300, tokens=100_000)
    with served(tmp_path) as address:
        page = go(watched, address, run, "trial", "#turn-299", step=1, id=trial)
        page.click("#tokens button.sample")
        page.wait_for_selector(".token")
        assert page.evaluate("document.querySelectorAll('*').length") < 5000
        assert "of 99910" in page.inner_text("#tokens")
        page.goto("about:blank")


def test_a_known_failure_is_told(watched: Watched, tmp_path: Path) -> None:
    run = made.make_run(tmp_path, lr=0.0)
    run.finish("succeeded", exit_code=0, cause="")
    with served(tmp_path) as address:
        page = go(watched, address, run, "diagnosis", ".finding")
        assert page.eval_on_selector_all(".finding", "all => all.map(one => one.dataset.rule)") == ["lr-zero"]
        assert "0 at 4 of 4 steps" in page.inner_text(".finding")
        page.goto("about:blank")


def test_a_phone_is_wide_enough(browser: Any, address: str, finished: RunDirectory) -> None:
    watched = Watched(browser, viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True)
    widths = {}
    for view, (ready, query) in VIEWS.items():
        page = go(watched, address, finished, view, ready, **query)
        widths[view] = page.evaluate("document.documentElement.scrollWidth")
    assert {view: wide for view, wide in widths.items() if wide > 360} == {}
    watched.page.close()


def test_keys_read_and_zoom_a_plot(watched: Watched, address: str) -> None:
    page = watched.page
    page.goto(address)
    page.wait_for_selector("#panel-reward canvas")
    page.focus("#panel-reward .canvas")
    page.keyboard.press("End")
    assert "step 4:" in page.inner_text("#panel-reward .readout")
    page.keyboard.press("ArrowLeft")
    assert "step 3:" in page.inner_text("#panel-reward .readout")
    assert page.is_disabled("#zoom-reset")
    page.keyboard.press("+")
    assert page.is_enabled("#zoom-reset")
    page.keyboard.press("0")
    assert page.is_disabled("#zoom-reset")


def test_smoothing_and_logarithms_change_the_picture_and_no_number(
    watched: Watched, address: str, finished: RunDirectory
) -> None:
    page = go(watched, address, finished, "overview", "#panel-reward canvas")
    pixels = "() => document.querySelector('#panel-length canvas').toDataURL()"
    pictures = {page.evaluate(pixels)}
    page.fill("#smoothing", "0.8")
    pictures.add(page.evaluate(pixels))
    page.check("#log-scale")
    pictures.add(page.evaluate(pixels))
    assert len(pictures) == 3
    assert shown_numbers(page, "reward", "critic/score/mean") == file_numbers(finished, "critic/score/mean")
    page.fill("#metric", "actor/entropy")
    page.press("#metric", "Tab")
    page.wait_for_selector("figure[id^=panel-metric-] canvas")
