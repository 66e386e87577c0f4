"""The spec compiler: Jsonnet spec -> plan -> bundle of launch artifacts. Pure, without torch, Ray or network."""

from compiler.errors import Problem, SpecError
from compiler.pipeline import Bundle, check_spec, compile_in_memory, compile_spec

__all__ = ["Bundle", "Problem", "SpecError", "check_spec", "compile_in_memory", "compile_spec"]
