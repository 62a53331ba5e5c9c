"""The one error that a user is meant to meet, and how text from outside is made safe to show.

Everything that is wrong with an input, an option or the disk raises `InputError`. Its text is one
line: what is wrong, then how to fix it. The command line prints that line and leaves with status
2; a traceback means a defect of ours.

Names in files are written by others. An escape sequence among them could rewrite the terminal that
shows it, and a bidirectional override could turn the line round: `printable` shows both as what
they are.

A function of ``import cellscribe`` raises what went wrong from its own frame (`boundary`): the
forty frames of HDF5 below it help nobody who gave a wrong path. They are kept in the error's
``cause``, and shown as Python shows them if the environment has ``CELLSCRIBE_DEBUG``.
"""

from __future__ import annotations

import functools
import os
import re
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

LONGEST = 800
"""Characters of a message; of a longer one the middle is left out: the fix stands at the end."""
UNSEEN = frozenset({"Cc", "Cf", "Co", "Cs", "Zl", "Zp"})
"""Unicode categories of what is not seen: controls, formats (bidirectional ones too), lone halves
of pairs, private use, breaks of lines and paragraphs."""
FLAG = re.compile(
    r"""(?<![\w-])--(?P<name>[a-z][a-z0-9-]*)
    (?:[ ](?P<value>'[^']*'|[A-Z][A-Z_0-9]+\b|-?[0-9][\w.]*|[\w./-]*[\w/]))?""",
    re.VERBOSE,
)
"""A flag of the command line in a message, and the word behind it."""
SWITCHES = re.compile(
    "combine|dry-run|include-duplicates|keep-duplicates|overwrite|resume|skip-bad"
)
"""Flags without a value."""
PROSE = re.compile(
    "again|and|are|as|at|be|by|do|does|for|from|goes|has|have|here|holds|if|in|is|it|its|names|needs|"
    "of|on|once|or|means|out|perturbs|reads|shows|takes|that|the|this|to|together|too|twice|were|"
    "whose|with"
)
"""Words behind a flag that are not its value."""


class InputError(ValueError):
    """Bad input; the message is one line that says how to fix it.

    Attributes
    ----------
    cause
        The error below it, if there was one.
    """

    cause: BaseException | None = None

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


_speakers: list[str] = []


@contextmanager
def spoken_by(speaker: str) -> Iterator[None]:
    """Leave messages in the words of the command line while it runs."""
    _speakers.append(speaker)
    try:
        yield
    finally:
        _speakers.pop()


def is_spoken() -> bool:
    """Whether messages are in the words of the command line."""
    return bool(_speakers)


def worded(message: str) -> str:
    """A message as its reader types settings: flags on the command line, else keywords."""
    return message if is_spoken() else for_python(message)


def told_by_system(error: BaseException) -> InputError | None:
    """The line that an error is worth: its own, or that of the system about a path.

    Whatever is wrong with a path (its name too long, a loop of links, a folder where a file should
    be, no permission), the system names it; such an error is no defect of ours. None for others.
    """
    if isinstance(error, InputError):
        return error
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return InputError(f"{error.filename}: {error.strerror}; check the path")
    if isinstance(error, ValueError) and "null byte" in str(error):
        return InputError("a path holds a null byte; check the paths")
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop"):
        return InputError(f"{error}; check the path")  # Python 3.11 and 3.12
    return None


def boundary(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function raise an `InputError` from its own frame, in words of Python."""

    @functools.wraps(function)
    def call(*args: P.args, **settings: P.kwargs) -> R:
        try:
            return function(*args, **settings)
        except Exception as error:
            told = told_by_system(error)
            if told is None or os.environ.get("CELLSCRIBE_DEBUG"):
                raise
            below = error if told is not error else error.__cause__ or error.__context__
            told.cause = told.cause or below
            told.args = (worded(str(told)),)
            raise told.with_traceback(None) from None
        except KeyboardInterrupt as stop:
            stop.args = tuple(worded(part) for part in stop.args if isinstance(part, str))
            raise

    return call


def for_python(message: str) -> str:
    """Say a message as a caller of the functions types it: ``layer="counts"``, not a flag.

    Parameters
    ----------
    message
        Of an `InputError`, which names settings by the flags of the command line.
    """
    return FLAG.sub(_keyword, message)


def _keyword(flag: re.Match[str]) -> str:
    name, value = flag["name"].replace("-", "_"), flag["value"]
    if SWITCHES.fullmatch(flag["name"]):
        return f"{name}=True" + (f" {value}" if value else "")
    if not value:
        return f"{name}=..."
    if PROSE.fullmatch(value):
        return f"{name}=... {value}"
    if re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", value):
        return f"{name}={value}"
    return f'{name}="{value.strip(chr(39))}"'


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
