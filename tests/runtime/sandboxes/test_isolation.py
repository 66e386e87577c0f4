"""What an agent inside bubblewrap can see and do: little."""

import asyncio
import errno
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.errors import Termination, TrialError
from runtime.sandboxes.base import SandboxRequest
from runtime.sandboxes.bubblewrap import BubblewrapProvider
from runtime.sandboxes.guest import seccomp
from runtime.sandboxes.userns import spare_user

from .conftest import Run, needs_bubblewrap

pytestmark = [pytest.mark.sandbox, needs_bubblewrap]


@pytest.fixture(params=["zygote", "solo"])
def box(request: pytest.FixtureRequest, tmp_path: Path, run: Run, repository: Path):  # type: ignore[no-untyped-def]
    provider = BubblewrapProvider(state=tmp_path / "state", nested=request.param == "zygote")
    sandbox = run(provider.start(SandboxRequest(name="box", lower=repository)))

    def shell(script: str) -> str:
        result = run(sandbox.exec(["sh", "-c", script], timeout_sec=30))
        return (result.stdout + result.stderr).decode()

    yield shell
    run(provider.close())


def python(script: str) -> str:
    return f"python3 -I -S - <<'EOF'\n{script}\nEOF"


def test_no_capability_and_no_way_to_one(box) -> None:  # type: ignore[no-untyped-def]
    status = box("grep -h -E '^(Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs)' /proc/self/status")
    assert status.split()[1:-2:2] == ["0000000000000000"] * 5 and status.split()[-1] == "1"
    for attempt in (
        "mknod /tmp/disk b 254 0",
        "mount -t tmpfs none /tmp",
        "umount /proc/sys",
        "unshare -Ur true",
        "chroot / true",
        "hostname other",
        "cat /proc/sys/kernel/panic > /proc/sys/kernel/panic",
        "touch /usr/x",
        "touch /opt/liverl/guest/x",
        "touch /etc/x",
        "dmesg",
    ):
        assert "ok" not in box(f"{attempt} && echo ok"), attempt


REFUSED = """
import ctypes, errno, socket, threading
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    ctypes.set_errno(0)
    return errno.errorcode.get(ctypes.get_errno(), "ok") if libc.syscall(*arguments) < 0 else "ok"
print(call(*(321 if MACHINE == "x86_64" else 280, 0, 0, 0)), call(425, 1, 0), call(428, 0, 0, 0))
print(call(*(56 if MACHINE == "x86_64" else 220, 0x10000000 | 17, 0, 0, 0, 0)), call(435, 0, 0))
for family in (17, 40, 38):  # packet, vsock, alg
    try: socket.socket(family, socket.SOCK_RAW if family == 17 else socket.SOCK_STREAM); print("open")
    except OSError as error: print(errno.errorcode[error.errno])
import fcntl, os
master, slave = os.openpty()
try: fcntl.ioctl(slave, 0x5412, b"x"); print("pushed")
except OSError as error: print(errno.errorcode[error.errno])
threading.Thread(target=print, args=["threads", "work"]).start()
"""


def test_system_calls_are_filtered(box) -> None:  # type: ignore[no-untyped-def]
    assert "Seccomp:\t2" in box("cat /proc/self/status")
    script = REFUSED.replace("MACHINE", repr(os.uname().machine))
    assert box(python(script)).split() == [
        *("EPERM", "ENOSYS", "ENOSYS"),  # bpf, io_uring_setup, open_tree
        *("EPERM", "ENOSYS"),  # clone with a user namespace, clone3
        *("EAFNOSUPPORT", "EAFNOSUPPORT", "EAFNOSUPPORT"),
        "EPERM",
        *("threads", "work"),
    ]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_fits_the_kernels_form(machine: str) -> None:
    """Every jump lands inside the program, which ends with a verdict."""
    code = list(struct.iter_unpack("HBBI", seccomp.build(machine)))
    for place, (kind, if_true, if_false, _) in enumerate(code):
        if kind & 7 == 5:
            assert place + 1 + max(if_true, if_false) < len(code)
    assert code[-1][0] == 0x06 and len(code) < 4096


def decision(program: bytes, machine: str, number: int) -> int:
    """What the filter returns for a call with arguments of 0, by the kernel's rules."""
    architecture = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[machine]
    code = list(struct.iter_unpack("HBBI", program))
    place, value = 0, 0
    while True:
        kind, if_true, if_false, constant = code[place]
        place += 1
        if kind == 0x20:
            value = {0: number, 4: architecture}.get(constant, 0)
        elif kind == 0x06:
            return int(constant)
        else:
            holds = {
                0x15: value == constant,
                0x25: value > constant,
                0x35: value >= constant,
                0x45: bool(value & constant),
            }
            place += if_true if holds[kind] else if_false


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_a_call_that_is_not_known_is_refused(machine: str) -> None:
    program = seccomp.build(machine)
    allowed = [number for number in range(600) if decision(program, machine, number) == 0x7FFF0000]
    assert 434 in allowed and {425, 428, 438, 447, 457, 463, 467, 599} & set(allowed) == set()
    assert max(allowed) == 462 and len([number for number in allowed if number > 334]) == 18
    assert decision(program, machine, 425) == 0x50000 | errno.ENOSYS


def test_nothing_of_the_host_is_visible(box, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert box("ls -A /root /.host /.lower /.scratch 2>/dev/null").split() in (
        ["/.host:", "/.lower:", "/.scratch:", "/root:"],
        ["/.lower:", "calc.py", "tests", "/root:"],  # its own pristine repository, read-only
    )
    assert box(f"test -e {tmp_path} || test -e /home || test -e /etc/shadow || echo -n no") == "no"
    assert str(Path(__file__).parents[3]) not in box("cat /proc/*/environ | tr '\\0' '\\n'")
    assert box("grep -c . /proc/net/dev").strip() == "3"  # two lines of heading, and lo
    processes = box("for p in /proc/[0-9]*; do basename $p; done").split()
    assert "1" in processes and len(processes) < 5 and str(os.getpid()) not in processes


def test_no_network(box) -> None:  # type: ignore[no-untyped-def]
    script = """
import errno, socket
for family, address in ((socket.AF_INET, ("1.1.1.1", 80)), (socket.AF_INET, ("169.254.169.254", 80)),
                        (socket.AF_INET, ("127.0.0.1", 22)), (socket.AF_UNIX, "/run/docker.sock")):
    s = socket.socket(family); s.settimeout(2)
    try: s.connect(address); print("connected", address)
    except OSError as e: print(errno.errorcode.get(e.errno, e))
"""
    assert box(python(script)).split() == ["ENETUNREACH", "ENETUNREACH", "ECONNREFUSED", "ENOENT"]


def test_the_supervisor_cannot_be_touched(box) -> None:  # type: ignore[no-untyped-def]
    script = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
print("ptrace", libc.ptrace(16, 1, 0, 0))
for name in ("mem", "fd/3", "environ"):
    try: open(f"/proc/1/{name}", "rb").read(1); print("read", name)
    except OSError: print("refused")
os.kill(1, 9)
print("alive")
"""
    assert box(python(script)).split() == ["ptrace", "-1", "refused", "refused", "refused", "alive"]
    assert box("echo still here") == "still here\n"


def test_boxes_do_not_see_each_other(run: Run, isolated: BubblewrapProvider, repository: Path) -> None:
    async def main() -> None:
        first, second = await asyncio.gather(
            *(isolated.start(SandboxRequest(name=name, lower=repository)) for name in "ab")
        )
        write = "for d in /app /tmp /root /logs /run /dev/shm /var/tmp; do echo secret > $d/mark; done; sleep 100 &"
        assert (await first.exec(["sh", "-c", write], timeout_sec=5)).exit_code == 0
        marks = " ".join(f"{folder}/mark" for folder in ("/app", "/tmp", "/root", "/logs", "/run", "/dev/shm"))
        look = f"cat {marks} 2>/dev/null; ls /proc | grep -c '^[0-9]'"
        assert int((await second.exec(["sh", "-c", look], timeout_sec=5)).stdout) < 6
        await first.stop()
        third = await isolated.start(SandboxRequest(name="c", lower=repository))
        assert int((await third.exec(["sh", "-c", look], timeout_sec=5)).stdout) < 6

    run(main())


def test_a_full_disk_inside_is_the_boxes_own(run: Run, isolated: BubblewrapProvider, repository: Path) -> None:
    async def main() -> None:
        sandbox = await isolated.start(SandboxRequest(name="x", lower=repository, memory_mib=64))
        fill = "head -c 100000000 /dev/zero > /app/zeros"
        result = await sandbox.exec(["sh", "-c", fill], timeout_sec=20)
        assert b"No space left" in result.stderr
        assert (await sandbox.exec(["sh", "-c", "rm zeros; echo fine"], timeout_sec=5)).stdout == b"fine\n"

    run(main())


def test_memory_and_processes_are_limited(run: Run, isolated: BubblewrapProvider, repository: Path) -> None:
    async def main() -> None:
        sandbox = await isolated.start(SandboxRequest(name="x", lower=repository, memory_mib=128, pids=20))
        hog = await sandbox.exec(["python3", "-c", "x = bytearray(400 << 20)"], timeout_sec=20)
        assert hog.exit_code != 0
        bomb = "i=0; while [ $i -lt 60 ]; do sleep 5 & i=$((i+1)); done; echo all"
        result = await sandbox.exec(["sh", "-c", bomb], timeout_sec=20)
        limited = b"all" not in result.stdout
        # Without control groups the host's root is not counted, and that is not claimed either.
        assert limited is ("process_limit" in isolated.capabilities.defences)

    run(main())


HOG = """
import os, time
def hog():
    try:
        x = bytearray(400 << 20)
    except MemoryError:
        return "refused"
    return "taken"
def bomb():
    made = 0
    try:
        for _ in range(60):
            if os.fork() == 0:
                time.sleep(20)
                os._exit(0)
            made += 1
    except OSError:
        pass
    return made
"""
HOG_TESTS = b"""
from calc import hog, bomb
def test_hog(): assert hog() == "taken"
def test_bomb(): assert bomb() == 60
"""


@pytest.mark.skipif(spare_user() is None, reason="a second user can be mapped by root alone")
@pytest.mark.parametrize("name", ["hog", "bomb"])
def test_the_second_user_is_limited_too(run: Run, isolated: BubblewrapProvider, repository: Path, name: str) -> None:
    async def main() -> str:
        request = SandboxRequest(name="x", lower=repository, memory_mib=128, pids=20, second_user=True)
        sandbox = await isolated.start(request)
        await sandbox.upload({"/app/calc.py": HOG.encode()})
        await sandbox.upload({"/app/tests/test_calc.py": HOG_TESTS}, mode=0o600)
        test = f"tests/test_calc.py::test_{name}"
        report = await sandbox.run_tests(
            "mini", timeout_sec=20, ids=[test], python_path=[], trusted=["tests/test_calc.py"], modules=["calc"]
        )
        return str(report["tests"][test]["outcome"])

    outcome = run(main())
    assert isolated.capabilities.second_user
    assert outcome == "failed", "it took more than its box has"


def test_a_killed_zygote_loses_its_boxes_and_is_replaced(
    run: Run, isolated: BubblewrapProvider, repository: Path
) -> None:
    async def main() -> None:
        request = SandboxRequest(name="x", lower=repository)
        sandbox = await isolated.start(request)
        for zygote in isolated._zygotes.values():
            zygote._process.kill()
        with pytest.raises(TrialError) as caught:
            await sandbox.exec(["sleep", "10"], timeout_sec=20)
        assert caught.value.termination is Termination.SANDBOX_LOST
        again = await isolated.start(request)
        assert (await again.exec(["true"], timeout_sec=5)).exit_code == 0

    run(main())


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_files_of_another_user_can_be_edited(run: Run, isolated: BubblewrapProvider, repository: Path) -> None:
    os.chown(repository / "calc.py", 1234, 1234)

    async def main() -> None:
        sandbox = await isolated.start(SandboxRequest(name="x", lower=repository))
        result = await sandbox.exec(["sh", "-c", "echo new > calc.py && cat calc.py"], timeout_sec=5)
        assert result.stdout == b"new\n", result.stderr

    run(main())
    assert "def add" in (repository / "calc.py").read_text()


@pytest.mark.skipif(os.getuid() != 0, reason="runs the tests of an ordinary user as root")
def test_an_ordinary_user_gets_the_same(tmp_path: Path) -> None:
    """In a child with uid 1000: start, run, grade-like test run, stop."""
    import shutil

    open_root = Path("/tmp") / f"liverl-uid-{os.getpid()}"
    try:
        shutil.copytree(Path(__file__).parents[3] / "runtime", open_root / "runtime")
        (open_root / "repo").mkdir()
        (open_root / "repo" / "test_a.py").write_text("def test_a(): pass\n")
        (open_root / "state").mkdir(mode=0o777)
        (open_root / "state").chmod(0o777)
        script = """
import asyncio, sys
from pathlib import Path
from runtime.sandboxes.bubblewrap import BubblewrapProvider
from runtime.sandboxes.base import SandboxRequest
root = Path(sys.argv[1])
async def main():
    provider = BubblewrapProvider(state=root / "state")
    box = await provider.start(SandboxRequest(name="x", lower=root / "repo"))
    print((await box.exec(["sh", "-c", "id -u; echo x > new; ls"], timeout_sec=10)).stdout)
    print((await box.run_tests("mini", timeout_sec=5))["complete"], provider.capabilities.how)
    await provider.close()
asyncio.run(main())
"""
        python = Path(sys.base_prefix) / "bin" / "python3"
        interpreter = (
            str(python) if os.access("/root", os.X_OK) and not str(python).startswith("/root") else "/usr/bin/python3"
        )
        done = subprocess.run(
            ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", interpreter, "-c", script, str(open_root)],
            cwd=open_root,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.split("\n")[:2] == [r"b'0\nnew\ntest_a.py\n'", "True bubblewrap+zygote"]
        assert list((open_root / "state").iterdir()) == []
    finally:
        shutil.rmtree(open_root)
