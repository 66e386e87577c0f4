"""Environment variables: those that a run sets by itself, and what a spec may say of the others. One table, by which
the compiler refuses names and the trainer orders them."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

from runtime.config.base import ENVIRONMENT_NAME, TEXT

EnvironmentName = Annotated[str, Field(pattern=ENVIRONMENT_NAME, max_length=128)]
"""Name of an environment variable."""
EnvironmentValue = Annotated[str, Field(pattern=TEXT, max_length=4096)]
"""One line; it may be empty."""
OWNED = re.compile(
    r"(PATH|HOME|SHELL|USER|PWD|HOSTNAME|TMPDIR|POD_IP|CUDA_VISIBLE_DEVICES|NVIDIA_VISIBLE_DEVICES"
    r"|HF_HUB_OFFLINE|HF_HUB_DISABLE_TELEMETRY|DO_NOT_TRACK|TOKENIZERS_PARALLELISM"
    r"|VLLM_(API_KEY|NO_USAGE_STATS|ALLOW_RUNTIME_LORA_UPDATING)"
    r"|PYTHON\w*|(LIVERL|VERL|RAY|HYDRA|SKYPILOT|DOCKER|KUBERNETES)_\w+)"
)
"""What LiveRL, its launchers or the platform set, and on which a run depends: a spec cannot set them."""
DEFAULTS = frozenset(
    {
        *("HF_HOME", "MPLCONFIGDIR", "OMP_NUM_THREADS", "OMP_WAIT_POLICY"),
        *("CUDA_CACHE_PATH", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "VLLM_CACHE_ROOT"),
        "VLLM_DISABLE_COMPILE_CACHE",
        *("MLFLOW_TRACKING_URI", "SWANLAB_LOG_DIR", "TENSORBOARD_DIR", "TRACKIO_DIR", "WANDB_DIR", "WANDB_MODE"),
    }
)
"""What LiveRL sets too, but where a spec says otherwise, the spec holds."""
