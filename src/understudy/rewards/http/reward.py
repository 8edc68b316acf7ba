"""A reward behind an address: JSON both ways, clips as mp4 or PNG, nothing that could be executed."""

import base64
import ipaddress
import json
import os
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from understudy.errors import ConfigError, MissingExtra, PluginError
from understudy.rewards.http.config import HttpRewardConfig
from understudy.video.clips import Clip, encode_mp4, encode_png

_LONGEST_ANSWER = 1 << 20  # bytes; a score is a few
_LARGEST = 1e18  # of a score: it is squared in float32


class HttpReward:
    """Asks a server for scores, a few clips at a time.

    Raises:
        ConfigError: the address is not https, nor on this machine, and plain http is not allowed; or the key is not set.
        MissingExtra: httpx is missing.
    """

    def __init__(self, config: HttpRewardConfig) -> None:
        self._config = config
        try:
            import httpx
        except ImportError:
            raise MissingExtra("a reward of kind http", "api") from None
        _check_address(config)
        headers = {}
        if config.key_env:
            if not (key := os.environ.get(config.key_env)):
                raise ConfigError(f"reward {config.url}: the environment variable {config.key_env} is not set")
            headers["authorization"] = f"Bearer {key}"
        self._client = httpx.Client(timeout=config.timeout, headers=headers, follow_redirects=False)

    def __call__(self, clips: Sequence[Clip], prompts: Sequence[str]) -> Sequence[float]:
        """Return the server's scores of B clips; see ``Reward``.

        Raises:
            PluginError: it cannot be reached, refuses, or answers something else than so many finite numbers.
        """
        scores: list[float] = []
        size = self._config.clips_at_once
        for low in range(0, len(clips), size):
            some = clips[low : low + size]
            sent = [self._sent(clip, prompt) for clip, prompt in zip(some, prompts[low : low + size], strict=True)]
            scores += self._scores(self._ask({"clips": sent}), len(some))
        return scores

    def _sent(self, clip: Clip, prompt: str) -> dict[str, Any]:
        head = {"prompt": prompt, "fps": clip.fps}
        if self._config.frames == "mp4":
            return {**head, "mp4": _text(encode_mp4(clip))}
        return {**head, "png": [_text(encode_png(frame)) for frame in clip.frames]}

    def _ask(self, body: dict[str, Any]) -> Any:
        import httpx

        url, why = self._config.url, ""
        for attempt in range(self._config.attempts):
            if attempt:
                time.sleep(min(10.0, 2.0**attempt / 2))
            try:
                status, content = self._reply(body)
            except (httpx.HTTPError, TimeoutError) as error:
                why = f"{type(error).__name__}: {error}"
                continue
            if status == 200:
                try:
                    return json.loads(content)
                except ValueError:
                    raise PluginError(f"reward {url} did not answer JSON: {_short(content)}") from None
            why = f"status {status}: {_short(content)}"
            if status < 500 and status != 429:
                break
        raise PluginError(
            f"reward {url} gave no scores ({why}); the last checkpoint is intact, the same command goes on"
        )

    def _reply(self, body: dict[str, Any]) -> tuple[int, bytes]:
        """Return status and body of one answer.

        Raises:
            TimeoutError: it took longer than allowed, whatever came on the way. PluginError: it is too long.
        """
        until, content = time.monotonic() + self._config.timeout, bytearray()
        with self._client.stream("POST", self._config.url, json=body) as reply:
            for chunk in reply.iter_bytes():
                content += chunk
                if len(content) > _LONGEST_ANSWER:
                    raise PluginError(f"reward {self._config.url} answered more than {_LONGEST_ANSWER >> 20} MiB")
                if time.monotonic() > until:
                    raise TimeoutError(f"no whole answer in {self._config.timeout:g} s")
            return reply.status_code, bytes(content)

    def _scores(self, answer: Any, count: int) -> list[float]:
        found = answer.get("scores") if isinstance(answer, dict) else None
        if not isinstance(found, list) or len(found) != count:
            what = f"{len(found)} scores" if isinstance(found, list) else "no list named scores"
            raise PluginError(f"reward {self._config.url} answered {what} for {count} clips")
        numbers = [float(score) for score in found if type(score) in (int, float) and abs(score) <= _LARGEST]
        if len(numbers) != count:
            raise PluginError(
                f"reward {self._config.url} answered scores that are not finite numbers: {_short(str(found).encode())}"
            )
        return numbers


def build(config: HttpRewardConfig) -> HttpReward:
    """Return the reward; nothing is asked yet."""
    return HttpReward(config)


def _check_address(config: HttpRewardConfig) -> None:
    try:
        parts = urlsplit(config.url)
        host = parts.hostname if parts.scheme in ("http", "https") and parts.port != 0 else None
    except ValueError:  # a bracket that is not closed, a port that is no number
        host = None
    if not host:
        raise ConfigError(f"reward url {config.url!r} is no address; write it as https://host/path")
    if parts.scheme == "http" and not config.plain_http and not _is_loopback(host):
        raise ConfigError(
            f"reward url {config.url} is plain http to another machine, which anybody between can read and change: use "
            "https, or set plain_http for a server in your own network"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _short(content: bytes) -> str:
    text = content[:400].decode("utf-8", "replace")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:200]
