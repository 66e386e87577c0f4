"""Drives an agent of the OpenHands SDK (observed on 1.57) through one task. Runs in the box.

The agent has the SDK's own prompt and tools. Knows the SDK, not who started it; see ``report``.
"""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

from openhands.sdk import LLM, Agent, Conversation, LLMSummarizingCondenser, Tool
from openhands.sdk.conversation.state import ConversationExecutionStatus as Status
from openhands.sdk.event import ActionEvent, Event, MessageEvent
from openhands.sdk.event.conversation_error import ConversationErrorEvent
from openhands.tools.file_editor import FileEditorTool
from openhands.tools.glob import GlobTool
from openhands.tools.grep import GrepTool
from openhands.tools.task_tracker import TaskTrackerTool
from openhands.tools.terminal import TerminalTool

from . import report

RETRIES = 4
"""How often a failed request is repeated, about 8 s in all: an outage must show before the trial's time is up."""
GO_ON = "Please go on. When you are done, call the tool `finish`."
_TOOLS = {
    "terminal": TerminalTool,
    "file_editor": FileEditorTool,
    "task_tracker": TaskTrackerTool,
    "glob": GlobTool,
    "grep": GrepTool,
}


class Watch:
    """Follows a conversation's events, which it prints for the record; pauses it at the limit of silent replies."""

    def __init__(self, max_silent: int) -> None:
        self._max_silent = max_silent
        self._replies: set[str] = set()
        self.conversation: Any = None
        self.silent = 0
        self.finished = False
        self.error: tuple[str, str] | None = None

    @property
    def turns(self) -> int:
        return len(self._replies)

    @property
    def too_silent(self) -> bool:
        return self.silent >= self._max_silent

    def __call__(self, event: Event) -> None:
        print(event.model_dump_json(exclude_none=True), flush=True)
        if isinstance(event, ActionEvent):
            self._replies.add(event.llm_response_id)
            self.silent = 0
            self.finished = event.tool_name == "finish"
        elif isinstance(event, MessageEvent) and event.source == "agent":
            self._replies.add(event.llm_response_id or event.id)
            self.silent += 1
            if self.too_silent:
                self.conversation.pause()
        elif isinstance(event, ConversationErrorEvent):
            self.error = (event.code, event.detail)


def main() -> None:
    order = report.read_order()
    watch = Watch(order.max_replies_without_tool)
    try:
        termination, detail = _drive(order, watch)
    except Exception as error:  # whatever it was, the runtime must hear of it in the closing line
        traceback.print_exc()
        termination, detail = report.termination_of(error), report.describe(error)
    report.end(termination, turns=watch.turns, detail=detail, stuck=float(detail == Status.STUCK.value))


def _drive(order: report.Order, watch: Watch) -> tuple[str, str]:
    conversation = watch.conversation = Conversation(
        agent=_agent(order),
        workspace=str(Path.cwd()),
        callbacks=[watch],
        visualizer=None,
        max_iteration_per_run=order.max_turns,
    )
    conversation.send_message(order.instruction)
    while True:
        conversation.run()
        status = conversation.state.execution_status
        if watch.finished:
            return report.COMPLETED, ""
        if watch.too_silent:
            return report.NO_TOOL, ""
        if status is Status.STUCK:  # it repeats itself: its own end, like any other
            return report.COMPLETED, status.value
        if status is not Status.FINISHED:
            code, detail = watch.error or ("none", status.value)
            limit = code == "MaxIterationsReached"
            return (report.MAX_TURNS if limit else report.CRASHED), f"{code}: {detail}"
        if watch.turns >= order.max_turns:
            return report.MAX_TURNS, ""
        conversation.max_iteration_per_run = order.max_turns - watch.turns
        conversation.send_message(GO_ON)


def _agent(order: report.Order) -> Agent:
    llm = LLM(
        usage_id="agent",
        model=f"openai/{order.model}",
        base_url=order.base_url,
        api_key=order.secret,
        api_mode="chat",
        num_retries=RETRIES,
        retry_min_wait=1,
        retry_max_wait=4,
        retry_multiplier=1.0,
        timeout=max(1, int(order.timeout_sec)),
        reasoning_effort="none",
        input_cost_per_token=0.0,  # or it warns at every reply that it knows no price
        output_cost_per_token=0.0,
    )
    condenser = None
    if (compact_tokens := order.options["compact_tokens"]) is not None:
        summarizer = llm.model_copy(update={"usage_id": "condenser"})
        condenser = LLMSummarizingCondenser(llm=summarizer, max_tokens=compact_tokens)
    return Agent(
        llm=llm,
        tools=[Tool(name=_TOOLS[name].name, params=_parameters(name)) for name in order.options["tools"]],
        system_prompt_kwargs={"cli_mode": True},
        condenser=condenser,
    )


def _parameters(tool: str) -> dict[str, Any]:
    # By default it depends on whether the image has a tmux; a trial must not.
    return {"terminal_type": "subprocess"} if tool == "terminal" else {}
