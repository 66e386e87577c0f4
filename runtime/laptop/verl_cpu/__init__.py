"""The external verl module that lets verl 0.9.1's unmodified trainer run on CPU with engines of our own.

Loaded in every verl process through ``VERL_USE_EXTERNAL_MODULES=runtime.laptop.verl_cpu``; importing it registers a
CPU platform, the rollout replica ``liverl_cpu`` with its weight adapter, and the checkpoint engine ``liverl_ray``, and
applies the few patches that verl still needs without an accelerator. Knows nothing of tasks, sandboxes or agents.
"""

from __future__ import annotations

# Order matters: the FSDP patch must be in place before verl's workers import the class by name.
from runtime.laptop.verl_cpu import patches

patches.before_verl_workers()

from runtime.laptop.verl_cpu import checkpoint_engine, platform, replica  # noqa: E402
from runtime.trainer.startup import imported  # noqa: E402

patches.after_verl_import()
replica.register()
imported()

__all__ = ["checkpoint_engine", "platform", "replica"]
