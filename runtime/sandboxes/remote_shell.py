"""What a box that only runs commands is told to run: shell scripts for commands, transfers and the end of both.

The box needs ``sh``, ``tar``, ``head``, ``tail`` and ``mktemp`` (GNU's or busybox's) and, for LiveRL's own test
runners, ``python3``. Links that untrusted code planted are followed inside the box at most, never on the host: what
comes back is an archive, read as data. It does not know how commands reach the box.
"""

from __future__ import annotations

import io
import shlex
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from runtime.sandboxes.base import ArtifactsRefused
from runtime.sandboxes.entries import Entry, Folder, Link, Program, size
from runtime.sandboxes.guest.files import MAX_FILES

MARK = "LIVERL_COMMAND"
"""Variable that marks every process of one command, so that a timeout finds all of them."""

# The output goes through files: a daemon that the command left behind would hold a pipe open for ever. Script and input
# come as one stream of known length, because not every version of the protocols can say that standard input has ended.
_BOOT = """umask 022; d=$(mktemp -d /tmp/.liverl.XXXXXX) || exit 125
head -c "$3" >"$d/all" && [ "$(wc -c <"$d/all")" -eq "$3" ] || { rm -rf "$d"; echo "input cut" >&2; exit 125; }
head -c "$1" "$d/all" >"$d/run"; tail -c +"$(($1 + 1))" "$d/all" >"$d/in"; rm "$d/all"
sh "$d/run" <"$d/in" >"$d/out" 2>"$d/err"; c=$?
head -c "$2" "$d/out"; head -c "$2" "$d/err" >&2; rm -rf "$d"; exit $c"""

# What emptied its environment has no mark, but once its parents are killed it is an orphan (parent 1); in a box whose
# processes are all ours ($2) such ones go too. Spared are the first process and the shells of _BOOT and of this script,
# which are called "liverl". Until a round finds nothing.
_KILL = """n=20; while [ $n -gt 0 ]; do n=$((n - 1)); k=; for p in /proc/[0-9]*; do i=${p#/proc/}
[ "$i" = 1 ] || [ "$i" = $$ ] && continue
m=$(tr '\\0' '\\n' <"$p/environ" | grep '^LIVERL_COMMAND=')
if [ "$m" != "$1" ]; then
[ -n "$2" ] && [ -z "$m" ] && grep -q '^PPid:[[:space:]]*1$' "$p/status" || continue
grep -q '^State:[[:space:]]*Z' "$p/status" && continue
tr '\\0' '\\n' <"$p/cmdline" | grep -qx liverl && continue
fi; kill -9 "$i" && k=1; done 2>/dev/null; [ "$k" ] || break; done; :"""

TESTS = """import json, os, sys
sys.path.insert(0, {folder!r})
import importlib
order = json.loads(sys.stdin.buffer.read())
sys.path[1:1] = order["python_path"]
runner = importlib.import_module("testkit.pytest_runner" if order["runner"] == "pytest" else "testkit.mini")
second = importlib.import_module("guest.second")
if "trusted" not in order["arguments"]:
    report = runner.run(**order["arguments"])
elif order["partner"] is None:
    report = second.run_alone(runner, order["arguments"])
elif (partner := second.await_partner(order["partner"])) is not None:
    report = second.run_beside(partner, runner, order["arguments"])
else:
    report = {{"runner_error": "the box of the code under test did not call", "tests": {{}}}}
sys.stdout.write("\\n" + order["seal"] + json.dumps(report) + "\\n")
"""
PARTNER = """import json, sys
sys.path.insert(0, {folder!r})
import importlib
order = json.loads(sys.stdin.buffer.read())
sys.path[1:1] = order["python_path"]
importlib.import_module("guest.second").be_partner(order["partner"])
"""


def boot(script: str, stdin: bytes, *, max_output: int) -> tuple[list[str], bytes]:
    """(command, standard input) that run ``script`` with ``stdin`` and print at most ``max_output`` per stream."""
    program = script.encode()
    sizes = [str(len(program)), str(max_output), str(len(program) + len(stdin))]
    return ["sh", "-c", _BOOT, "liverl", *sizes], program + stdin


def command(argv: Sequence[str], *, cwd: str, env: Mapping[str, str], mark: str) -> str:
    """A script that becomes ``argv``. Exit code 126: no such working directory."""
    exports = "".join(f"export {key}={shlex.quote(value)}\n" for key, value in {**env, MARK: mark}.items())
    return f"cd {shlex.quote(cwd)} || exit 126\n{exports}exec {shlex.join(argv)}\n"


def kill(mark: str, *, alone: bool) -> tuple[list[str], bytes]:
    """(command, standard input) that kill every process of one command, its daemons included. alone: no process of the
    box is anybody else's, so that those go too which hide whose they are."""
    return ["sh", "-c", _KILL, "liverl", f"{MARK}={mark}", "alone" if alone else ""], b""


def pack(files: Mapping[str, tuple[bytes, int]]) -> bytes:
    """An archive of absolute path -> (content, mode)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path, (content, mode) in files.items():
            member = tarfile.TarInfo(path.lstrip("/"))
            member.size, member.mode = len(content), mode
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def pack_trees(trees: Sequence[tuple[Path, str]]) -> bytes:
    """An archive of trusted host files or folders, each to appear at its target, later ones on top; owners and compiled
    files are left out."""

    def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if "__pycache__" in member.name.split("/"):
            return None
        member.uid = member.gid = 0
        member.mode |= 0o200  # a root without capabilities needs leave to write
        member.uname = member.gname = ""
        return member

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for source, target in trees:
            if source.is_dir():
                for path in sorted(source.iterdir()):
                    archive.add(path, arcname=f"{target.strip('/')}/{path.name}", filter=anonymous)
            else:
                archive.add(source, arcname=target.strip("/"), filter=anonymous)
    return buffer.getvalue()


def folders_script(folders: Iterable[str], *, mounts: Iterable[str]) -> str:
    """Makes ``folders`` and prints those of ``mounts`` that are mount points: whoever made the box put them there, and
    no image can."""
    names = "\\|".join(mounts)
    points = f"cut -d' ' -f5 /proc/self/mountinfo | grep -x '{names}'"
    # Another mount above may hide one.
    return f"mkdir -p {' '.join(folders)} || exit\nfor p in $({points}); do [ ! -d $p ] || echo $p; done; :\n"


def unpack_script(root: str = "/") -> str:
    return f"exec tar -xmpof - -C {root}\n"


def folder_script(folder: str) -> str:
    return f"mkdir -p {folder}\n"


def part_script(name: str, size: int) -> str:
    """Receive one part of a large upload, whole or not at all; may be repeated."""
    return f'cat >{name} && [ "$(wc -c <{name})" -eq {size} ]\n'


def join_script(folder: str, count: int, root: str = "/", *, packed: bool = False) -> str:
    """Unpack the parts of a large upload and remove them; may be repeated. packed: they are compressed."""
    names = " ".join(f"{folder}/{number}" for number in range(count))
    # What is packed keeps its times: compiled files of Python hold only for a source of theirs.
    unpack = "gzip -dc | tar -xpof" if packed else "tar -xmpof"
    return f"[ -d {folder} ] || exit 0\ncat {names} | {unpack} - -C {root} && rm -rf {folder}\n"


def rest_script(file: str, start: int, size: int) -> str:
    """Print a part of a large download."""
    return f"tail -c +{start + 1} {file} | head -c {size}\n"


def remove_script(file: str) -> str:
    return f"rm -f {file}\n"


def pack_script(paths: Sequence[str], *, file: str, max_bytes: int, first: int) -> str:
    """Archive what exists of ``paths`` as ``file``; print its first bytes, and its size as the last error line."""
    tests = "".join(f'[ -e {(q := shlex.quote(path))} ] && set -- "$@" ./{q}\n' for path in paths)
    limit = archive_limit(max_bytes)
    return (
        f"set --\n{tests}"
        f'[ $# -eq 0 ] || tar -cf - -C / "$@" 2>/dev/null | head -c {limit + 1} >{file}\n'
        f'[ $# -ne 0 ] || : >{file}\nhead -c {first} {file}; wc -c <{file} >&2\n[ "$(wc -c <{file})" -gt {first} ] || '
        f"rm -f {file}\n"
    )


def archive_limit(max_bytes: int) -> int:
    """Bytes of an archive that can still hold no more than ``max_bytes`` in ``MAX_FILES`` files."""
    return max_bytes + MAX_FILES * 1536 + (1 << 16)


def unpack(data: bytes, *, max_bytes: int, what: str) -> dict[str, Entry]:
    """Files, links and folders of an archive that untrusted code may have forged. Raises ``ArtifactsRefused`` where it
    holds too much or is no archive.
    """
    found: dict[str, Entry] = {}
    left = max_bytes
    if not data:
        return found
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for member in archive:
                name = "/" + "/".join(part for part in member.name.split("/") if part not in ("", "."))
                if ".." in name.split("/"):
                    continue
                entry = _entry(archive, member, found, left, f"{what}: more than {max_bytes} bytes")
                if entry is None:
                    continue
                left -= size(entry)
                found[name] = entry
                if left < 0 or len(found) > MAX_FILES:
                    raise ArtifactsRefused(f"{what}: more than {max_bytes} bytes or {MAX_FILES} entries")
    except (tarfile.TarError, OSError, ValueError, OverflowError, EOFError) as error:
        raise ArtifactsRefused(f"{what}: the archive cannot be read: {error}") from error
    return found


def _entry(
    archive: tarfile.TarFile, member: tarfile.TarInfo, found: Mapping[str, Entry], left: int, too_much: str
) -> Entry | None:
    if member.issym():
        return Link(member.linkname)
    if member.isdir():
        return Folder()
    if member.islnk():  # a second name of a file that came before
        return found.get("/" + member.linkname.lstrip("./"))
    if not member.isreg():
        return None
    if not 0 <= member.size <= left:  # before reading: a sparse member may claim any size
        raise ArtifactsRefused(too_much)
    stream = archive.extractfile(member)
    content = stream.read() if stream is not None else b""
    return Program(content) if member.mode & 0o100 else content
