"""Errors a user can act on, in one line: what was wrong, with what value, what to do; and text that may be shown."""

import unicodedata
from collections.abc import Iterable


class UnderstudyError(Exception):
    """Base of every error that the command line prints as a single line.

    Attributes:
        exit_status: of the command that ends with it.
    """

    exit_status = 1


class ConfigError(UnderstudyError):
    """A configuration or an argument is wrong."""


class ClipError(UnderstudyError):
    """A clip is missing, damaged or not of the shape that was promised."""


class StoreError(UnderstudyError):
    """A clip store is missing, damaged or cannot be written."""


class CheckpointError(UnderstudyError):
    """A checkpoint is missing, damaged or belongs to another configuration."""

    @classmethod
    def misfit(cls, where: object, missing: Iterable[str], unexpected: Iterable[str]) -> "CheckpointError":
        """Return the error for weights at ``where`` whose names are not the model's; it names the first of them."""
        absent, extra = sorted(missing), sorted(unexpected)
        first = f"missing {absent[0]!r}" if absent else f"unexpected {extra[0]!r}"
        return cls(
            f"{where} does not fit this model: {len(absent)} missing and {len(extra)} unexpected tensors, first {first}"
        )


class PromptRejected(UnderstudyError):
    """A teacher refused a prompt; permanent, so the prompt is recorded and skipped."""


class TeacherError(UnderstudyError):
    """A teacher failed to deliver a usable clip."""


class TrainingForbidden(UnderstudyError):
    """A clip's maker has stated in the file that it must not be used for training; collection stops."""


class TrainingError(UnderstudyError):
    """Training had to stop; the last good checkpoint is kept."""


class MissingExtra(UnderstudyError):
    """An optional part was asked for whose packages are not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs packages that are not installed: pip install 'understudy[{extra}]'")


class TransientError(TeacherError):
    """A request to a teacher failed in a way that passes; asking again is right.

    Attributes:
        retry_after: seconds the teacher asked to wait, or None.
        unsure: the request may have been carried out although no answer came, or none that can be read.
    """

    def __init__(self, message: str, retry_after: float | None = None, unsure: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.unsure = unsure


class JobForgotten(TeacherError):
    """The teacher does not know a job it had accepted (it was restarted, or dropped it)."""


class AssetGone(TeacherError):
    """The address of a finished clip no longer works; asking for the job again may give a fresh one."""


class ClipRefused(ClipError):
    """A clip is not taken, and fetching it again would bring the same: it is beyond a limit of ours."""


class TeacherStopped(TeacherError):
    """No further job can be handed in: the key is refused, the credit is used up, or the request itself is wrong."""

    exit_status = 3


class CollectionIncomplete(TeacherError):
    """A collection has come to its end, and jobs failed, are left for the next one, or are unsure."""

    exit_status = 4


class PluginError(UnderstudyError):
    """Something that the user brought along (a teacher, a reward, an objective) failed; the line names it."""


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
