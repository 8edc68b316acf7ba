"""The section of a reward behind an address."""

from typing import Literal

from pydantic import Field

from understudy.rewards.config import RewardSection


class HttpRewardConfig(RewardSection):
    """A server that scores clips: JSON both ways, clips as mp4 or PNG; needs the extra [api]."""

    kind: Literal["http"] = "http"
    url: str
    """Address that takes {"clips": [{"prompt", "fps", "mp4" or "png": base64}]} and answers {"scores": [...]}."""
    key_env: str | None = None
    """Environment variable that holds a key, sent as a bearer token; null: none."""
    frames: Literal["mp4", "png"] = "mp4"
    """How clips are sent: one mp4 each, or a list of PNG pictures each, without loss."""
    clips_at_once: int = Field(16, ge=1, le=1024)
    """Clips in one request."""
    timeout: float = Field(120.0, gt=0, le=3600)
    """Seconds that one request may take."""
    attempts: int = Field(3, ge=1, le=20)
    """Times that a request is sent before training stops."""
    plain_http: bool = False
    """Allow http to this host although it is not this machine (a server in your own network)."""
