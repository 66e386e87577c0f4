"""A filter of system calls for everything that runs in a box: what no build or test needs and kernels were broken by.

A call that is not known here is refused, whatever it does: kernels get new ones every year. Refused calls fail with an
error, as they would without rights or on an older kernel; nothing is killed for a try. Numbers: Linux 6.12,
``arch/x86/entry/syscalls/syscall_64.tbl`` and ``include/uapi/asm-generic/unistd.h``. The choice follows Docker's
default profile (moby, ``profiles/seccomp/default.json``) without its exceptions for capabilities, which a box does not
have.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

_PR_SET_SECCOMP = 22
_MODE_FILTER = 2
_KILL, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_LOAD, _JUMP_EQUAL, _JUMP_SET, _JUMP_GREATER, _JUMP_GREATER_EQUAL, _RETURN = 0x20, 0x15, 0x45, 0x25, 0x35, 0x06
_NUMBER, _ARCHITECTURE, _FIRST, _SECOND = 0, 4, 16, 24  # offsets in struct seccomp_data; arguments: their low halves
_X32 = 0x40000000
_NEW_NAMESPACES = 0x7E020080  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET, NEWTIME
_FAMILIES = (1, 2, 10, 16)  # unix, inet, inet6, netlink (names of interfaces)
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C

# Architecture as the kernel audits it; numbers of the calls that are looked into; of those that are refused.
_TABLES: dict[str, tuple[int, dict[str, int], tuple[int, ...]]] = {
    "x86_64": (
        0xC000003E,
        {"clone": 56, "clone3": 435, "socket": 41, "socketpair": 53, "ioctl": 16},
        # ptrace syslog uselib vhangup modify_ldt pivot_root adjtimex chroot acct settimeofday mount umount2 swapon
        # swapoff reboot sethostname setdomainname iopl ioperm init_module delete_module quotactl nfsservctl
        # lookup_dcookie clock_settime kexec_load add_key request_key keyctl unshare move_pages perf_event_open
        # fanotify_init open_by_handle_at clock_adjtime setns process_vm_readv process_vm_writev kcmp finit_module
        # kexec_file_load bpf userfaultfd
        (
            *(
                101,
                103,
                134,
                153,
                154,
                155,
                159,
                161,
                163,
                164,
                165,
                166,
                167,
                168,
                169,
                170,
                171,
                172,
                173,
                175,
                176,
                179,
            ),
            *(180, 212, 227, 246, 248, 249, 250, 272, 279, 298, 300, 304, 305, 308, 310, 311, 312, 313, 320, 321, 323),
        ),
    ),
    "aarch64": (
        0xC00000B7,
        {"clone": 220, "clone3": 435, "socket": 198, "socketpair": 199, "ioctl": 29},
        # lookup_dcookie umount2 mount pivot_root nfsservctl chroot vhangup quotactl acct unshare kexec_load init_module
        # delete_module clock_settime syslog ptrace reboot sethostname setdomainname settimeofday adjtimex add_key
        # request_key keyctl swapon swapoff move_pages perf_event_open fanotify_init open_by_handle_at clock_adjtime
        # setns process_vm_readv process_vm_writev kcmp finit_module bpf userfaultfd kexec_file_load
        (
            *(
                18,
                39,
                40,
                41,
                42,
                51,
                58,
                60,
                89,
                97,
                104,
                105,
                106,
                112,
                116,
                117,
                142,
                161,
                162,
                170,
                171,
                217,
                218,
                219,
            ),
            *(224, 225, 239, 241, 262, 265, 266, 268, 270, 271, 272, 273, 280, 282, 294),
        ),
    ),
}
_LAST_OLD = {"x86_64": 334, "aarch64": 294}
"""Up to here each architecture has its own numbers, all of which were looked through for the tables above."""
# pidfd_send_signal pidfd_open close_range openat2 faccessat2 epoll_pwait2 landlock_* futex_waitv cachestat fchmodat2
# set_mempolicy_home_node map_shadow_stack futex_wake/wait/requeue mseal. Not among them: io_uring_*, the mount calls,
# pidfd_getfd, memfd_secret and whatever came later.
_ALLOWED_NEW = (424, 434, 436, 437, 439, 441, 444, 445, 446, 449, 450, 451, 452, 453, 454, 455, 456, 462)


def supported() -> bool:
    return os.uname().machine in _TABLES and os.path.exists("/proc/sys/kernel/seccomp/actions_avail")


def install() -> None:
    """Filter this process and all it will ever start. Needs ``no_new_privs``. Raises ``OSError``."""
    program = build(os.uname().machine)
    filters = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(filters))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.c_char_p(header), 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp: {os.strerror(number)}")


def build(machine: str) -> bytes:
    """The filter as the kernel's array of ``struct sock_filter``."""
    architecture, looked_into, refused = _TABLES[machine]
    code = [
        _statement(_LOAD, _ARCHITECTURE),
        _jump(_JUMP_EQUAL, architecture, 1, 0),
        _statement(_RETURN, _KILL),
        _statement(_LOAD, _NUMBER),
        *_refuse(_JUMP_GREATER_EQUAL, _X32, errno.ENOSYS),
        # Its flags lie in memory, which a filter cannot read; C libraries fall back to clone.
        *_refuse(_JUMP_EQUAL, looked_into["clone3"], errno.ENOSYS),
    ]
    code.append(_jump(_JUMP_GREATER, _LAST_OLD[machine], 0, len(_ALLOWED_NEW) + 1))
    code += [_jump(_JUMP_EQUAL, known, len(_ALLOWED_NEW) - place, 0) for place, known in enumerate(_ALLOWED_NEW)]
    code.append(_statement(_RETURN, _ERRNO | errno.ENOSYS))
    for number in refused:
        code += _refuse(_JUMP_EQUAL, number, errno.EPERM)
    clone = [_statement(_LOAD, _FIRST), *_refuse(_JUMP_SET, _NEW_NAMESPACES, errno.EPERM)]
    code += _within(looked_into["clone"], clone)
    for name in ("socket", "socketpair"):
        family = [_statement(_LOAD, _FIRST)]
        family += [_jump(_JUMP_EQUAL, known, len(_FAMILIES) - place, 0) for place, known in enumerate(_FAMILIES)]
        family += [_statement(_RETURN, _ERRNO | errno.EAFNOSUPPORT)]
        code += _within(looked_into[name], family)
    terminal = [_statement(_LOAD, _SECOND)]
    for request in (_TIOCSTI, _TIOCLINUX):
        terminal += _refuse(_JUMP_EQUAL, request, errno.EPERM)
    code += _within(looked_into["ioctl"], terminal)
    code.append(_statement(_RETURN, _ALLOW))
    return b"".join(code)


def _within(number: int, body: list[bytes]) -> list[bytes]:
    """``body`` for one call only; whoever reaches its end may make the call."""
    return [_jump(_JUMP_EQUAL, number, 0, len(body) + 1), *body, _statement(_RETURN, _ALLOW)]


def _refuse(test: int, value: int, error: int) -> list[bytes]:
    return [_jump(test, value, 0, 1), _statement(_RETURN, _ERRNO | error)]


def _statement(code: int, value: int) -> bytes:
    return struct.pack("HBBI", code, 0, 0, value)


def _jump(code: int, value: int, if_true: int, if_false: int) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)
