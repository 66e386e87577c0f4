"""Programs that a script of the first user starts, run by the second: for each name on the path a stand-in that hands
its arguments, folder, variables and standard streams to the second user's process (``second.py``) and ends as that
does.

Shells have none: the script itself, and what it writes by redirection, remain the first user's. A program whose output
is redirected into a file that is for the first user alone is not run: it would write there. It knows no scripts.
"""

from __future__ import annotations

import json
import os
import socket
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FOLDER = "/run/liverl-programs"
LISTENER = "/run/liverl-second"
MAX_ORDER = 1 << 17
SHELLS = ("sh", "bash", "dash", "ash", "zsh", "busybox", "env")
"""The first user's, as the script's first line names one of them. They can read nothing that an agent has written."""
_NOT_RUN = 126

_STAND_IN = """#!{python} -ISB
import sys
sys.path.insert(0, {folder!r})
from guest import shims
shims.hand_over({kept!r})
"""


def main() -> None:
    """Make the stand-ins for what is on the path now, and each file that the arguments name: empty, in a folder where
    everybody may make others, for the first user alone to write."""
    for path in sys.argv[1:]:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.chmod(os.path.dirname(path), 0o1777)
        with open(path, "w") as stream:
            os.fchmod(stream.fileno(), 0o644)
    os.mkdir(FOLDER, 0o755)
    own = f"{FOLDER}/.stand-in"
    with open(own, "w") as stream:
        here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        stream.write(_STAND_IN.format(python=sys.executable, folder=here, kept=sys.argv[1:]))
    os.chmod(own, 0o755)
    names: set[str] = set()
    for folder in os.environ["PATH"].split(":"):
        if os.path.isdir(folder):
            names |= {name for name in os.listdir(folder) if os.access(f"{folder}/{name}", os.X_OK)}
    for name in names.difference(SHELLS):
        os.symlink(".stand-in", f"{FOLDER}/{name}")


def hand_over(kept: Sequence[str]) -> None:
    """Be the stand-in under whose name this process was started. kept: files that the first user alone may write."""
    env = dict(os.environ)
    env["PATH"] = ":".join(part for part in env.get("PATH", "").split(":") if part != FOLDER)
    name = os.path.basename(sys.argv[0])
    if _holds(kept):
        os.write(2, f"{name}: not run: one of its standard streams is the reward file\n".encode(errors="replace"))
        os._exit(_NOT_RUN)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        try:
            connection.connect(LISTENER)
            packet = json.dumps({"argv": [name, *sys.argv[1:]], "cwd": os.getcwd(), "env": env}).encode()
            socket.send_fds(connection, [packet], [0, 1, 2])
            answer = connection.recv(16)
        except (OSError, ValueError) as error:
            os.write(2, f"{name}: {error}\n".encode(errors="replace"))
            os._exit(_NOT_RUN)
    status = int(answer or b"-9")
    os._exit(status if status >= 0 else 128 - status)


def _holds(files: Sequence[str]) -> bool:
    """Whether a standard stream is one of the files."""
    places = set()
    for path in files:
        try:
            status = os.stat(path)
        except OSError:
            continue
        places.add((status.st_dev, status.st_ino))
    for fd in (0, 1, 2):
        try:
            status = os.fstat(fd)
        except OSError:
            continue  # closed
        if (status.st_dev, status.st_ino) in places:
            return True
    return False


def run(order: Mapping[str, object]) -> None:
    """Become the program of an order; the streams are in place. Ends the process where that fails."""
    argv, env = order["argv"], order["env"]
    assert isinstance(argv, list) and isinstance(env, dict)
    os.umask(0o077)  # the first user reads and runs nothing that comes into being here
    try:
        os.chdir(str(order["cwd"]))
        os.execvpe(argv[0], argv, env)
    except OSError as error:
        os.write(2, f"{argv[0]}: {error.strerror}\n".encode(errors="replace"))
        os._exit(127 if isinstance(error, FileNotFoundError) else _NOT_RUN)


if __name__ == "__main__":
    main()
