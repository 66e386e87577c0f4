"""A second user for whom this machine has delegated ids to an ordinary one."""

import os
import pwd
import shutil
from pathlib import Path

import pytest

from runtime.sandboxes import userns
from runtime.sandboxes.guest.second import USER

pytestmark = pytest.mark.sandbox


def somebody() -> tuple[int, int]:
    """User and group of somebody with ids to map."""
    if os.getuid() != 0 or shutil.which("newuidmap") is None or shutil.which("newgidmap") is None:
        pytest.skip("needs root, to be an ordinary user, and Debian's uidmap")
    ranges = [{row.partition(":")[0] for row in Path(f"/etc/sub{kind}").read_text().split()} for kind in ("uid", "gid")]
    found = [row for row in pwd.getpwall() if row.pw_uid and row.pw_name in set.intersection(*ranges)]
    if not found:
        pytest.skip("nobody here has ids to map (useradd gives them)")
    return found[0].pw_uid, found[0].pw_gid


def test_an_ordinary_user_maps_what_is_delegated_to_him() -> None:
    uid, gid = somebody()
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
