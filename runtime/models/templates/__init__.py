"""Which chat template a model keeps: its own where it is append-only and shows tools, else one of ours.

The library: ``chatml_tools``, ChatML with tools, for models that have its two control tokens.
"""

from __future__ import annotations

from pathlib import Path

from runtime.errors import UserError
from runtime.proxy.append_only import examine
from runtime.proxy.codec import fitting_formats, open_codec
from runtime.proxy.model_folder import ModelFolder
from runtime.proxy.tokens import Tokens

OWN, CHATML = "own", "chatml_tools"
LIBRARY = {CHATML: ("<|im_start|>", "<|im_end|>")}
"""Name -> the control tokens that a model needs for it."""
FILE = "chat_template.jinja"


def choose(folder: Path, wanted: str | None) -> tuple[str, ...]:
    """Write the template of a model folder. ``wanted``: ``own``, a name of the library, a file, or None: its own, or
    the first of the library that fits where its own does not serve agents. Returns what was changed, in words. Raises
    ``UserError`` for a template that is not append-only, or whose tokens the model lacks."""
    if wanted is None:
        reason = _unfit(folder)
        if reason is None:
            return ()
        fitting = [name for name in LIBRARY if _has(folder, name)]
        if not fitting:
            raise UserError(
                f"its chat template: {reason}; give it another by --chat-template FILE, or keep it by"
                f" --chat-template {OWN}"
            )
        _write(folder, _text(fitting[0]))
        return (f"chat template: {fitting[0]} of the library, because of its own: {reason}",)
    if wanted == OWN:
        return ()
    if wanted in LIBRARY and not _has(folder, wanted):
        raise UserError(f"--chat-template {wanted}: the model has no {' and '.join(LIBRARY[wanted])} as control tokens")
    _write(folder, _text(wanted))
    reason = _unfit(folder)
    if reason is not None:
        raise UserError(f"--chat-template {wanted}: {reason}")
    return (f"chat template: {wanted if wanted in LIBRARY else Path(wanted).name}",)


def _text(wanted: str) -> str:
    path = Path(__file__).with_name(f"{wanted}.jinja") if wanted in LIBRARY else Path(wanted).expanduser()
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join([OWN, *LIBRARY])
        raise UserError(f"--chat-template {wanted}: {error}; a file of Jinja, or one of: {known}") from None


def _write(folder: Path, text: str) -> None:
    path = folder / FILE
    path.unlink(missing_ok=True)  # it may be a link to a file of the hub's cache
    path.write_text(text, encoding="utf-8")


def _has(folder: Path, name: str) -> bool:
    control = Tokens(folder / "tokenizer.json").control
    return all(token in control for token in LIBRARY[name])


def _unfit(folder: Path) -> str | None:
    """Why agents that work by tool calls cannot have this model with the template that it has; None: they can."""
    try:
        model = ModelFolder.read(folder)
        fitting = fitting_formats(model)
        verdict = examine(open_codec(model, next(iter(fitting), "hermes")))
    except UserError as error:
        return str(error).removeprefix(f"{folder}").lstrip("/: ")
    if verdict.problem is not None:
        return f"not append-only: {verdict.problem}"
    if not verdict.shows_tools:
        return "shows no tools to the model"
    return None if fitting else "writes tool calls in a form that no tool_parser reads"
