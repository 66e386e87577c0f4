"""The agent against tools, policy, sandboxes and the length of prompts."""

from __future__ import annotations

from collections.abc import Iterator

from compiler.check.environment import image_problems
from compiler.check.rule import Rule
from compiler.errors import Problem
from compiler.plan import Plan
from runtime.config.environment import Ecs, Harbor, Kubernetes
from runtime.config.policy import NewPolicy
from runtime.config.scaffold import FirstLook, ImportedScaffold, ShellScaffold

MIN_PROMPT_TOKENS = {
    "claude-code": 16_000,
    "opencode": 8_000,
    "openhands-sdk": 7_500,
    "terminus-2": 1_200,
    "mini-swe-agent": 1_000,
}
"""About what an agent's instructions and tools take before the task is even named, at four characters per token of the
recorded requests."""


def turns(plan: Plan) -> Iterator[Problem]:
    spec = plan.spec
    if not isinstance(spec.scaffold, ShellScaffold):
        yield from _agents(plan)
        return
    if spec.scaffold.max_edits > spec.scaffold.max_turns:
        yield Problem(
            ("scaffold", "max_edits"),
            f"{spec.scaffold.max_edits} edits do not fit into max_turns {spec.scaffold.max_turns}",
            f"1 to {spec.scaffold.max_turns}",
        )
    if spec.scaffold.tools == "repair":
        if spec.scaffold.edit_match != "exact":
            what = "the structured tools name a line and no text"
            yield Problem(("scaffold", "edit_match"), what, "exact")
        for name in ("first_look", "test_after_edit", "undo_failed_edits"):
            if getattr(spec.scaffold, name):
                what = "the structured tools run the tests themselves, at the first call and after each repair"
                yield Problem(("scaffold", name), what, "null" if name == "first_look" else "false")
    elif spec.scaffold.first_look is not None and _tokens(spec.scaffold.first_look) >= spec.rollout.prompt_length:
        yield Problem(
            ("scaffold", "first_look", "max_chars"),
            f"{spec.scaffold.first_look.max_chars} characters, some {_tokens(spec.scaffold.first_look)} tokens, do not "
            f"fit into rollout.prompt_length {spec.rollout.prompt_length}, which holds the first request",
            fix="lower it, or raise rollout.prompt_length",
        )
    if spec.scaffold.tools == "free" and spec.scaffold.undo_failed_edits and not spec.scaffold.test_after_edit:
        what = "true, but no edit is known to have failed without test_after_edit"
        yield Problem(("scaffold", "undo_failed_edits"), what, "false", "set scaffold.test_after_edit")
    if isinstance(spec.policy, NewPolicy) and spec.rollout.tool_parser != "compact":
        yield Problem(
            ("rollout", "tool_parser"),
            f'"{spec.rollout.tool_parser}" with a new policy, whose chat template is compact',
            "compact",
        )


def _tokens(look: FirstLook) -> int:
    """Of source code; three characters a token, which is on the safe side."""
    return look.max_chars // 3


def _agents(plan: Plan) -> Iterator[Problem]:
    """Published agents: what they run in, and whom they can be driven by."""
    spec = plan.spec
    if isinstance(spec.scaffold, ShellScaffold | ImportedScaffold):
        return
    agent = spec.scaffold.type
    if spec.environment.type == "process":
        yield Problem(
            ("environment", "type"),
            f'"process" with the scaffold {agent}, which runs any command without asking, on this machine',
            "bubblewrap",
            "use liverl.environment.bubblewrap",
        )
    if isinstance(spec.policy, NewPolicy):
        yield Problem(
            ("scaffold", "type"),
            f'"{agent}" with a new small policy, whose compact calls cannot carry its arguments',
            "shell",
            "use liverl.scaffold.repair, or a pretrained policy",
        )
    image, pods = spec.scaffold.runtime_image, isinstance(spec.environment, Kubernetes)
    if image is not None and not pods:
        yield Problem(
            ("scaffold", "runtime_image"),
            f'"{image}", but sandboxes of {spec.environment.type} are no pods: they see what the machine installed',
            "null",
        )
    elif image is not None:
        yield from image_problems(image, ("scaffold", "runtime_image"))
    elif isinstance(spec.environment, Kubernetes | Ecs | Harbor):
        yield Problem(
            ("scaffold", "runtime_image") if pods else ("scaffold", "type"),
            f"{agent} is uploaded into every sandbox, hundreds of megabytes",
            fix="set scaffold.runtime_image" if pods else "use sandboxes of kubernetes with scaffold.runtime_image",
            severity="warn",
        )
    compact_tokens = getattr(spec.scaffold, "compact_tokens", None)
    context = spec.rollout.prompt_length + spec.rollout.response_length
    if compact_tokens is not None and compact_tokens >= context:
        yield Problem(
            ("scaffold", "compact_tokens"),
            f"{compact_tokens} tokens are never reached: prompt_length and response_length give {context}",
            f"< {context}",
            severity="warn",
        )
    least = MIN_PROMPT_TOKENS[agent]
    if spec.rollout.prompt_length < least:
        yield Problem(
            ("rollout", "prompt_length"),
            f"{spec.rollout.prompt_length} tokens are fewer than the first prompt of {agent} with its tools",
            f">= {least}",
            severity="warn",
        )


RULES: tuple[Rule, ...] = (turns,)
