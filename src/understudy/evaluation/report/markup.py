"""Building HTML so that text can never turn into markup."""

import html

_VOID = frozenset({"br", "img", "meta"})


class Html(str):
    """Markup. Any other string is text and is escaped where it meets markup."""

    __slots__ = ()


def el(name: str, /, *children: str, **attributes: str | float | bool | None) -> Html:
    """Return an element. Children that are not `Html` are escaped, attribute values always.

    ``class_`` stands for ``class``, ``aria_label`` for ``aria-label``; an attribute that is None or False is left out, one
    that is True has no value.
    """
    opening = name
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        spelled = key.rstrip("_").replace("_", "-")
        opening += f" {spelled}" if value is True else f' {spelled}="{html.escape(str(value))}"'
    if name in _VOID:
        return Html(f"<{opening}>")
    return Html(f"<{opening}>{join(*children)}</{name}>")


def join(*children: str) -> Html:
    """Return the children one after the other, those that are text escaped."""
    return Html("".join(child if isinstance(child, Html) else html.escape(child) for child in children))
