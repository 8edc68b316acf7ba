"""Text from outside as it may be shown: file names, ids and services' words cannot steer a terminal."""

import unicodedata

# Other characters of the category Cf are parts of words and of flags; these turn the direction of what follows.
_TURNS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")
_HIDDEN = ("Cc", "Cs", "Zl", "Zp")


def shown(text: object) -> str:
    r"""Return ``text`` on one line with every control character, lone surrogate or turn of direction spelled out.

    An escape sequence then reads ``\\x1b[31m`` and does nothing; a tab is a space.
    """
    return "".join(_spelled(character) for character in str(text))


def _spelled(character: str) -> str:
    if character == "\t":
        return " "
    if unicodedata.category(character) not in _HIDDEN and character not in _TURNS:
        return character
    code = ord(character)
    return {"\n": "\\n", "\r": "\\r"}.get(character, f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")
