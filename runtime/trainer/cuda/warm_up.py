"""``python -m runtime.trainer.cuda.warm_up POLICY``: do once, in time, what every process of vLLM begins with.

What stays is in caches alone: files in memory, byte code, vLLM's notes on the model's class. It touches no GPU.
"""

from __future__ import annotations

import os
import sys


def main(policy: str) -> None:
    os.nice(5)
    from vllm.engine.arg_utils import AsyncEngineArgs

    import runtime.trainer.cuda.worker  # noqa: F401

    AsyncEngineArgs(model=policy, load_format="dummy").create_engine_config()


if __name__ == "__main__":
    main(sys.argv[1])
