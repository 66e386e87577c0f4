"""A second user for whom this machine has delegated ids to an ordinary one."""

import os
import pwd
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.sandboxes import userns
from runtime.sandboxes.guest.second import USER
from tests.toolbox import require_command

pytestmark = pytest.mark.sandbox


NAME = "liverl-test-ids"


def _with_ids() -> list[pwd.struct_passwd]:
    files = [Path("/etc/subuid"), Path("/etc/subgid")]
    ranges = [{row.partition(":")[0] for row in file.read_text().split()} for file in files if file.is_file()]
    return [row for row in pwd.getpwall() if row.pw_uid and all(row.pw_name in one for one in ranges)] if ranges else []


@pytest.fixture
def somebody() -> Iterator[tuple[int, int]]:
    """User and group of somebody with ids to map: one that is here, or in CI one that is made for the test."""
    if os.getuid() != 0:
        pytest.skip("needs root, to be an ordinary user")
    require_command("newuidmap", package="uidmap")
    made = False
    if not _with_ids() and os.environ.get("CI"):
        subprocess.run(["useradd", "--no-create-home", NAME], check=True, capture_output=True)
        made = True
    if not (found := _with_ids()):
        pytest.skip("nobody here has ids to map (useradd gives them)")
    try:
        yield found[0].pw_uid, found[0].pw_gid
    finally:
        if made:
            subprocess.run(["userdel", NAME], check=True, capture_output=True)


def test_an_ordinary_user_maps_what_is_delegated_to_him(somebody: tuple[int, int]) -> None:
    uid, gid = somebody
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        said = "nothing"
        try:
            os.setgroups([])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            spare, fd = userns.spare_user(), userns.two_users()
            said = f"{spare} {fd is not None}"
        finally:
            os.write(writer, said.encode())
            os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    spare, made = os.read(reader, 100).decode().split()
    os.close(reader)
    assert made == "True" and int(spare) not in (0, uid, USER)
