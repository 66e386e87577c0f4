"""What an experiment's machines cost, from the catalogue of SkyPilot where one lies on this machine, and how long the
trainer's share of a step takes at least.

Only ``liverl plan`` and ``liverl diff`` ask; no bundle holds a price. Catalogue format: SkyPilot 0.14.1,
``~/.sky/catalogs/v8/aws/vms.csv``, written there by SkyPilot itself at its first use.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from compiler.errors import refuse
from compiler.models import dense_parameters, expert_parameters, facts_of
from compiler.plan import Plan

_COLUMNS = frozenset(
    {"InstanceType", "AcceleratorName", "AcceleratorCount", "vCPUs", "MemoryGiB", "Price", "SpotPrice", "Region"}
)
PEAK_TFLOPS = {
    "A10G": 70,
    "A100": 312,
    "A100-80GB": 312,
    "B200": 2250,
    "H100": 989,
    "H200": 989,
    "L4": 121,
    "L40S": 362,
}
"""Dense bf16 peak of one GPU, from its maker's data sheet."""
UTILISATION = 0.3
"""Share of the peak that long sequences reach in practice."""
DEFAULT_FAMILIES = ("m6i", "m6id", "m7i", "r6i", "r6id", "r7i", "c6i", "c6id", "c7i")
"""EC2's families that SkyPilot takes machines without GPUs from, where none is named (``sky/catalog/aws_catalog.py``);
it takes the one that is cheapest on demand, for spot machines too."""


@dataclass(frozen=True)
class Cost:
    """Of all machines together, in US dollars."""

    instance_type: str
    region: str
    machines: int
    spot: bool
    hourly: float
    source: str
    """Name of the catalogue's version."""

    def at_most(self, seconds: float) -> float:
        return self.hourly * seconds / 3600


@dataclass(frozen=True)
class Unknown:
    """Why there is no price."""

    why: str


def find_catalogue() -> Path | None:
    """SkyPilot's newest list of EC2's machines, or None where it never ran."""
    found = sorted((Path.home() / ".sky" / "catalogs").glob("v*/aws/vms.csv"), key=_version)
    return found[-1] if found else None


def _version(path: Path) -> int:
    digits = path.parts[-3].removeprefix("v")
    return int(digits) if digits.isdecimal() else -1


def cost(plan: Plan, catalogue: Path | None) -> Cost | Unknown:
    """Price of the cheapest machines that ``cluster`` describes. Raises ``SpecError`` for a file that is no
    catalogue."""
    if catalogue is None:
        return Unknown(
            "no catalogue of SkyPilot on this machine (it fetches one at its first use; --catalog names another)"
        )
    sky, worker = plan.spec.cluster.skypilot, plan.spec.cluster.worker
    if not sky.infra.startswith("aws"):
        return Unknown(f"prices are those of EC2, and cluster.skypilot.infra is {sky.infra}")
    accelerator = sky.accelerator or plan.spec.trainer.gpu
    needed = plan.trainer_ranks + plan.rollout_gpus if plan.spec.trainer.device == "cuda" else 0
    if needed and not worker.gpus:
        return Unknown(f"{needed} GPUs are needed, but cluster.worker has none")
    machines = max(sky.nodes, -(-needed // worker.gpus) if needed else 1)
    _, _, place = sky.infra.partition("/")
    region, _, zone = place.partition("/")
    wanted = f"{worker.cpus} CPUs and {worker.memory_gib} GiB" + (
        f", {worker.gpus} {accelerator}" if worker.gpus else ""
    )
    by_default = sky.instance_type is None and not worker.gpus
    fitting = []
    for row in _rows(catalogue):
        if sky.instance_type is not None:
            fits = row["InstanceType"] == sky.instance_type
        elif worker.gpus:
            fits = (
                row["AcceleratorName"].lower() == (accelerator or "").lower()
                and _number(row["AcceleratorCount"]) == worker.gpus
                and _holds(row, worker.cpus, worker.memory_gib)
            )
        else:
            family, _, _ = row["InstanceType"].partition(".")
            fits = family in DEFAULT_FAMILIES and _holds(row, worker.cpus, worker.memory_gib)
        if fits and (not region or row["Region"] == region) and (not zone or row.get("AvailabilityZone") == zone):
            fitting.append(row)
    if by_default and (priced := [row for row in fitting if _number(row["Price"])]):
        chosen = min(priced, key=lambda row: _number(row["Price"]))["InstanceType"]
        fitting = [row for row in fitting if row["InstanceType"] == chosen]
    column = "SpotPrice" if sky.spot else "Price"
    offers = [(_number(row[column]), row["InstanceType"], row["Region"]) for row in fitting if _number(row[column])]
    if not offers:
        kind = "spot machine" if sky.spot else "machine"
        return Unknown(f"the catalogue has no {kind} of {sky.infra} with {sky.instance_type or wanted}")
    price, name, region = min(offers, key=lambda offer: offer[0])
    return Cost(
        name, region, machines, sky.spot, price * machines, catalogue.parts[-3] if len(catalogue.parts) > 2 else ""
    )


@cache
def _rows(catalogue: Path) -> tuple[Mapping[str, str], ...]:
    try:
        with catalogue.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if missing := _COLUMNS - set(reader.fieldnames or ()):
                raise refuse(f"{catalogue}: no catalogue of SkyPilot: no column {', '.join(sorted(missing))}")
            return tuple(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise refuse(f"{catalogue}: cannot be read as a catalogue: {error}") from error


def _holds(row: Mapping[str, str], cpus: int, memory_gib: int) -> bool:
    return _number(row["vCPUs"]) >= cpus and _number(row["MemoryGiB"]) >= memory_gib


def _number(text: str | None) -> float:
    try:
        return float(text or 0)
    except ValueError:
        return 0.0


def cost_rows(plan: Plan, found: Cost | Unknown) -> list[tuple[str, str]]:
    """For people: what, and how it was computed."""
    if isinstance(found, Unknown):
        rows = [("machines", f"unknown: {found.why}")]
    else:
        deadline = plan.spec.cluster.deadline_sec
        kind = "spot" if found.spot else "on demand"
        rows = [
            ("machines", f"{found.machines} x {found.instance_type} in {found.region}, {kind}"),
            ("per hour", f"${found.hourly:,.2f}"),
            (f"at most (deadline of {deadline / 3600:g} h)", f"${found.at_most(deadline):,.2f}"),
        ]
    seconds = training_seconds(plan)
    if seconds is not None:
        rows.append(
            (
                "trainer's share of a step, all trajectories at full length",
                f"about {seconds:,.0f} s at {UTILISATION:.0%} of peak",
            )
        )
        if isinstance(found, Cost):
            steps = plan.spec.schedule.steps
            rows.append(
                (f"... and of {steps:,} steps", f"about ${found.at_most(seconds * steps):,.2f}; rollout not counted")
            )
    return rows


def training_seconds(plan: Plan) -> float | None:
    """Seconds of forward and backward passes of one step: 6 floating-point operations per active parameter and token of
    an epoch, 2 for each pass that only computes log-probabilities, the same again for a critic. None where the model or
    the GPU is unknown. Attention's quadratic part is left out."""
    spec = plan.spec
    facts = facts_of(spec.policy)
    if facts is None or spec.trainer.device != "cuda" or spec.trainer.gpu is None:
        return None
    experts = expert_parameters(facts)
    if facts.num_experts:
        experts = experts * (facts.experts_per_token or 0) // facts.num_experts
    active = dense_parameters(facts) + experts
    bypass = spec.algorithm.correction.type == "bypass"
    passes = 6 * spec.algorithm.epochs + (0 if bypass else 2) + (2 if plan.needs_reference else 0)
    if plan.needs_critic:
        passes += 6 * spec.algorithm.epochs + 2
    if spec.trainer.gradient_checkpointing:
        passes += 2 * spec.algorithm.epochs * (2 if plan.needs_critic else 1)
    peak = PEAK_TFLOPS[spec.trainer.gpu] * 1e12 * plan.trainer_ranks
    return passes * active * plan.max_tokens_per_step / (peak * UTILISATION)


def cost_numbers(plan: Plan, found: Cost | Unknown) -> dict[str, object]:
    """For programs."""
    numbers: dict[str, object] = {"training_sec_per_step": training_seconds(plan)}
    if isinstance(found, Unknown):
        return {**numbers, "usd_per_hour": None, "unknown": found.why}
    return {
        **numbers,
        "usd_per_hour": found.hourly,
        "usd_at_most": found.at_most(plan.spec.cluster.deadline_sec),
        "instance_type": found.instance_type,
        "region": found.region,
        "machines": found.machines,
        "spot": found.spot,
    }
