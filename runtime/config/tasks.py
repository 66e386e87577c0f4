"""Where tasks come from."""

import re
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field

from runtime.config.base import (
    DISTRIBUTION,
    DISTRIBUTION_VERSION,
    PARQUET,
    REQUIREMENT,
    REVISION,
    SHA256,
    Count,
    Model,
    Name,
    NonNegative,
    Positive,
    Seed,
    Share,
    Text,
    Whole,
)

Split = Literal["train", "held_out", "demonstrations"]
BugFamily = Literal["operator", "bound", "direction", "condition", "constant", "name"]
"""What breaks a generated repository (``runtime/laptop/synth/bugs.py``)."""
Requirement = Annotated[str, Field(pattern=REQUIREMENT, max_length=200)]
"""``NAME==VERSION``"""
Revision = Annotated[str, Field(pattern=REVISION, max_length=200)]
"""A commit, tag or branch by its name."""


class SynthSource(Model):
    """Small repositories generated from a seed, each broken once."""

    type: Literal["synth"] = "synth"
    count: Count
    """Number of repositories."""
    seed: Seed
    split: Split
    """Names, values and structures never cross splits, whatever the seeds."""
    families: dict[BugFamily, NonNegative] = Field(default_factory=dict)
    """Family of bugs -> how many times as often as usual; 1 for those not named, 0: none of it."""


class PackagePin(Model):
    """A published source distribution, pinned."""

    name: Annotated[str, Field(pattern=DISTRIBUTION, max_length=100)]
    version: Annotated[str, Field(pattern=DISTRIBUTION_VERSION, max_length=50)]
    sha256: Annotated[str, Field(pattern=SHA256)]
    """Digest of the source distribution (``pip hash``)."""


class GenerateSource(Model):
    """Verified bugs injected into published packages, graded by the packages' own tests."""

    type: Literal["generate"] = "generate"
    packages: Annotated[tuple[PackagePin, ...], Field(min_length=1)]
    per_package: Count
    """Most tasks taken from one package."""
    per_kind_fraction: Share = 0.25
    """Largest share of one kind of bug among the tasks of a package."""
    per_function: Count = 4
    """Most bugs of one function: variety over numbers. Small packages give more tasks with more."""
    tests_per_task: Annotated[int, Field(ge=1, le=1000)] = 30
    """Most tests that judge one task, the most specific first."""
    slow_test_sec: Positive = 0.5
    """Tests that take longer are left out, because they would set the price of every verdict; without the time that
    they wait for a processor."""
    bugs: Annotated[int, Field(ge=1, le=8)] = 1
    """Bugs per task, each of another function; all of them must be found."""
    requirements: tuple[Requirement, ...] = ()
    """Further packages that the tests need, ``NAME==VERSION``, installed for all of them."""
    seed: Seed
    split: Split | None
    """Split by function name across all packages; null: all functions, for validation on packages that no other set is
    made of."""
    split_seed: Seed = 0
    """Draws which function names are in a split; the same for all task sets of an experiment."""


class HistorySource(Model):
    """A repository's own commits that change code and tests: the code before, to be changed until the commit's tests
    pass. Each is proven before it is used."""

    type: Literal["history"] = "history"
    repository: Text
    """Folder of a git repository; absolute, or relative to the folder where ``liverl run`` is called."""
    revision: Revision = "HEAD"
    """Newest commit that is looked at."""
    after: Revision | None = None
    """Only commits that this one does not contain. Later code holds the solutions of earlier commits, so validation
    starts where training ends: its ``after`` is the training set's ``revision``."""
    count: Count = 50
    """At most so many tasks, the newest."""
    max_commits: Count = 200
    """At most so many commits are looked at, newest first."""
    requirements: tuple[Requirement, ...] = ()
    """Further packages that the tests need, ``NAME==VERSION``."""


class HarborSource(Model):
    """A dataset of a Harbor registry, by name and version. Its tasks are fetched with git and kept; how a moving entry
    (version ``head``, tasks without a commit) was when it was first fetched is how it stays."""

    type: Literal["harbor"] = "harbor"
    dataset: Annotated[Text, Field(max_length=200)]
    """Name of the dataset in the registry."""
    version: Annotated[Text, Field(max_length=200)]
    registry: Text
    """The registry (``registry.json``): its ``https://`` address, or a file, absolute or relative to the folder where
    ``liverl run`` is called."""
    task_names: tuple[Text, ...] = ()
    """Only tasks whose name matches one of these patterns (``*``, ``?``, ``[]``); empty: all."""
    exclude_task_names: tuple[Text, ...] = ()
    """Without tasks whose name matches one of these patterns."""
    limit: Count | None = None
    """At most so many tasks, in the registry's order; null: all."""


class PublishedSource(Model):
    """Tasks of a published set, by its name. Rows come from a file or, where there is a network, from the hub; each
    task's image is fetched by the name that its set gives it."""

    type: Literal["swe-bench", "swe-smith", "swe-gym", "r2e", "swe-rebench"] = "swe-bench"
    rows: Text | None = None
    """The rows: a file (parquet, JSON or JSON lines) or a folder of them, absolute or relative to the folder where
    ``liverl run`` is called; null: the hub's."""
    dataset: Annotated[Text, Field(max_length=200)] | None = None
    """Data set of the hub in the same form, ``OWNER/NAME``; null: the set's usual one."""
    split: Annotated[Name, Field(max_length=100)] | None = None
    """Of the data set; null: the usual one."""
    revision: Revision | None = None
    """Of the data set; null: what it is when it is first fetched, which is kept."""
    instances: tuple[Text, ...] = ()
    """Only these instances; empty: all."""
    repositories: tuple[Text, ...] = ()
    """Only tasks of these repositories, ``owner/name``; empty: of all."""
    limit: Count | None = None
    """At most so many tasks, in the order of the rows."""


class TerminalBenchSource(Model):
    """Tasks in Terminal-Bench's own format, of before Harbor: folders with a ``task.yaml``."""

    type: Literal["terminal-bench"] = "terminal-bench"
    path: Text
    """Folder of the tasks; absolute, or relative to the folder where ``liverl run`` is called."""
    instances: tuple[Text, ...] = ()
    """Only these tasks; empty: all."""
    limit: Count | None = None
    """At most so many tasks, in order of name."""


class DirectorySource(Model):
    """Existing task directories in Harbor's format."""

    type: Literal["directories"] = "directories"
    paths: Annotated[tuple[Text, ...], Field(min_length=1)]
    """Absolute, or relative to the folder where ``liverl run`` is called."""
    limit: Count | None = None
    """At most so many tasks, in the order of the paths and in each of names; null: all."""


class PassRate(Model):
    """A band of difficulty: the share of earlier trials that solved a task. Tasks that are always or never solved teach
    a group-relative algorithm nothing."""

    least: Share = 0.0
    most: Share = 1.0


class Curriculum(Model):
    """Training tasks by what the run's own trials of them score: those within a band of pass rates first, in each set.
    A task's rate is the mean of its graded trials, older ones counting less, beside one imagined trial in the middle of
    the band: what was never tried counts as within, and what was not tried for long comes back to it."""

    band: PassRate
    """Tasks whose rate lies within are given out first, none more than once in so many prompts as a step has, or as
    half of its set, whichever is less."""
    floor: Annotated[float, Field(gt=0.0, le=0.5)] = 0.1
    """Least share of a set's prompts for its tasks outside of the band, those that waited longest first."""
    untried: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """Share of the other prompts for tasks that the run has not tried yet, while some are known to lie within the band;
    1: all are tried before one comes again."""
    warmup_steps: Whole = 0
    """Steps during which rates are taken and nothing goes by them."""
    half_life_steps: Annotated[float, Field(gt=0.0, le=1e6)] = 20.0
    """A trial counts half as much after so many steps."""


class IndexSource(Model):
    """Task directories that an index points at (``liverl tasks index``)."""

    type: Literal["index"] = "index"
    path: Annotated[str, Field(pattern=PARQUET, max_length=4096)]
    """The index; absolute, or relative to the folder where ``liverl run`` is called."""
    pass_rate: PassRate | None = None
    """Only tasks of this difficulty; those whose pass rate nobody has measured are left out. null: all."""
    limit: Count | None = None
    """At most so many of them, in the index's order; null: all."""


Source = Annotated[
    SynthSource
    | GenerateSource
    | HistorySource
    | HarborSource
    | PublishedSource
    | TerminalBenchSource
    | DirectorySource
    | IndexSource,
    Field(discriminator="type"),
]


class TaskSet(Model):
    """Tasks under one name."""

    name: Name
    """Scores appear as ``val-core/<name>/reward/mean@1``."""
    source: Source
    weight: Annotated[float, Field(gt=0.0, le=1e6)] | None = None
    """Training only: this set's share of the prompts is its weight by the sum of all; tasks are then given out as often
    as that takes, each at least once an epoch. null in all sets: every task once an epoch."""
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] | None = None
    """Validation only: sampling temperature of this set (0: greedy); null takes the rollout's."""


def canonical(package: str) -> str:
    """As package indexes compare names (PEP 503)."""
    return re.sub(r"[-_.]+", "-", package).lower()


def packages_of(sets: Iterable[TaskSet]) -> set[str]:
    """Canonical names of the packages that sets are made of."""
    sources = (one.source for one in sets)
    return {canonical(pin.name) for one in sources if isinstance(one, GenerateSource) for pin in one.packages}
