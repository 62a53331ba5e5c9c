"""The one error that a user is meant to meet, and how text from outside is made safe to show.

Everything that is wrong with an input, an option or the disk raises `InputError`. Its text is one
line: what is wrong, then how to fix it. The command line prints that line and leaves with status
2; a traceback means a defect of ours.

Names in files are written by others. An escape sequence among them could rewrite the terminal that
shows it, and a bidirectional override could turn the line round: `printable` shows both as what
they are.
"""

from __future__ import annotations

import unicodedata

LONGEST = 800
"""Characters of a message; of a longer one the middle is left out: the fix stands at the end."""
UNSEEN = frozenset({"Cc", "Cf", "Co", "Cs", "Zl", "Zp"})
"""Unicode categories of what is not seen: controls, formats (bidirectional ones too), lone halves
of pairs, private use, breaks of lines and paragraphs."""


class InputError(ValueError):
    """Bad input; the message is one line that says how to fix it."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(text: str, longest: int = LONGEST) -> str:
    """Make a line that is safe to show: white space is one space, what is unseen is escaped.

    Parameters
    ----------
    text
        Any text; parts of it may be from a file.
    longest
        Characters that may remain; the middle of a longer text becomes "…".
    """
    if len(text) > 8 * longest:  # so that a text of 100 MB is not worked through
        text = f"{text[: 4 * longest]} … {text[-2 * longest :]}"
    line = printable(" ".join(text.split()))
    if len(line) <= longest:
        return line
    end = longest // 3
    return f"{line[: longest - end - 3]} … {line[-end:]}"


def printable(text: str) -> str:
    r"""Replace what a terminal would obey or not show by its escape: ``\x1b``, ``\u202e``."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        _escaped(letter) if unicodedata.category(letter) in UNSEEN else letter for letter in text
    )


def _escaped(letter: str) -> str:
    code = ord(letter)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
