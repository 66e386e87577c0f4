"""The whole policy of a checkpoint that holds adapters alone: its base found on this machine, and the two put together.

Knows model folders; nothing of how the adapter was trained.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from runtime.errors import UserError
from runtime.launch.model import locate
from runtime.models import adapters
from runtime.models.store import RECORD
from runtime.trainer.stable import name_true_dtype


def whole(model: Path, out: Path) -> Path:
    """``model``, or where that is an adapter alone the policy that it makes of its base, written to ``out``. Raises
    ``UserError`` when the base is not on this machine."""
    if not adapters.alone(model):
        return model
    base = base_of(model)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for path in sorted(base.iterdir()):
        weights = path.suffix == ".safetensors" or path.name.endswith(".safetensors.index.json")
        if path.is_file() and not weights and path.name != RECORD:
            shutil.copy(path, out / path.name)
    adapters.put_in(model, base, out)
    name_true_dtype(out)
    return out


def base_of(adapter: Path) -> Path:
    """Where the model lies that an adapter was trained on: beside the run's checkpoints, or wherever its name leads.
    Raises ``UserError`` when it is in neither place, or another model is."""
    named, files = adapters.base_of(adapter)
    candidates = [parent / "policy" for parent in adapter.parents[:5]]
    with suppress(UserError):
        candidates.append(locate(named))
    here = [place for place in candidates if (place / "config.json").is_file()]
    for place in here:
        if adapters.belongs(adapter, place):
            return place.resolve()
    found = f"there is another model in {', '.join(map(str, here))}" if here else "it is not on this machine"
    raise UserError(f"{adapter}: belongs on {named} ({', '.join(files)}), but {found}; bring that model here")
