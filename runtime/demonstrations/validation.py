"""What a spec's validation sets hold out, found without making a single task."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from runtime.config import DirectorySource, GenerateSource, HistorySource, IndexSource, RuntimeConfig, TaskSet
from runtime.config.tasks import packages_of
from runtime.demonstrations.held_out import HeldOut, package_of
from runtime.task import Task
from runtime.tasks.directories import find_task_directories, load_tasks
from runtime.tasks.generate.sources import Package, fetch, open_repository


def held_out_of(config: RuntimeConfig, *, cache: Path) -> HeldOut:
    """Reads task folders, and the packages that validation tasks would be made of: those are fetched where they are not
    here. Raises ``UserError`` and ``MachineError`` as the sources do."""
    tasks: list[Task] = []
    packages: list[Package] = []
    for one in config.validation:
        source = one.source
        if isinstance(source, GenerateSource):
            packages += [fetch(pin, cache=cache) for pin in source.packages]
        elif isinstance(source, HistorySource):
            packages.append(open_repository(Path(source.repository).expanduser()))
        else:
            tasks += _tasks(one)
    return HeldOut.of(tasks, packages, trained=set(_trained(config.train)))


def _tasks(one: TaskSet) -> list[Task]:
    """Without a proof: what is held out need not be fit for training."""
    if isinstance(one.source, DirectorySource):
        found = find_task_directories([Path(path) for path in one.source.paths])
    elif isinstance(one.source, IndexSource):
        from runtime.tasks.index import indexed_tasks

        found = indexed_tasks(Path(one.source.path), band=None)
    else:
        return []  # generated repositories, and datasets of a registry, are of no package
    return load_tasks(found, on_problem=lambda why: None)


def _trained(sets: Sequence[TaskSet]) -> Iterable[str]:
    yield from packages_of(sets)
    for one in sets:
        if isinstance(one.source, DirectorySource):
            folders = [Path(path) for path in one.source.paths if Path(path).is_dir()]
            yield from (package_of(path.name) for path in find_task_directories(folders)) if folders else ()
