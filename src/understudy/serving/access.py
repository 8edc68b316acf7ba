"""Who may ask the server what, and how it says no."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse

PAGES: Final = {"/": "index.html", "/app.js": "app.js", "/style.css": "style.css"}
_OPEN: Final = {*PAGES, "/health"}  # nothing of a session in them: no token needed
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src blob: data:; media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Refusal(Exception):
    """A request that is not carried out.

    Attributes:
        status: of HTTP. code: for programs. message: for people. param: the field at fault.
        retry_after: seconds after which asking again makes sense.
    """

    def __init__(
        self, status: int, code: str, message: str, param: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param, self.retry_after = status, code, message, param, retry_after

    def response(self) -> JSONResponse:
        """Return it in the shape of OpenAI's errors, which clients of hosted generators read."""
        kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return JSONResponse({"error": error}, self.status, headers)


@dataclass(frozen=True)
class Access:
    """Who may connect: ``hosts`` are the Host names answered to (None: any), ``token`` what they have to show."""

    hosts: frozenset[str] | None = frozenset({"localhost", "127.0.0.1", "[::1]"})
    token: str | None = None

    def check(self, headers: Mapping[str, str], path: str, token: str) -> None:
        """Raise Refusal unless a request with these headers may be answered."""
        host, origin = headers.get("host", ""), headers.get("origin")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if self.hosts is not None and name not in self.hosts:  # DNS rebinding
            raise Refusal(403, "wrong_host", f"this server answers to {', '.join(sorted(self.hosts))} only")
        if origin is not None and _place(origin) != host:
            raise Refusal(403, "wrong_origin", "requests from pages of another origin are refused")
        if self.token is None or path in _OPEN:
            return
        if not secrets.compare_digest(token.encode(), self.token.encode()):
            why = "a token is needed: open the address that `understudy serve` printed, or send it as a Bearer token"
            raise Refusal(401, "invalid_api_key", why)


def _place(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:  # an address in brackets that is none
        return ""
