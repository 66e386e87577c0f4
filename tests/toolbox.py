"""Programs that tests need and LiveRL does not: each in a folder of its own below ``~/.cache/liverl/tools``, made once.

A folder is named by what is in it, so a changed requirement is a new folder, and two test runs never see half of one.
Where something cannot be installed, the test that asks is skipped with the installer's last words as its reason.
What the tables here name is fetched while the first tests run (``tests/fetch.py``).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from targets.pins import SKYPILOT

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "liverl" / "tools"
DEBIAN_MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
HARBOR = "harbor"
PYTHON_TOOLS = {
    HARBOR: (
        "pip",
        "harbor==0.24.0",
    ),
    "skypilot": (f"skypilot=={SKYPILOT}",),
    "checkov": ("checkov==3.3.30",),
    "moto": ("moto[ecs,server]==5.2.1", "python-dateutil>=2.9,<3"),
    "playwright": ("playwright==1.56.0",),
    "renderers": ("renderers==0.1.12", "tokenizers>=0.22", "httpx"),
    "compose-spec": ("compose-spec==0.2.1",),
    "cel": ("common-expression-language==0.10.0",),
    "swebench": ("--no-deps", "swebench==5.0.2", "unidiff==0.7.5"),
    "trl-templates": ("--no-deps", "trl==1.16.0"),
}
"""Name -> pip requirements. Harbor needs Python 3.12."""
NODE_TOOLS = {"suites": ("mocha@11.7.5", "jest@29.7.0", "vitest@2.1.9"), "axe": ("axe-core@4.14.1",)}
"""Name -> npm packages."""
SUITES = {
    "go": "golang-go",
    "cargo": "cargo rustc",
    "cmake": "cmake make gcc libc6-dev",
    "rspec": "ruby-rspec-core ruby-rspec-expectations",
    "phpunit": "phpunit php-cli php-xml php-mbstring",
}
"""Command -> Debian packages, of the system itself. About 80 MB, most of it Go's; nodejs is there for other tests."""
SYSTEM = "/usr/local/bin:/usr/bin:/bin"
_ENOUGH_SEC = 1500
# Where Python may not write byte code, tools that uv installed would be compiled at each of their starts.
_COMPILES_ITSELF = "import sys; sys.dont_write_bytecode = False\n"


def python_tools(name: str, *requirements: str, python: str = "") -> Path:
    """``bin`` of a virtual environment with these pip requirements, those of the table where none are given."""
    requirements = requirements or PYTHON_TOOLS[name]
    # Not this clone's own environment, of which nothing is used: the next clone would install everything again.
    python = python or (python312() if name == HARBOR else str(Path(sys.executable).resolve()))

    def make(folder: Path) -> None:
        make_environment(folder, python)
        pip_install(folder, *requirements)

    return made(name, (python, *requirements), make) / "bin"


def make_environment(folder: Path, python: str) -> None:
    """A virtual environment, of uv or, where that is not there, of Python's own module."""
    try:
        _uv("venv", "--python", python, str(folder))
    except (subprocess.CalledProcessError, FileNotFoundError):
        run(python, "-m", "venv", str(folder))


def pip_install(folder: Path, *arguments: str) -> None:
    """Packages into a virtual environment: by uv, which needs a tenth of pip's time and keeps one copy of each. Where
    it is not there or finds something missing by pip, which may know ways to packages that uv does not."""
    program = str(folder / "bin" / "python")
    try:
        _uv("pip", "install", "--python", program, *arguments)
    except (subprocess.CalledProcessError, FileNotFoundError):
        run(program, "-m", "ensurepip")
        run(program, "-m", "pip", "install", "--quiet", *arguments)
    else:
        (packages,) = folder.glob("lib/python3.*/site-packages")
        (packages / "compiles_itself.pth").write_text(_COMPILES_ITSELF)


def _uv(*arguments: str) -> None:
    run(str(Path(sys.executable).with_name("uv")), "--quiet", *arguments)


def python(version: str) -> str:
    """The path of a Python ``major.minor``: this one, one on PATH, one of pyenv, or a build that uv fetches."""
    name = f"python{version}"
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    places = [sys.executable, shutil.which(name), *sorted(root.glob(f"versions/{version}.*/bin/{name}"), reverse=True)]
    show = "import sys; print('%d.%d' % sys.version_info[:2])"
    for place in filter(None, places):
        answer = subprocess.run([str(place), "-c", show], capture_output=True, text=True, check=False)
        if answer.stdout.strip() == version:
            return str(place)

    def make(folder: Path) -> None:
        make_environment(folder / "uv", sys.executable)
        pip_install(folder / "uv", "uv")
        run(str(folder / "uv/bin/uv"), "python", "install", "--install-dir", str(folder / "pythons"), version)

    folder = made(name, (version,), make)
    return str(next((folder / "pythons").glob(f"*/bin/{name}")))


def node_tools(name: str, *packages: str) -> Path:
    """``node_modules/.bin`` of a folder with these npm packages, those of the table where none are given. Needs node,
    of Debian's or another."""
    packages = packages or NODE_TOOLS[name]
    require_command("npm", package="npm")

    def make(folder: Path) -> None:
        folder.mkdir()
        run("npm", "install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix", str(folder), *packages)

    return made(name, packages, make) / "node_modules" / ".bin"


def python312() -> str:
    """pyenv's programs before what is on PATH: that may be pyenv's switch, which works for chosen versions only."""
    found = sorted((Path.home() / ".pyenv" / "versions").glob("3.12*/bin/python3.12"))
    path = str(found[-1]) if found else shutil.which("python3.12")
    if path is None:
        pytest.skip("Python 3.12 is not here")
    return path


def debian_tools(name: str, *packages: str, suite: str) -> Path:
    """Root folder of Debian packages of another release, unpacked and not installed, without what they depend on."""

    def make(folder: Path) -> None:
        for part in ("lists/partial", "cache/archives/partial", "files"):
            (folder / part).mkdir(parents=True)
        keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
        (folder / "sources.list").write_text(f"deb [signed-by={keys}] {DEBIAN_MIRROR} {suite} main\n")
        options = [f"Dir::Etc::sourcelist={folder}/sources.list", "Dir::Etc::sourceparts=-", "APT::Sandbox::User=root"]
        options += [f"Dir::State::lists={folder}/lists", f"Dir::Cache={folder}/cache"]
        apt = ["apt-get", "-qq", *(word for option in options for word in ("-o", option))]
        run(*apt, "update")
        run("sh", "-c", 'cd "$1" && shift && "$@"', "sh", str(folder), *apt, "download", *packages)
        for archive in folder.glob("*.deb"):
            run("dpkg", "-x", str(archive), str(folder / "files"))
            archive.unlink()
        shutil.rmtree(folder / "lists")

    return made(name, (suite, *packages), make) / "files"


def compose_plugins() -> Path:
    """Folder of Docker's own plug-ins ``docker-compose`` and ``docker-buildx``, each also a program without Docker.
    Debian 12 has none; those of Debian 13 need nothing but its C library."""
    return debian_tools("compose", "docker-compose", "docker-buildx", suite="trixie") / "usr/libexec/docker/cli-plugins"


def require_command(command: str, *, package: str) -> str:
    """The path of a program; installs its Debian package where we may (as root in CI)."""
    if shutil.which(command) is None:
        install(package)
    path = shutil.which(command)
    if path is None:
        pytest.skip(f"{command} is missing: sudo apt-get install -y {package}")
    return path


def require_system_commands(packages: Mapping[str, str]) -> None:
    """Programs of the system itself, not of somebody's home: command -> the Debian packages that have it, in words.
    What is missing is installed in one go."""

    def missing() -> list[str]:
        return [command for command in packages if shutil.which(command, path=SYSTEM) is None]

    if wanted := missing():
        install(*(name for command in wanted for name in packages[command].split()))
    if wanted := missing():
        names = " ".join(packages[command] for command in wanted)
        pytest.skip(f"{', '.join(wanted)} missing: sudo apt-get install -y {names}")


def install(*packages: str) -> None:
    """Debian packages, where we may; without waiting for the disk, from which nobody reads after a crash of CI."""
    if os.geteuid() != 0 or not shutil.which("apt-get") or not os.environ.get("CI"):
        return
    apt = ["apt-get", "-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Options::=--force-unsafe-io"]
    apt += ["install", "-y", "-qq", "--no-install-recommends", *packages]
    with alone("apt"):  # apt waits for its own packages, but not for another's `update`
        if subprocess.run(apt, capture_output=True, check=False).returncode:
            subprocess.run(["apt-get", "update", "-qq"], capture_output=True, check=False)
            if subprocess.run(apt, capture_output=True, check=False).returncode and len(packages) > 1:
                # One that cannot come, such as where another package has its files, takes no other with it.
                subprocess.run(["dpkg", "--configure", "-a"], capture_output=True, check=False)
                for package in packages:
                    subprocess.run([*apt[: -len(packages)], package], capture_output=True, check=False)


@contextlib.contextmanager
def alone(name: str) -> Iterator[None]:
    """One process at a time."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def made(name: str, content: Sequence[str], make: Callable[[Path], None]) -> Path:
    """The folder that ``make`` fills; ``content`` is what tells it from others of that name."""
    digest = hashlib.sha256("\n".join(content).encode()).hexdigest()[:12]
    folder = CACHE / f"{name}-{digest}"
    with alone(folder.name):
        if not (folder / ".complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            try:
                make(folder)
            except (subprocess.SubprocessError, OSError) as error:
                output = getattr(error, "output", None) or str(error)
                shutil.rmtree(folder, ignore_errors=True)
                pytest.skip(f"{name} cannot be installed here: {output.strip().splitlines()[-1]}")
            (folder / ".complete").touch()
    return folder


def run(*command: str) -> None:
    """A step of ``make``."""
    subprocess.run(
        command,
        check=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=_ENOUGH_SEC,
        env={"UV_HTTP_TIMEOUT": "180", **os.environ},
    )
