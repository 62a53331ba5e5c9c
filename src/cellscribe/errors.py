"""The one error that a user is meant to meet.

Everything that is wrong with an input, an option or the disk raises `InputError`. Its text is one
line: what is wrong, then how to fix it. The command line prints that line and leaves with status
2; a traceback means a defect of ours.
"""

from __future__ import annotations


class InputError(ValueError):
    """Bad input; the message is one line that says how to fix it."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
