"""Prices come from SkyPilot's catalogue where there is one, and are named unknown, with the reason, where not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compiler import SpecError
from compiler.cost import Cost, Unknown, cost, find_catalogue, training_seconds
from compiler.diff import compare, open_side, render
from compiler.load import evaluate
from compiler.overview import overview
from compiler.plan import Plan, make_plan
from compiler.validate import validate
from tests.compiler.golden_cases import LAB, REPOSITORY, spec_path

CATALOGUE = Path(__file__).parent / "data" / "vms.csv"
"""A few rows in the format of SkyPilot's catalogue v8; prices are made up."""


def plan(name: str, **skypilot: Any) -> Plan:
    value = evaluate(spec_path(name)).value
    value["cluster"].setdefault("skypilot", {}).update(skypilot)
    return make_plan(validate(value))


@pytest.mark.parametrize(
    ("settings", "hourly", "machines"),
    [
        ({}, 31.25, 1),  # the cheaper zone
        ({"spot": False}, 98.32, 1),
        ({"infra": "aws/us-east-1/us-east-1a"}, 39.5, 1),
        ({"infra": "aws/eu-central-1", "spot": False}, 117.98, 1),
        ({"instance_type": "m6i.large"}, 0.035, 1),
        ({"nodes": 3}, 93.75, 3),
        ({"accelerator": "h100"}, 31.25, 1),
    ],
)
def test_the_cheapest_machine_that_fits(settings: dict[str, Any], hourly: float, machines: int) -> None:
    found = cost(plan("spot-ec2", **settings), CATALOGUE)
    assert isinstance(found, Cost)
    assert (found.hourly, found.machines) == (pytest.approx(hourly), machines)
    assert found.at_most(7200) == pytest.approx(2 * hourly)


def test_a_machine_without_gpus_is_the_one_that_skypilot_takes() -> None:
    """Not t3, which is no family of its choice; and on spot the one that is cheapest on demand, at its spot price."""
    value = evaluate(spec_path("quickstart-site")).value
    for spot, hourly in ((False, 0.096), (True, 0.035)):
        value["cluster"]["skypilot"]["spot"] = spot
        found = cost(make_plan(validate(value)), CATALOGUE)
        assert isinstance(found, Cost) and (found.instance_type, found.hourly) == ("m6i.large", hourly)


def test_machines_follow_from_the_gpus_that_are_needed() -> None:
    found = cost(plan("moe-async"), CATALOGUE)  # eight GPUs that train and eight that roll out
    assert isinstance(found, Cost) and found.machines == 2 and found.instance_type == "p5en.48xlarge"


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"infra": "aws/eu-central-1"}, "no spot machine of aws/eu-central-1"),
        ({"accelerator": "H999"}, "8 H999"),
        ({"accelerator": "A100"}, "8 A100"),
    ],
)
def test_what_has_no_price_says_why(settings: dict[str, Any], why: str) -> None:
    found = cost(plan("spot-ec2", **settings), CATALOGUE)
    assert isinstance(found, Unknown) and why in found.why


def test_a_file_that_is_no_catalogue_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "vms.csv"
    for text in ("a,b\n1,2\n", "\x00"):
        wrong.write_text(text)
        with pytest.raises(SpecError, match=r"vms\.csv"):
            cost(plan("spot-ec2"), wrong)
    with pytest.raises(SpecError, match="cannot be read"):
        cost(plan("spot-ec2"), tmp_path / "none.csv")


def test_the_newest_catalogue_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_catalogue() is None
    for version in ("v7", "v8", "v10", "vx"):
        folder = tmp_path / ".sky" / "catalogs" / version / "aws"
        folder.mkdir(parents=True)
        (folder / "vms.csv").write_text(CATALOGUE.read_text())
    newest = find_catalogue()
    assert newest is not None and newest.parts[-3] == "v10"


def test_the_plan_shows_the_cost_or_says_that_it_is_unknown(tmp_path: Path) -> None:
    found = overview(spec_path("spot-ec2"), catalogue=CATALOGUE)
    assert "1 x p5.48xlarge in us-east-1, spot" in found.page and "$31.25" in found.page
    assert found.numbers["cost"]["usd_at_most"] == pytest.approx(31.25 * 5 * 24)
    said = subprocess.run(
        [sys.executable, "-m", "liverl", "plan", str(LAB), "--json"],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    numbers = json.loads(said.stdout)["cost"]
    assert numbers["usd_per_hour"] is None and "no catalogue of SkyPilot" in numbers["unknown"]


def test_the_trainers_share_scales_as_it_should() -> None:
    one = training_seconds(plan("dense-8gpu"))
    two = evaluate(spec_path("dense-8gpu")).value
    two["trainer"]["nodes"] = 2
    half = training_seconds(make_plan(validate(two)))
    assert one is not None and half == pytest.approx(one / 2)
    # 8.2e9 parameters, (6 + 2 + 2) operations, 256 sequences of 40,960 tokens, 8 GPUs at 0.3 of 989e12.
    assert one == pytest.approx(10 * 8.19e9 * 256 * 40960 / (8 * 0.3 * 989e12), rel=0.01)
    assert training_seconds(make_plan(validate(evaluate(LAB).value))) is None


@pytest.mark.parametrize("markdown", [False, True])
def test_a_difference_names_memory_and_money(markdown: bool) -> None:
    sides = [open_side(str(spec_path(name)), target="ray", catalogue=CATALOGUE) for name in ("dense-8gpu", "ppo-8gpu")]
    text = render(compare(*sides), markdown=markdown)
    assert '{"experiment": "ppo-8gpu"}' in text  # a line of submit.sh
    assert "Memory and cost" in text and "15.3 GiB" in text
    assert "cost per hour" not in text  # the same machines
    other = open_side(str(spec_path("moe-async")), target="ray", catalogue=CATALOGUE)
    changes = {change.path: change.new for change in compare(sides[0], other).amounts}
    assert changes["cost per hour"].startswith("$169.60 (2 x p5en.48xlarge) (+72%)")
    assert changes["memory: rollout weights"].endswith("%)")
