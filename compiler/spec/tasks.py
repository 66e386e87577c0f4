"""Which tasks train, validate and demonstrate."""

from typing import Annotated

from pydantic import Field

from runtime.config.base import Model
from runtime.config.tasks import Curriculum, TaskSet


class Tasks(Model):
    """The tasks of an experiment."""

    train: Annotated[tuple[TaskSet, ...], Field(min_length=1)]
    """Task sets that the policy learns from."""
    curriculum: Curriculum | None = None
    """Training tasks by what the run's own trials of them score; null: each as often as its set's weight asks for."""
    validation: tuple[TaskSet, ...] = ()
    """Task sets that only measure."""
    baselines: bool = False
    """Score the scripted baselines on the validation tasks under the same budget of actions."""
