"""The CPU engine is held against the same models: the fixtures of ``tests/runtime/rollouter``."""

from tests.runtime.rollouter.conftest import full_logprobs as full_logprobs
from tests.runtime.rollouter.conftest import model_folder as model_folder
