"""The spec compiler: Jsonnet spec -> plan -> bundle of launch artifacts. Pure, without torch, Ray or network."""

from compiler.compiled import Bundle, Sweep
from compiler.errors import Problem, SpecError
from compiler.pipeline import check_spec, compile_all, compile_in_memory, compile_spec

__all__ = [
    "Bundle",
    "Problem",
    "SpecError",
    "Sweep",
    "check_spec",
    "compile_all",
    "compile_in_memory",
    "compile_spec",
]
