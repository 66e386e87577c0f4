"""A second user of a box: one process that starts test runs' solution processes, forked before rights are dropped.

The supervisor has no capability and could not become another user; this process became one while it still could. It
takes orders from the supervisor alone: one packet each, JSON with a socket attached that the new process serves. In a
box without a supervisor of ours the program of a test run is both (``run_alone``). Where no second user is to be had, a
second box is in its place (``serve_partner``, ``run_beside``); two that are not started with a socket between them, but
share a network, meet there (``await_partner``, ``be_partner``).
"""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import select
import signal
import socket
import time

from . import kernel, mounts, seccomp, shims

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

USER = 1000
MAX_ORDER = 1 << 16
MEET_SEC = 60.0


def start(size: str | None = None) -> socket.socket:
    """Fork the process; the end of its socket that is the supervisor's. size: how large the changes may be that it
    makes to the work directory, in a view of its own; None: it has none, and cannot write there."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener = _listener()
    pid = os.fork()
    if pid:
        theirs.close()
        if listener is not None:
            listener.close()
        return ours
    code = 1
    try:
        control, programs = _kept(theirs), None if listener is None else _kept(listener)
        os.dup2(control, 3)
        if programs is not None:
            os.dup2(programs, 4)
        os.closerange(4 if programs is None else 5, 1 << 20)  # the host's socket above all
        null = os.open(os.devnull, os.O_RDWR)
        for target in (0, 1, 2):  # where the host is spoken to by standard input and output
            os.dup2(null, target)
        os.close(null)
        _serve(socket.socket(fileno=3), None if programs is None else socket.socket(fileno=4), size)
        code = 0
    finally:
        os._exit(code)


def why_impossible() -> str | None:
    """Why this process cannot start one; None if it can."""
    if os.getuid() != 0:
        return f"no second user: the box's own is {os.getuid()}, not root"
    with open("/proc/self/status") as stream:
        effective = next(int(line.split()[1], 16) for line in stream if line.startswith("CapEff:"))
    lacking = [name for name, bit in (("SETGID", 6), ("SETUID", 7)) if not effective >> bit & 1]
    if lacking:
        return f"no second user: the box lacks {' and '.join(lacking)}"
    with open("/proc/self/uid_map") as stream:
        ranges = [[int(word) for word in line.split()] for line in stream]
    if not any(first <= USER < first + count for first, _, count in ranges):
        return f"no second user: the box has no user {USER}"
    return None


def run_alone(runner: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """A test run whose code under test is another user, by a process that gives up all its rights for it."""
    why = why_impossible()
    if why is not None:
        return {"runner_error": why, "tests": {}}
    close_folders(arguments["root"])
    control = start()
    kernel.drop_capabilities()
    kernel.set_dumpable(False)
    return run_apart(control, runner, arguments)


def close_folders(root: str) -> None:
    """Volumes of a cluster are everybody's to write: not those in which the tests lie and the report comes about."""
    inside, above = [folder for folder, _, _ in os.walk(root)], root
    while above != "/":
        above = os.path.dirname(above)
        inside.append(above)
    for folder in inside:
        mode = os.stat(folder).st_mode & 0o7777
        if mode & 0o022 and not mode & 0o1000:
            os.chmod(folder, mode & ~0o022)
    os.chmod("/tmp", 0o1777)


def run_apart(control: socket.socket, runner: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """A test run (``testkit``) with its code under test in a new solution process. Raises ``OSError``."""
    folders = runner.import_folders(arguments["root"], arguments["ids"], arguments["python_path"])
    with order(control, root=arguments["root"], folders=folders) as connection:
        report: dict[str, Any] = runner.run(**arguments, solution=connection.fileno())
    return report


def run_beside(partner: socket.socket, runner: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """A test run whose code under test is in the box at the other end of ``partner``. Raises ``OSError``."""
    folders = runner.import_folders(arguments["root"], arguments["ids"], arguments["python_path"])
    importlib.import_module("testkit.plain").send(partner, ["start", arguments["root"], folders])
    report: dict[str, Any] = runner.run(**arguments, solution=partner.fileno())
    return report


def serve_partner(partner: socket.socket) -> None:
    """Run the code under test here, in a new process, for the box at the other end."""

    def work() -> None:
        signal.set_wakeup_fd(-1)
        order = importlib.import_module("testkit.plain").receive(partner)
        _become_solution(partner.fileno(), {"root": order[1], "folders": order[2]})

    _fork(work)


def await_partner(name: str) -> socket.socket | None:
    """The other box, which looks for this one under ``name``; None where it does not come. Its code under test runs
    only once it is told to, so nobody who could call in its place is there yet."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(_meeting_place(name))
        listener.listen(1)
        listener.settimeout(MEET_SEC)
        try:
            partner, _ = listener.accept()
        except TimeoutError:
            return None
    partner.setblocking(True)
    return partner


def be_partner(name: str) -> None:
    """Run the code under test in this process for the box that waits under ``name``. Raises ``OSError``."""
    until = time.monotonic() + MEET_SEC
    partner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    while True:
        try:
            partner.connect(_meeting_place(name))
            break
        except ConnectionRefusedError:  # nobody waits there yet
            if time.monotonic() > until:
                raise
            time.sleep(0.01)
    order = importlib.import_module("testkit.plain").receive(partner)
    if order is not None:
        _become_solution(partner.fileno(), {"root": order[1], "folders": order[2]})


def _meeting_place(name: str) -> str:
    """An address without a file, which all of one network see and nobody else."""
    return f"\0liverl-{name}"


def become() -> None:
    """Give up the first user for good, and every capability with it."""
    kernel.drop_bounding_set()
    os.setgroups([])
    os.setresgid(USER, USER, USER)
    os.setresuid(USER, USER, USER)
    kernel.drop_capabilities()
    if seccomp.supported():
        seccomp.install()
    kernel.set_dumpable(False)


def _kept(connection: socket.socket) -> int:
    """A descriptor of it that is in nobody's way."""
    return fcntl.fcntl(connection, fcntl.F_DUPFD, 64)


def _listener() -> socket.socket | None:
    """Where the first user's programs ask for the second's (``shims.py``): nobody else can connect."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = os.umask(0o177)
    try:
        listener.bind(shims.LISTENER)
        listener.listen(64)
    except OSError:  # no such folder, or one that another test run has used
        listener.close()
        return None
    finally:
        os.umask(before)
    return listener


def _serve(control: socket.socket, programs: socket.socket | None, size: str | None) -> None:
    """Still with the rights of the box's making where a view of the work directory is to be made: nothing untrusted
    runs in a box before the first order, and before that order the files of the work are not there."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    kernel.set_dumpable(False)
    rights = size is not None
    if not rights:
        become()
    poll = select.poll()
    for one in (control, programs):
        if one is not None:
            poll.register(one, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd != control.fileno():
                assert programs is not None
                if rights:
                    become()
                    rights = False
                connection, _ = programs.accept()
                with connection:
                    _fork(lambda connection=connection: _program(connection))  # type: ignore[misc]
                continue
            packet, descriptors, _, _ = socket.recv_fds(control, MAX_ORDER, 1)
            if not packet:
                return
            if rights:
                assert size is not None
                mounts.mount_private_view(json.loads(packet)["root"], size)
                become()
                rights = False
            _fork(lambda packet=packet, fd=descriptors[0]: _become_solution(fd, json.loads(packet)))  # type: ignore[misc]
            for descriptor in descriptors:
                os.close(descriptor)


def _fork(work: Callable[[], None]) -> None:
    try:
        pid = os.fork()
    except OSError:
        return  # who asked finds its connection closed
    if pid == 0:
        try:
            os.setsid()
            work()
        finally:
            os._exit(1)


def _program(connection: socket.socket) -> None:
    """Run one program for whoever asked, say how it ended, and end it where nobody waits any more."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    packet, descriptors, _, _ = socket.recv_fds(connection, shims.MAX_ORDER, 3)
    order = json.loads(packet)
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for fd in descriptors]
            for target, fd in enumerate(high):
                os.dup2(fd, target)
            os.closerange(3, 1 << 20)
            shims.run(order)
        finally:
            os._exit(1)
    for fd in descriptors:
        os.close(fd)
    ended, poll = os.pidfd_open(pid), select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(connection, select.POLLIN)
    if not any(fd == ended for fd, _ in poll.poll()):
        os.killpg(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    connection.send(str(os.waitstatus_to_exitcode(status)).encode())


def _become_solution(fd: int, order: dict[str, Any]) -> None:
    os.dup2(fd, 3)
    os.closerange(4, 1 << 20)
    null = os.open(os.devnull, os.O_RDWR)
    for target in (0, 1, 2):
        os.dup2(null, target)
    os.close(null)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    solution = importlib.import_module("testkit.solution")
    solution.start(socket.socket(fileno=3), order["root"], order["folders"])


def order(control: socket.socket, *, root: str, folders: list[str]) -> socket.socket:
    """A new solution process; the returned socket speaks to it (``testkit/plain.py``). Raises ``OSError``."""
    ours, theirs = socket.socketpair()
    with theirs:
        socket.send_fds(control, [json.dumps({"root": root, "folders": folders}).encode()], [theirs.fileno()])
    return ours
