"""The seccomp profile of a container that makes sandboxes of its own: Docker's default denies namespaces to containers.

The significant calls that an engine denies by default stay denied, but for those that bubblewrap needs, which the
kernel allows only inside a user namespace that the container has made. All others are allowed; trials have a stricter
filter of their own (``runtime.sandboxes``).
Reference: https://docs.docker.com/engine/security/seccomp/, "Significant syscalls blocked by the default profile".
"""

from __future__ import annotations

import json

# Not clone, clone3, mount, pivot_root, setns, umount, umount2 and unshare, which bubblewrap needs.
DENIED = (
    *("acct", "add_key", "bpf", "clock_adjtime", "clock_settime", "create_module", "delete_module", "finit_module"),
    *("fsconfig", "fsmount", "fsopen", "fspick", "get_kernel_syms", "init_module", "io_uring_enter"),
    *("io_uring_register", "io_uring_setup", "ioperm", "iopl", "kcmp", "kexec_file_load", "kexec_load", "keyctl"),
    *("lookup_dcookie", "mount_setattr", "move_mount", "nfsservctl", "open_by_handle_at", "open_tree"),
    *("perf_event_open", "query_module", "quotactl", "quotactl_fd", "reboot", "request_key", "settimeofday", "stime"),
    *("swapoff", "swapon", "sysfs", "syslog", "_sysctl", "uselib", "userfaultfd", "ustat", "vhangup", "vm86"),
    "vm86old",
)
EPERM = 1


def profile() -> str:
    """The file that ``security_opt: seccomp:`` names."""
    denied = {"names": list(DENIED), "action": "SCMP_ACT_ERRNO", "errnoRet": EPERM}
    return json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [denied]}, indent=2) + "\n"
