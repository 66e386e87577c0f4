"""``liverl proxy``: the proxy alone, for any agent and any vLLM."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from liverl.options import folder_to_write


def register(app: typer.Typer) -> None:
    app.command()(proxy)


def proxy(
    engine: Annotated[
        list[str],
        typer.Option(
            "--engine", metavar="URL", help="A vLLM server, e.g. http://127.0.0.1:8000; again for each replica."
        ),
    ],
    tokenizer: Annotated[
        Path, typer.Option("--tokenizer", metavar="DIR", help="Folder with tokenizer.json and the chat template.")
    ],
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any free one.")] = 0,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    out: Annotated[
        Path, typer.Option("--out", "-o", callback=folder_to_write, help="Folder of trajectories and journal.")
    ] = Path("proxy"),
    session: Annotated[str, typer.Option("--session", help="Session opened at once; '' for none.")] = "main",
    tool_parser: Annotated[str, typer.Option("--tool-parser", help="Form of the model's tool calls.")] = "hermes",
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, help="Of every reply.")] = 1.0,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Most tokens of one reply.")] = 8192,
    context: Annotated[
        int | None, typer.Option("--context", min=2, help="Most tokens of a conversation; default: the engine's.")
    ] = None,
    engine_key: Annotated[
        str | None, typer.Option("--engine-key", envvar="LIVERL_ENGINE_KEY", help="API key of the engine.")
    ] = None,
    admin_key: Annotated[
        str | None,
        typer.Option("--admin-key", envvar="LIVERL_PROXY_ADMIN_KEY", help="Opens and closes sessions; default: drawn."),
    ] = None,
) -> None:
    """Give any OpenAI or Anthropic agent a policy behind one vLLM server or several, and keep every token it samples.

    Prints one JSON line: where it listens, the session, and the keys. Words for people go to stderr. Ctrl-C closes all
    sessions and writes their trajectories."""
    import gc
    import json
    import secrets

    import uvloop

    from runtime.addresses import web_address
    from runtime.proxy.codec import load_codec
    from runtime.proxy.standalone import Settings, Standalone
    from runtime.proxy.types import SessionLimits
    from runtime.proxy.upstream import connect

    codec = load_codec(tokenizer, tool_parser)
    if not codec.shows_tools:
        typer.echo(
            f"{tokenizer}: the chat template shows no tools: an agent that works by them can only fail", err=True
        )
    key = admin_key or secrets.token_urlsafe(24)

    async def serve() -> None:
        upstream, served = await connect(engine, api_key=engine_key)
        try:
            room = context or served.context_length or 1 << 20
            limits = SessionLimits(room, room, max_tokens, temperature=temperature, context_length=room)
            alone = Standalone(Settings(host, port, out, limits, key), codec, upstream)

            def ready() -> None:
                server = alone.server
                url = web_address(server.host, server.port)
                typer.echo(f"proxy on {url} for {served.name} ({served.path}); Ctrl-C ends it", err=True)
                keys = {"admin_key": key} if admin_key is None else {}
                opened = alone.open(session) if session else {}
                print(json.dumps({"url": url, "model": served.name, **keys, **opened}), flush=True)

            await alone.run(ready)
        finally:
            await upstream.close()
        typer.echo(f"trajectories in {out}", err=True)

    gc.freeze()  # modules and tokenizer live as long as the process: no collection need walk over them
    uvloop.run(serve())
