"""Asking a server over HTTP, without trusting it: what every adapter for a service or a server uses.

Keys come from the environment or a keyring, go to the teacher's own origin alone, and are blotted out of whatever text
leaves this module. Downloads come over https (loopback, and the teacher's own host where the user says so, excepted), from
public addresses or the teacher's own host, and are limited in size.
"""

import ipaddress
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from understudy.errors import AssetGone, ClipError, ConfigError, TeacherError, TeacherStopped, TransientError

_PASSES = {408, 409, 425, 429}
_UNSURE = {408, 502, 504}  # somebody on the way gave up, perhaps after the request had arrived
_MAX_REPLY = 8 * 2**20
_MAX_REDIRECTS = 5
_SECONDS = 30.0
_DOWNLOAD_SECONDS = 900.0


@dataclass(frozen=True)
class Reply:
    """An answer: its status and its JSON, or the text that came instead (then ``data`` is None)."""

    status: int
    data: Any
    text: str

    @property
    def reason(self) -> str:
        """What it says is wrong, on one short line."""
        said = self.data
        for name in ("error", "detail", "message"):
            if isinstance(said, Mapping) and said.get(name):
                said = said[name]
        return " ".join(str(said or self.text).split())[:300]


def find_key(variable: str) -> str:
    """Return the key that the environment variable or the keyring entry ``variable`` of ``understudy`` holds.

    Raises:
        ConfigError: neither has it.
    """
    if value := os.environ.get(variable, "").strip():
        return value
    try:
        import keyring

        value = keyring.get_password("understudy", variable) or ""
    except Exception:  # not installed, locked or without a back end: all the same to the user
        value = ""
    if value:
        return value
    raise ConfigError(
        f"there is no key: set the environment variable {variable}, or `keyring set understudy {variable}`"
    )


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
    ) -> None:
        """Take the address of the server.

        Args:
            url: its origin, such as https://example.org, with a path in front of all others or without.
            key_env: the environment variable that holds the key; empty: none is sent.
            auth: the header that carries it.
            plain_http: allow http to this very host although it is not this machine.
            max_bytes: the largest clip.
            transport: of httpx, for tests.

        Raises:
            ConfigError: the address is no http or https address, or http to another machine.
        """
        self.url = url.rstrip("/")
        self._plain_http, self._max_bytes, self._transport = plain_http, max_bytes, transport
        self._key_env, self._auth = key_env, auth
        self._key = ""
        self._client: Any = None
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
        if self._origin.scheme == "http" and not (plain_http or _is_loopback(self._origin.hostname)):
            raise ConfigError(
                f"teacher.url {url!r} is not encrypted; use https, or set teacher.plain_http for a server in your own "
                "network"
            )

    @property
    def host(self) -> str:
        """Its host name."""
        return self._origin.hostname or ""

    def ask(
        self,
        method: str,
        path: str,
        json: Any = None,
        form: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Return the answer to a request to the teacher's own origin.

        Raises:
            TransientError: 408, 409, 425, 429, 5xx, or no answer.
            TeacherStopped: 401 or 402.
        """
        client = self._open()
        import httpx

        url = path if "://" in path else f"{self.url}/{path.lstrip('/')}"
        if not self._is_own(url):
            raise TeacherError(f"the teacher sent the address of another host ({_short(url)}) to ask; it is not asked")
        files = None if form is None else {name: (None, value) for name, value in form.items()}
        try:
            sent = {**self._keyed(), **(headers or {})}
            with client.stream(method, url, json=json, files=files, headers=sent) as r:
                body = bytearray()
                for chunk in r.iter_bytes():
                    body += chunk
                    if len(body) > _MAX_REPLY:
                        raise TeacherError(f"{self.host} answered with more than {_MAX_REPLY >> 20} MiB of text")
        except httpx.TransportError as error:
            unsure = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
            raise TransientError(f"no answer from {self.host} ({type(error).__name__})", unsure=unsure) from None
        text = self._blot(bytes(body).decode("utf-8", "replace"))
        try:
            reply = Reply(r.status_code, _json(text), text)
        except ValueError:
            reply = Reply(r.status_code, None, text)
        self._raise_for(reply, r.headers)
        return reply

    def download(self, url: str, path: Path) -> None:
        """Write what lies at ``url`` to the file ``path``.

        Raises:
            AssetGone: 403, 404 or 410.
            ClipError: it is too large, or lies where nothing is fetched from.
            TransientError: 408, 409, 425, 429, 5xx, or the connection broke.
        """
        client = self._open()
        import httpx

        url = url if "://" in url else f"{self.url}/{url.lstrip('/')}"
        try:
            for _ in range(_MAX_REDIRECTS):
                self._check_address(url)
                with client.stream("GET", url, headers=self._keyed() if self._is_own(url) else {}) as reply:
                    self._check_peer(url, reply)
                    if reply.is_redirect:
                        url = urljoin(url, reply.headers["location"])
                        continue
                    if reply.status_code in (403, 404, 410):
                        raise AssetGone(f"the clip at {_short(url)} is gone (status {reply.status_code})")
                    self._raise_for(Reply(reply.status_code, None, ""), reply.headers)
                    if reply.status_code != 200:
                        raise ClipError(f"{_short(url)} answered with status {reply.status_code} instead of a clip")
                    self._write(reply, path)
                    return
        except httpx.TransportError as error:
            raise TransientError(f"the download from {_short(url)} broke off ({type(error).__name__})") from None
        except (httpx.InvalidURL, ValueError, KeyError):
            raise ClipError("the clip's address is no address") from None
        raise ClipError(f"the clip's address leads through more than {_MAX_REDIRECTS} others")

    # --- inside -------------------------------------------------------------------------------------------------

    def _open(self) -> Any:
        if self._client is None:
            try:
                import httpx
            except ImportError:
                raise ConfigError("this teacher needs httpx: pip install 'understudy[api]'") from None
            limits = httpx.Limits(max_connections=256, max_keepalive_connections=64)
            self._client = httpx.Client(
                timeout=_SECONDS, follow_redirects=False, limits=limits, transport=self._transport
            )
        return self._client

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
        if status in _PASSES or status >= 500:
            raise TransientError(
                f"{self.host} answered {status} {reply.reason}".strip(), _retry_after(headers), status in _UNSURE
            )
        if status in (401, 402):
            what = "refuses the key" if status == 401 else "says that the credit is used up"
            raise TeacherStopped(f"{self.host} {what} (status {status}): {reply.reason}; see teacher.key_env")

    def _is_own(self, url: str) -> bool:
        own = self._origin
        try:
            other = urlsplit(url)
            return (other.scheme, other.hostname, other.port) == (own.scheme, own.hostname, own.port)
        except ValueError:
            return False

    def _check_address(self, url: str) -> None:
        """Raise ClipError unless ``url`` may be fetched from."""
        parts = urlsplit(url)
        if self._is_own(url):
            return
        if parts.scheme != "https" or not parts.hostname:
            raise ClipError(f"the clip's address {_short(url)} is not https; it is not fetched")
        try:
            found = {item[4][0] for item in socket.getaddrinfo(parts.hostname, parts.port or 443)}
        except OSError:
            if _proxied(url):
                return  # the proxy looks names up
            raise TransientError(f"the host of {_short(url)} is not found") from None
        if any(not _is_public(str(address)) for address in found):
            raise ClipError(f"the clip's address {_short(url)} lies in a private network; it is not fetched")

    def _check_peer(self, url: str, reply: Any) -> None:
        """Check who answered: a name may have come to mean another address since it was checked."""
        stream = reply.extensions.get("network_stream")
        peer = stream.get_extra_info("server_addr") if stream is not None else None
        if peer and not self._is_own(url) and not _proxied(url) and not _is_public(str(peer[0])):
            raise ClipError(f"the clip's address {_short(url)} lies in a private network; it is not fetched")

    def _write(self, reply: Any, path: Path) -> None:
        until, size = time.monotonic() + _DOWNLOAD_SECONDS, 0
        with _disk(path), open(path, "wb") as file:
            for chunk in reply.iter_bytes():
                size += len(chunk)
                if size > self._max_bytes:
                    raise ClipError(f"the clip is larger than {self._max_bytes >> 20} MiB (teacher.max_megabytes)")
                if time.monotonic() > until:
                    raise TransientError(f"the download took longer than {_DOWNLOAD_SECONDS:g} seconds")
                file.write(chunk)


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TeacherStopped(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from None


def _json(text: str) -> Any:
    import json

    return json.loads(text)


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


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_public(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address.split("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None) or found
    return bool(mapped.is_global and not mapped.is_multicast)


def _short(url: str) -> str:
    """Return ``url`` without its query, which may hold a signature."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "no address"
    return f"{parts.scheme}://{parts.hostname}{parts.path}"[:200]
