"""Errors a user can act on: one line that says what was wrong, with what value, and what to do."""


class UnderstudyError(Exception):
    """Base of every error that the command line prints as a single line (exit status 1)."""


class ConfigError(UnderstudyError):
    """A configuration or an argument is wrong."""


class ClipError(UnderstudyError):
    """A clip is missing, damaged or not of the shape that was promised."""


class StoreError(UnderstudyError):
    """A clip store is missing, damaged or cannot be written."""


class CheckpointError(UnderstudyError):
    """A checkpoint is missing, damaged or belongs to another configuration."""


class PromptRejected(UnderstudyError):
    """A teacher refused a prompt; permanent, so the prompt is recorded and skipped."""


class TeacherError(UnderstudyError):
    """A teacher failed to deliver a usable clip."""


class TrainingError(UnderstudyError):
    """Training had to stop; the last good checkpoint is kept."""


class TransientError(TeacherError):
    """A request to a teacher failed in a way that passes; asking again is right.

    Attributes:
        retry_after: seconds the teacher asked to wait, or None.
        unsure: the request may have been carried out although no answer came.
    """

    def __init__(self, message: str, retry_after: float | None = None, unsure: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.unsure = unsure


class JobForgotten(TeacherError):
    """The teacher does not know a job it had accepted (it was restarted, or dropped it)."""


class AssetGone(TeacherError):
    """The address of a finished clip no longer works; asking for the job again may give a fresh one."""


class TeacherStopped(TeacherError):
    """No further job can succeed: the key is refused, the credit is used up, or the request itself is wrong."""
