"""Reads a pod's status: is it ready, will it never be, and of what did it die? Plain data in, typed failures out.

The cases are those of a real API server: an image that cannot be pulled never fails the pod, memory shows as OOMKilled
with exit code 137, eviction and preemption as a reason or a DisruptionTarget condition.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runtime.errors import Termination, TrialError

Pod = Mapping[str, Any]

_HOPELESS = {
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
}
_PULLED = {"CreateContainerError", "RunContainerError", "CrashLoopBackOff"}
"""The image is there; it is the container that does not start."""
_PULL = {"ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "ImageInspectError"}
_PASSING = ("429", "toomanyrequests", "too many requests", "timeout", "connection refused", "temporarily", "eof", " 50")


def phase(pod: Pod) -> str:
    return str(pod.get("status", {}).get("phase") or "Pending")


def running(pod: Pod) -> bool:
    started = [("running" in _state(one)) for one in _containers(pod)]
    return phase(pod) == "Running" and bool(started) and all(started) and not deleted(pod)


def receiving(pod: Pod, name: str) -> bool:
    """Whether the init container ``name`` runs."""
    started = pod.get("status", {}).get("initContainerStatuses") or ()
    return any(one.get("name") == name and "running" in _state(one) for one in started) and not deleted(pod)


def finished(pod: Pod) -> bool:
    return phase(pod) in ("Succeeded", "Failed")


def deleted(pod: Pod) -> bool:
    return bool(pod.get("metadata", {}).get("deletionTimestamp"))


def never_starts(pod: Pod) -> str | None:
    """Why the pod will not run however long one waits, or None. A registry that is merely busy is waited for."""
    for one in _starting(pod):
        waiting = _state(one).get("waiting") or {}
        reason, message = str(waiting.get("reason") or ""), str(waiting.get("message") or "")
        if reason in _HOPELESS:
            return f"{reason}: {message}"
        if reason in _PULL and message and not any(word in message.lower() for word in _PASSING):
            if reason == "ImagePullBackOff" and message.lower().startswith("back-off"):
                continue  # it only repeats that there was an error; that one said which
            return f"{reason}: {message}"
    return None


def pulled(pod: Pod | None, image: str) -> str | bool | None:
    """True: the node has the image of this pod, whose program does not exist. None: not yet. Else why it will not."""
    if pod is None or (deleted(pod) and not finished(pod)):
        return f"the pod for {image} is gone"
    for one in _containers(pod):
        state = _state(one)
        reason = str((state.get("waiting") or {}).get("reason") or "")
        if one.get("imageID") or "running" in state or "terminated" in state or reason in _PULLED:
            return True
    return never_starts(pod) or (f"phase {phase(pod)}" if finished(pod) else None)


def waiting_for(pod: Pod) -> str:
    """For the message of a missed deadline: what the cluster says it waits for."""
    said = [
        f"{(w := _state(one).get('waiting') or {}).get('reason')}: {w.get('message', '')}"
        for one in _starting(pod)
        if "waiting" in _state(one)
    ]
    for condition in pod.get("status", {}).get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            said.append(f"{condition.get('reason')}: {condition.get('message', '')}")
    return "; ".join(said) or f"phase {phase(pod)}"


def death(pod: Pod | None, name: str) -> TrialError | None:
    """The failure that ended the pod (None given: it is not there any more), or None while it lives."""
    what = f"sandbox {name}"
    if pod is None:
        return TrialError(Termination.SANDBOX_LOST, f"{what}: its pod is gone", host_fault=True)
    status = pod.get("status", {})
    ends = [end for one in _containers(pod) if (end := _state(one).get("terminated"))]
    evicted = status.get("reason") == "Evicted" or any(
        condition.get("type") == "DisruptionTarget" and condition.get("status") == "True"
        for condition in status.get("conditions") or ()
    )
    message = status.get("message") or ""
    if any(end.get("reason") == "OOMKilled" for end in ends):
        return TrialError(Termination.OUT_OF_MEMORY, f"{what}: the box exceeded its memory limit")
    if evicted and (finished(pod) or deleted(pod) or ends):
        # A kubelet evicts those that use too much, which an agent can bring about.
        ours = not any(one.get("reason") == "TerminationByKubelet" for one in status.get("conditions") or ())
        ours = ours and status.get("reason") != "Evicted"
        why = f"{what}: evicted: {message or 'the node was needed'}"
        return TrialError(Termination.SANDBOX_LOST, why, host_fault=ours)
    if status.get("reason") == "DeadlineExceeded":
        return TrialError(Termination.SANDBOX_LOST, f"{what}: it outlived its active deadline")
    if deleted(pod):
        return TrialError(Termination.SANDBOX_LOST, f"{what}: its pod is being deleted", host_fault=True)
    if ends or finished(pod):
        end = ends[0] if ends else {}
        why = f"{end.get('reason', status.get('reason', phase(pod)))}, exit code {end.get('exitCode')}: {message}"
        return TrialError(Termination.SANDBOX_LOST, f"{what}: its container ended: {why}")
    return None


def explained(pod: Pod | None) -> bool:
    """Whether the cluster has said its last word on a dead pod. A container that was told to end shows as "Completed"
    first; why it was told follows in the pod's own status."""
    if pod is None or deleted(pod) or finished(pod) or pod.get("status", {}).get("reason"):
        return True
    ends = [end for one in _containers(pod) if (end := _state(one).get("terminated"))]
    return any(end.get("reason") == "OOMKilled" for end in ends)


def _containers(pod: Pod) -> list[Mapping[str, Any]]:
    return list(pod.get("status", {}).get("containerStatuses") or ())


def _starting(pod: Pod) -> list[Mapping[str, Any]]:
    """Those that run before it too."""
    return [*(pod.get("status", {}).get("initContainerStatuses") or ()), *_containers(pod)]


def _state(container: Mapping[str, Any]) -> Mapping[str, Any]:
    return container.get("state") or {}
