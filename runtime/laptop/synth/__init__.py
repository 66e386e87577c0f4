"""Generated repositories as tasks: small packages with tests, each broken once as code and test output reveal.

Names, numbers and function structures of one split (train, held_out, demonstrations) never occur in another, whatever
the seeds: see ``words.py`` and ``grammar.structure_split``. The same (seed, split, number) always gives the same
repository.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from runtime.laptop.synth.repository import Repository, build
from runtime.laptop.synth.words import Split
from runtime.task import LiverlTable
from runtime.tasks.write import write_task


def generate(
    count: int, *, seed: int, split: Split, out: Path, families: Mapping[str, float] | None = None
) -> list[Path]:
    """Write ``count`` task directories below ``out`` and return their paths, in order; ``families`` as in
    ``draw_family``."""
    made = (build(split, seed=seed, number=number, families=families) for number in range(count))
    return [write(repository, split, number, out=out) for number, repository in enumerate(made)]


def write(repository: Repository, split: Split, number: int, *, out: Path) -> Path:
    """Write one repository as a Harbor task directory ``out/<split>-<number>-<package>``."""
    return write_task(
        out,
        name=f"{split.replace('_', '-')}-{number:05d}-{repository.name}",
        instruction=f"Tests of {repository.name} fail. Repair it.",
        repository={path: text.encode() for path, text in repository.broken.items()},
        solution={path: text.encode() for path, text in repository.repaired.items()},
        tests={path: text.encode() for path, text in repository.tests.items()},
        description=f"A generated package with one bug of the family '{repository.family}'.",
        liverl=LiverlTable(
            source="synth",
            fail_to_pass=repository.fail_to_pass,
            pass_to_pass=repository.pass_to_pass,
            artifacts=(repository.name,),
            source_files=tuple(path for path in repository.broken if path.endswith(".py")),
            family=repository.family,
            split_key=" ".join(repository.structures),
        ),
        agent_timeout_sec=120,
        verifier_timeout_sec=30,
        memory_mb=512,
    )
