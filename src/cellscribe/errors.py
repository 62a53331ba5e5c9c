"""The one error that a user is meant to meet.

Everything that is wrong with an input, an option or the disk raises `InputError`. Its text is one
line: what is wrong, then how to mend it. The command line prints that line and leaves with status
2; a traceback means a defect of ours.
"""

from __future__ import annotations


class InputError(ValueError):
    """Bad input, with the mend in its one-line message."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
