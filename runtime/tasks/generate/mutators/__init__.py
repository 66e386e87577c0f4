"""The registry of bugs: each mutator takes one node of a function's syntax tree and yields wrong versions of it.

A mutator knows syntax only; whether a mutant is a bug is decided later by the package's own tests. A new kind is a new
function with the ``mutator`` decorator in one of this folder's modules.
"""

from __future__ import annotations

from runtime.tasks.generate.mutators import calls, constants, flow, names, operators
from runtime.tasks.generate.mutators.base import KINDS, REGISTRY, Context, Delete, Mutator, mutator

__all__ = [
    "KINDS",
    "REGISTRY",
    "Context",
    "Delete",
    "Mutator",
    "calls",
    "constants",
    "flow",
    "mutator",
    "names",
    "operators",
]
