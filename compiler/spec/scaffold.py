"""The coding agent that runs in the sandbox."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from compiler.spec.base import Count, ImportPath, Model


class ShellScaffold(Model):
    """The built-in agent: reads, edits, runs tests, submits."""

    type: Literal["shell"]
    tools: Literal["free", "repair"]
    """``free``: free text edits; ``repair``: structured repairs whose arguments are a line label."""
    max_turns: Annotated[int, Field(ge=1, le=1000)]
    """Model calls per trial."""
    max_edits: Count
    """Edits per trial."""


class ImportedScaffold(Model):
    """A scaffold of your own."""

    type: Literal["import"]
    import_path: ImportPath
    """``package.module:Class``, implementing ``runtime.scaffolds.base.Scaffold``."""
    kwargs: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """Arguments of its constructor."""


Scaffold = Annotated[ShellScaffold | ImportedScaffold, Field(discriminator="type")]
