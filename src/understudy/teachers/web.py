"""Asking a server over HTTP, without trusting it: what every adapter for a service or a server uses.

Keys come from the environment or a keyring, go to the teacher's own origin alone, and are blotted out of whatever text
leaves this module. Downloads come over https (loopback, and the teacher's own host where the user says so, excepted), from
public addresses or the teacher's own host, and are limited in size. Every request has a total time. Text is cleaned here.
"""

import os
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from understudy.errors import (
    AssetGone,
    ClipError,
    ClipRefused,
    ConfigError,
    TeacherError,
    TeacherStopped,
    TransientError,
)
from understudy.teachers.addresses import is_loopback, is_public, port, short
from understudy.teachers.inline import save_clip
from understudy.teachers.refusals import is_billing, what_stops
from understudy.teachers.replies import Reply, decode, one_line
from understudy.teachers.requests import Extend, GivenUp, Requests

__all__ = ["Reply", "Web", "find_key", "one_line"]

_PASSES = {408, 409, 425, 429, 460, 499}
_REFUSED = {425, 429}  # of those: certain to have come before the work
_MAX_REPLY = 8 * 2**20
_MAX_REDIRECTS = 5
_SECONDS = 30.0  # for the next bytes
_DOWNLOAD_SECONDS = 900.0


def find_key(variable: str) -> str:
    """Return the key that the environment variable or the keyring entry ``variable`` of ``understudy`` holds.

    Raises:
        ConfigError: neither has it.
    """
    if value := os.environ.get(variable, "").strip():
        return _sendable(value, variable)
    try:
        import keyring

        value = keyring.get_password("understudy", variable) or ""
    except Exception:  # not installed, locked or without a back end: all the same to the user
        value = ""
    if value:
        return _sendable(value, variable)
    raise ConfigError(
        f"there is no key: set the environment variable {variable}, or `keyring set understudy {variable}`"
    )


def _sendable(key: str, variable: str) -> str:
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"the key in {variable} has characters that no header can carry; copy it again")
    return key


class Web:
    """One teacher's server. Made without opening anything; used by several threads."""

    def __init__(
        self,
        url: str,
        key_env: str = "",
        auth: str = "Authorization: Bearer {key}",
        plain_http: bool = False,
        max_bytes: int = 512 * 2**20,
        transport: Any = None,
        seconds: float = 60.0,
    ) -> None:
        """Take the address of the server.

        Args:
            url: its origin, such as https://example.org, with a path in front of all others or without.
            key_env: the environment variable that holds the key; empty: none is sent.
            auth: the header that carries it.
            plain_http: allow http to this very host although it is not this machine.
            max_bytes: the largest clip.
            transport: of httpx, for tests.
            seconds: a request may take, its answer included; downloads, and answers with a clip in them, have 900.

        Raises:
            ConfigError: the address is no http or https address, or http to another machine.
        """
        self.url = url.rstrip("/")
        self._plain_http, self._max_bytes, self._transport, self._seconds = plain_http, max_bytes, transport, seconds
        self._key_env, self._auth = key_env, auth
        self._key = ""
        self._clients: dict[bool, Any] = {}
        self._requests = Requests()
        self._opening, self._one_large = threading.Lock(), threading.Lock()
        try:
            self._origin = urlsplit(self.url)
            _ = self._origin.port
        except ValueError:
            raise ConfigError(f"teacher.url {url!r} is no address; write it like https://example.org") from None
        if self._origin.scheme not in ("http", "https") or not self._origin.hostname:
            raise ConfigError(f"teacher.url {url!r} is no address; write it like https://example.org")
        if self._origin.username or self._origin.password:
            raise ConfigError(
                "teacher.url holds a user or password; put the key into the environment (teacher.key_env)"
            )
        if self._origin.scheme == "http" and not (plain_http or is_loopback(self._origin.hostname)):
            raise ConfigError(
                f"teacher.url {url!r} is not encrypted; use https, or set teacher.plain_http for a server in your own "
                "network"
            )

    @property
    def host(self) -> str:
        """Its host name."""
        return self._origin.hostname or ""

    @property
    def most_inline(self) -> int:
        """The largest answer that may hold a clip, in bytes."""
        return self._max_bytes // 3 * 4 + _MAX_REPLY

    def give_up(self) -> None:
        """End questions and downloads under way, soon; submissions are left alone."""
        self._requests.give_up()

    def ask(
        self,
        method: str,
        path: str,
        json: Any = None,
        form: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        most: int | None = None,
    ) -> Reply:
        """Return the answer to a request to the teacher's own origin, of ``most`` bytes (None: 8 MiB).

        Raises:
            TransientError: 408, 409, 425, 429, 5xx, no answer, or one that cannot be received. It is ``unsure`` unless the
                request is certain to have been refused, or not to have left.
            TeacherStopped: 401 or 402, or 429 for want of money.
        """
        holds = method == "POST"
        client, most = self._open(holds), most or _MAX_REPLY
        import httpx

        url = self._full(path)
        if not self.serves(url):
            raise TeacherError(f"the teacher sent the address of another host ({short(url)}) to ask; it is not asked")
        files = None if form is None else {name: (None, value) for name, value in form.items()}
        sent = {**self._keyed(), **(headers or {})}
        too_long = f"{self.host} answered with more than {most >> 20} MiB of text"

        async def exchange(extend: Extend) -> tuple[int, Any, bytes]:
            body = bytearray()
            async with client.stream(method, url, json=json, files=files, headers=sent) as r:
                if _announced(r) > most:
                    raise TransientError(too_long, unsure=True)
                async for chunk in r.aiter_bytes():
                    if len(body) <= _MAX_REPLY < len(body) + len(chunk):
                        extend(_DOWNLOAD_SECONDS)  # a clip may be in it
                    body += chunk
                    if len(body) > most:
                        raise TransientError(too_long, unsure=True)
            return r.status_code, r.headers, bytes(body)

        try:
            status, told, body = self._requests.run(exchange, self._seconds, holds)
        except (httpx.RequestError, httpx.InvalidURL, httpx.StreamError, TimeoutError, GivenUp) as error:
            before = (
                *(httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError),
                *(httpx.LocalProtocolError, httpx.UnsupportedProtocol, httpx.InvalidURL),
            )  # the request never left
            unsure = not isinstance(error, before)
            raise TransientError(f"no answer from {self.host} ({type(error).__name__})", unsure=unsure) from None
        with self._one_large if len(body) > _MAX_REPLY else nullcontext():
            text = self._blot(decode(body, told.get("content-type", "")))
            reply = Reply.read(status, text)
        self._raise_for(reply, told)
        return reply

    def download(self, url: str, path: Path, seconds: float | None = None) -> None:
        """Write what lies at ``url``, or in it (``data:``), to the file ``path``, within ``seconds`` (None: 900).

        Raises:
            AssetGone: 403, 404 or 410.
            ClipRefused: it is too large.
            ClipError: it is no clip, or lies where nothing is fetched from.
            TransientError: 408, 409, 425, 429, 5xx, the connection broke, or it took too long.
        """
        if url[:5].lower() == "data:":
            with _disk(path):
                save_clip(url, path, self._max_bytes)
            return
        self._open(False)
        import httpx

        limit = _DOWNLOAD_SECONDS if seconds is None else min(seconds, _DOWNLOAD_SECONDS)
        until = time.monotonic() + limit
        url = self._full(url)
        try:
            for _ in range(_MAX_REDIRECTS):
                self._check_address(url)
                target = self._requests.run(partial(self._fetch, url, path), until - time.monotonic())
                if not target:
                    return
                url = urljoin(url, target)
        except TimeoutError:
            raise TransientError(f"the download took longer than {limit:g} seconds") from None
        except (httpx.RequestError, httpx.StreamError, GivenUp) as error:
            raise TransientError(f"the download from {short(url)} broke off ({type(error).__name__})") from None
        except (httpx.InvalidURL, ValueError, KeyError):
            raise ClipError("the clip's address is no address") from None
        raise ClipError(f"the clip's address leads through more than {_MAX_REDIRECTS} others")

    # --- inside -------------------------------------------------------------------------------------------------

    async def _fetch(self, url: str, path: Path, extend: Extend) -> str:
        """Write what lies at ``url`` to ``path``, or return the address that it names instead."""
        headers = self._keyed() if self.serves(url) else {}
        async with self._open(False).stream("GET", url, headers=headers) as reply:
            self._check_peer(url, reply)
            if reply.is_redirect:
                return str(reply.headers["location"])
            if reply.status_code in (403, 404, 410):
                raise AssetGone(f"the clip at {short(url)} is gone (status {reply.status_code})")
            self._raise_for(Reply(reply.status_code, None, ""), reply.headers)
            if reply.status_code != 200:
                raise ClipError(f"{short(url)} answered with status {reply.status_code} instead of a clip")
            size, too_large = 0, f"the clip is larger than {self._max_bytes >> 20} MiB (teacher.max_megabytes)"
            if _announced(reply) > self._max_bytes:
                raise ClipRefused(too_large)
            with _disk(path), open(path, "wb") as file:
                async for chunk in reply.aiter_bytes():
                    size += len(chunk)
                    if size > self._max_bytes:
                        raise ClipRefused(too_large)
                    file.write(chunk)
        return ""

    def _open(self, fresh: bool) -> Any:
        """Return the client; ``fresh`` ones use no connection twice.

        A server may close one that it has kept just as it is used again. For a submission that would be a lost answer.
        """
        try:
            import httpx
        except ImportError:
            raise ConfigError("this teacher needs httpx: pip install 'understudy[api]'") from None
        with self._opening:
            if not self._clients:
                verify = httpx.create_ssl_context() if self._transport is None else True
                for once, kept in ((True, 0), (False, 64)):
                    self._clients[once] = httpx.AsyncClient(
                        timeout=_SECONDS,
                        follow_redirects=False,
                        limits=httpx.Limits(max_connections=256, max_keepalive_connections=kept),
                        transport=self._transport,
                        verify=verify,
                    )
            return self._clients[fresh]

    def _full(self, url: str) -> str:
        """Return ``url``, which may lack the scheme, or the host as well."""
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", url):
            return url
        return f"{self._origin.scheme}:{url}" if url.startswith("//") else f"{self.url}/{url.lstrip('/')}"

    def _keyed(self) -> dict[str, str]:
        if not self._key_env:
            return {}
        self._key = self._key or find_key(self._key_env)
        name, _, value = self._auth.partition(":")
        return {name.strip(): value.strip().format(key=self._key)}

    def _blot(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text

    def _raise_for(self, reply: Reply, headers: Mapping[str, str]) -> None:
        status = reply.status
        if status in (401, 402) or (status == 429 and is_billing(reply.data)):
            what = what_stops(402 if status == 429 else status, "")
            raise TeacherStopped(f"{self.host} {what} (status {status}): {reply.reason}; see teacher.key_env")
        if status in _PASSES or status >= 500:
            raise TransientError(
                f"{self.host} answered {status} {reply.reason}".strip(), _retry_after(headers), status not in _REFUSED
            )

    def serves(self, url: str) -> bool:
        """Say whether ``url`` lies at the teacher's own origin."""
        own = self._origin
        try:
            other = urlsplit(url)
            return (other.scheme, other.hostname, port(other)) == (own.scheme, own.hostname, port(own))
        except ValueError:
            return False

    def _check_address(self, url: str) -> None:
        """Raise ClipError unless ``url`` may be fetched from."""
        parts = urlsplit(url)
        if self.serves(url):
            return
        if parts.scheme != "https" or not parts.hostname:
            raise ClipError(f"the clip's address {short(url)} is not https; it is not fetched")
        try:
            found = {item[4][0] for item in socket.getaddrinfo(parts.hostname, parts.port or 443)}
        except OSError:
            if _proxied(url):
                return  # the proxy looks names up
            raise TransientError(f"the host of {short(url)} is not found") from None
        if any(not is_public(str(address)) for address in found):
            raise ClipError(f"the clip's address {short(url)} lies in a private network; it is not fetched")

    def _check_peer(self, url: str, reply: Any) -> None:
        """Check who answered: a name may have come to mean another address since it was checked."""
        stream = reply.extensions.get("network_stream")
        peer = stream.get_extra_info("server_addr") if stream is not None else None
        if peer and not self.serves(url) and not _proxied(url) and not is_public(str(peer[0])):
            raise ClipError(f"the clip's address {short(url)} lies in a private network; it is not fetched")


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TeacherStopped(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from None


def _announced(reply: Any) -> int:
    """Return how many bytes the answer is said to have; 0 when it does not say."""
    size = reply.headers.get("content-length", "")
    return int(size) if re.fullmatch(r"[0-9]{1,18}", size) else 0


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds to wait; a date counts from the server's own clock, not from ours."""
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", value):
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - parsedate_to_datetime(headers["date"])).total_seconds())
    except (ValueError, TypeError, KeyError):
        return None


def _proxied(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in getproxies() and not proxy_bypass(parts.hostname or "")
