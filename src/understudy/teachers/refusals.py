"""Whose fault a refusal is, going by the fields of the answer alone: never by words in a text.

A refusal is the prompt's where a code, a type or a flag says that content was moderated, or where the answer names the
prompt's own field as the wrong one. Everything else (balance, key, model, route, another field, a firewall's page) says
nothing of the prompt. Codes are those of the vendors' documents of November 2026 and of their kind.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

_DEEPEST, _WIDEST = 5, 32
# What a service sends back of our own request says nothing.
_ECHOES = {
    "input",
    "request",
    "params",
    "parameters",
    "body",
    "options",
    "settings",
    "arguments",
    "prompt",
    "ctx",
    "url",
}
_CODES = re.compile(
    r"(error_?|failure_?|finish_?|block_?|status_?)?(code|type|reason|reasons|kind|category|name)|error|status", re.I
)
_FLAGS = {
    "flagged",
    "moderated",
    "nsfw",
    "is_nsfw",
    "nsfw_content_detected",
    "has_nsfw_concepts",
    "content_filtered",
    "flagged_input",
    "rai_media_filtered_reasons",
}
_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_.:/-]{2,99}")
_MODERATED = re.compile(
    r"content_?polic|polic(y|ies)_?violat|violat\w*_?polic|usage_?polic|moderat|nsfw|safety|sensitive|content_?filter"
    r"|content_?(blocked|rejected|violation|restricted)|prohibited_?content|inappropriate|data_?inspection"
    r"|prompt_?(was_?)?(blocked|rejected|flagged|refused)|(blocked|rejected|flagged)_?prompt|flagged|copyright"
    r"|responsible_?ai|\brai_|risk_?control|illegal_?content",
    re.IGNORECASE,
)
# The checker itself, the account, or a limit: not this prompt.
_NOT_THE_PROMPT = re.compile(
    r"unavailable|time_?d?_?out|fail|internal|service|server|require|disabled|quota|rate_?limit|billing|access|permission"
    r"|exceed|unverified|overload|busy|account|user|org|key|region|country|suspend|banned|disagree|accept|version|config"
    r"|pending|in_?progress|none|passed|approved|skipped|off\b|ok\b|_error$",
    re.IGNORECASE,
)
_PROMPT_FIELD = re.compile(r"(?:.*[.\[/])?(?:prompt|text_prompt|prompt_text|promptText)\]?", re.IGNORECASE)
_ABSENT = re.compile(r"missing|required|string_type|type_error|invalid_type|not_a_string|extra", re.IGNORECASE)
_BILLING = re.compile(
    r"balance|billing|credit|payment|insufficient_?(funds|quota|fund)|arrears|overdue|budget|spend|prepaid|invoice",
    re.I,
)
_QUOTA = re.compile(
    r"quota|rate.?limit|too.?many|concurren|capacity|throttl|limit.?exceeded|exceeded.*limit|usage limit", re.I
)
_KEY = re.compile(r"api.?key|token|credential|unauthor|authenticat|permission|forbidden|signature", re.I)


def is_prompts(data: Any) -> bool:
    """Say whether the answer's JSON ``data`` says, in a structured way, that it is the prompt that is refused."""
    if any(_MODERATED.search(code) and not _NOT_THE_PROMPT.search(code) for code in codes(data)):
        return True
    return _flagged(data) or _names_prompt(data)


def codes(data: Any) -> Iterator[str]:
    """Yield the codes in an answer: short words without spaces in fields that hold codes, camel case split."""
    for name, value in _fields(data):
        if not _CODES.fullmatch(name):
            continue
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, str) and _IDENTIFIER.fullmatch(one):
                yield re.sub(r"(?<=[a-z])(?=[A-Z])", "_", one).replace("-", "_").replace(".", "_")


def is_billing(data: Any) -> bool:
    """Say whether a code of the answer says that there is no money left."""
    return any(_BILLING.search(code) for code in codes(data))


def what_stops(status: int, said: str) -> str:
    """Return what a refusal that is not the prompt's seems to be about; words for the user, decided upon by nobody."""
    if status == 402 or _BILLING.search(said):
        return "says that the credit is used up"
    if _QUOTA.search(said):
        return "says that a limit of the account is reached"
    if status == 401 or (status == 403 and _KEY.search(said)):
        return "refuses the key"
    if status in (404, 405, 410):
        return "does not know this address or model"
    return "refuses the request"


def _fields(data: Any) -> Iterator[tuple[str, Any]]:
    """Yield the names and values of all objects in ``data`` that are no echo of our request, outermost first."""
    level = [data]
    for _ in range(_DEEPEST):
        deeper: list[Any] = []
        for value in level:
            if isinstance(value, Mapping):
                for name, item in list(value.items())[:_WIDEST]:
                    yield str(name), item
                    if str(name).lower() not in _ECHOES:
                        deeper.append(item)
            elif isinstance(value, list):
                deeper += value[:_WIDEST]
        level = deeper


def _flagged(data: Any) -> bool:
    for name, value in _fields(data):
        if re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower() in _FLAGS:
            values = value if isinstance(value, list) else [value]
            if any(one is True or (isinstance(one, str) and one.strip()) for one in values):
                return True
    return False


def _names_prompt(data: Any) -> bool:
    """Say whether the answer names the prompt's field, and no other, as the wrong one, and has not missed it."""
    named = [(place, _said(entry)) for entry in _entries(data) if (place := _place(entry))]
    return bool(named) and all(_PROMPT_FIELD.fullmatch(place) and not _ABSENT.search(said) for place, said in named)


def _said(entry: Mapping[str, Any]) -> str:
    """Return how ``entry`` says what is wrong, in short."""
    return " ".join(str(entry.get(name) or "")[:80] for name in ("type", "code", "msg", "message"))


def _entries(data: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the objects that say what is wrong with one field each."""
    if not isinstance(data, Mapping):
        return
    for name in ("error", "detail", "errors", "invalid_fields"):
        found = data.get(name)
        for one in found[:_WIDEST] if isinstance(found, list) else [found]:
            if isinstance(one, Mapping):
                yield one


def _place(entry: Mapping[str, Any]) -> str:
    """Return the field that ``entry`` names, its last part for a path."""
    where = entry.get("loc")
    if isinstance(where, list):
        names = [str(part) for part in where if isinstance(part, str)]
        return names[-1] if names else ""
    return next((found for name in ("param", "field", "parameter") if isinstance(found := entry.get(name), str)), "")
