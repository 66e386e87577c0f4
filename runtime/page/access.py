"""Who may see the page: this machine without a word, everybody else with the token; and what a browser may do with it.

The page shows what agents wrote, and agents are adversaries: nothing of theirs may run, and no other site may read it.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

COOKIE = "liverl_page"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def cookie_of(host: str) -> str:
    """A browser keeps cookies by host alone: two pages of one machine must not overwrite each other's."""
    try:
        return f"{COOKIE}_{urlsplit(f'//{host}').port or 80}"
    except ValueError:
        return COOKIE


def new_token() -> str:
    return secrets.token_urlsafe(24)


def guard(token: str | None) -> Middleware:
    """Middleware. Without a token, requests must name this machine: a foreign site whose name was made to lead here
    (DNS rebinding) does not. With one, it comes once as ``?token=`` and then in a cookie, or as a Bearer."""

    @web.middleware
    async def checked(request: web.Request, handler: Handler) -> web.StreamResponse:
        if token is None:
            # A host that does not parse is none of ours.
            try:
                named = urlsplit(f"//{request.host}").hostname or ""
            except ValueError:
                named = ""
            if not is_loopback(named):
                raise web.HTTPForbidden(text="this page is served to this machine only\n", headers=HEADERS)
            return await _answer(request, handler)
        given = request.query.get("token")
        if given is not None and _same(given, token):
            # Out of the address: it would stay in the history and be shown over shoulders.
            response = web.HTTPFound(request.rel_url.with_query(_rest(request)), headers=HEADERS)
            # Lax: a link in a chat opens the page; and the page only answers, it changes nothing.
            response.set_cookie(cookie_of(request.host), token, httponly=True, samesite="Lax", path="/")
            raise response
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not (_same(bearer, token) or _same(request.cookies.get(cookie_of(request.host), ""), token)):
            raise web.HTTPUnauthorized(
                text="open the address that the command printed: it ends in ?token=\n", headers=HEADERS
            )
        return await _answer(request, handler)

    return checked


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        response = await handler(request)
    except web.HTTPException as error:
        error.headers.update(HEADERS)
        raise
    if not response.prepared:
        response.headers.update(HEADERS)
    return response


def _rest(request: web.Request) -> dict[str, str]:
    return {name: value for name, value in request.query.items() if name != "token"}


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), token.encode())
