"""What the readers of compiled files make of a text: a function per reader that quotes, or says why nothing can.

YAML is ``compiler.emit``'s, a word of a shell ``shlex.quote``'s. Knows no field of the spec.
"""

from __future__ import annotations

import re

_OPTION = re.compile(r"-(?![0-9.])")
_VARIABLE = re.compile(r"\$(\w|\{)", re.ASCII)
"""What ``os.path.expandvars``, which Ray uses, may take for a variable."""
_TAKEN_IN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_HUB = re.compile(r"\w+([.-]\w+)*/(?=.{1,96}$)\w+([.-]\w+)*", re.ASCII)
_SKYPILOT = re.compile(r"[a-zA-Z0-9]+([._-]{1,2}[a-zA-Z0-9]+)*")


def omegaconf(text: str) -> str:
    """Why OmegaConf, which reads ``verl.yaml``, would give back another value; empty where it gives back ``text``.

    References cannot be escaped: verl resolves its configuration in place and then reads it once more."""
    if "${" in text:
        return "verl's reader takes ${ for the beginning of a reference"
    return "verl's reader takes ??? for a value that is missing" if text == "???" else ""


def vllm(text: str) -> str:
    """Why vLLM, which turns ``vllm.yaml`` into arguments, would not take ``text`` for a value; empty where it does."""
    return "begins like an option of vLLM's command line" if _OPTION.match(text) else ""


def model(path: str) -> str:
    """Why what loads a policy knows nothing of ``path``: what does not begin as a folder is a name of the hub, or of
    one that was taken in; empty where it may be one."""
    named = _HUB if "/" in path else _TAKEN_IN
    if path.startswith(("/", "./", "../", "~")) or named.fullmatch(path):
        return ""
    return "neither a folder (/FOLDER, ./FOLDER, ~) nor a name of the Hugging Face hub, nor of `liverl models`"


def compose(text: str) -> str:
    """A value of Compose's file, which reads "$" as the beginning of a variable."""
    return text.replace("$", "$$")


def kubernetes_env(text: str) -> str:
    """The value of a pod's variable: the kubelet puts other variables in the place of ``$(NAME)``, and reads "$$" as a
    dollar."""
    return text.replace("$", "$$")


def ray_env(text: str) -> str:
    """Why Ray, which hands a job's variables (``runtime_env``) to its workers, would give them another value; empty
    where they get ``text``. Nothing escapes a dollar there."""
    return "Ray puts a variable of each node in the place of $NAME" if _VARIABLE.search(text) else ""


def dns_1035(name: str) -> str:
    """Why a name of LiveRL's (lower-case letters, digits, "-") is none of RFC 1035, which KubeRay's resources and
    services of Kubernetes have; empty where it is one."""
    return "begins with a digit, which KubeRay refuses" if name[:1].isdigit() else ""


def skypilot(name: str) -> str:
    """Why SkyPilot takes a name of LiveRL's for none of its tasks; empty where it takes it."""
    return "" if _SKYPILOT.fullmatch(name) else 'has more than two "-" in a row, which SkyPilot refuses'
