"""What addresses mean: this machine, a private network, the open one."""

import ipaddress
from urllib.parse import SplitResult, urlsplit


def is_loopback(host: str) -> bool:
    """Say whether ``host`` is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_public(address: str) -> bool:
    """Say whether ``address`` is one of the open network."""
    try:
        found = ipaddress.ip_address(address.split("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None) or found
    return bool(mapped.is_global and not mapped.is_multicast)


def short(url: str) -> str:
    """Return ``url`` without its query, which may hold a signature."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "no address"
    return f"{parts.scheme}://{parts.hostname}{parts.path}"[:200]


def port(parts: SplitResult) -> int | None:
    """Return the port, also where it is only implied."""
    return parts.port or {"http": 80, "https": 443}.get(parts.scheme)
