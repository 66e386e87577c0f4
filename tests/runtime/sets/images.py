"""Images as published sets have them: bash, git, a ``testbed`` environment with pytest, and the clone of a repository.

Python is LiveRL's own at ``/opt/python``: an image with one of its own would weigh a hundred times as much.
"""

from __future__ import annotations

import os
import re
import subprocess
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from tests.oci_images import Content, Made, busybox, image
from tests.runtime.sets.repositories import Clone

_PACKAGES = ("pytest", "_pytest", "py", "pluggy", "iniconfig", "packaging", "pygments")
_LEXERS = ("__init__.py", "_mapping.py", "diff.py", "python.py")
_SITE = "opt/miniconda3/envs/testbed/site"
_PYTHON = f'#!/bin/sh\nPYTHONPATH=/{_SITE} exec /opt/python/bin/python3 "$@"\n'.encode()
_APPLETS = ("cut", "dirname", "find", "pwd", "sed", "sort", "tail", "wc", "which")


def tools() -> dict[str, Content]:
    """The layer that all of them share."""
    files = busybox() | {f"bin/{name}": "busybox" for name in _APPLETS}
    for program in ("bash", "git"):
        path = Path(f"/usr/bin/{program}")
        files |= {"usr": None, "usr/bin": None, f"usr/bin/{program}": path.read_bytes()}
        listed = subprocess.run(["ldd", str(path)], check=True, capture_output=True, text=True).stdout
        for library in re.findall(r"(/\S+)", listed):
            files[library.lstrip("/")] = Path(library).resolve().read_bytes()
    files["usr/lib/git-core"] = None
    files |= {"bin/bash": "/usr/bin/bash", "bin/git": "/usr/bin/git", "tmp": None, "root": None}
    env = "opt/miniconda3/envs/testbed/bin"
    files |= {f"{env}/python": _PYTHON, f"{env}/pytest": b'#!/bin/sh\nexec python -m pytest "$@"\n'}
    files["opt/miniconda3/bin/activate"] = f'conda() {{ PATH="/{env}:$PATH"; }}\n'.encode()
    for package in _PACKAGES:
        spec = find_spec(package)
        assert spec is not None and spec.origin is not None
        root = Path(spec.origin)
        found = sorted(root.parent.rglob("*.py")) if root.name == "__init__.py" else [root]
        for path in found:
            name = path.relative_to(root.parent.parent if root.name == "__init__.py" else root.parent)
            if package != "pygments" or "lexers" not in name.parts[:-1] or name.name in _LEXERS:
                files[f"{_SITE}/{name}"] = path.read_bytes()
    about = f"Metadata-Version: 2.1\nName: pluggy\nVersion: {version('pluggy')}\n"
    files[f"{_SITE}/pluggy-{version('pluggy')}.dist-info/METADATA"] = about.encode()
    return files


def of_clone(clone: Clone, base: dict[str, Content], **more: Content) -> Made:
    """The shared layer, and one with the clone and what else its image holds."""
    files: dict[str, Content] = {}
    for folder, folders, names in os.walk(clone.root):
        for name in (*folders, *names):
            path = Path(folder) / name
            inside = path.relative_to(clone.root).as_posix()
            if path.is_symlink():
                files[inside] = str(path.readlink())
            elif path.is_dir():
                files[inside] = None
            else:
                files[inside] = path.read_bytes()
    files["testbed/.venv/bin/python"] = _PYTHON
    return image([base, {**files, **more}], Env=["PATH=/usr/bin:/bin", "HOME=/root"], WorkingDir="/testbed")
