"""The program around the verbs: settings from a file, refusals, signals.

Bad input and bad options leave one line on stderr and exit status 2; Ctrl-C leaves 130. torch is
imported by the verbs that need it, so ``--help`` is quick.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Group, Parameter
from cyclopts.config import Dict

from cellscribe.callbacks import speaking
from cellscribe.errors import InputError, one_line, spoken_by, told_by_system

app = App(
    name="cellscribe",
    help="Single cells to vectors: reads a cell as its genes ranked by expression.",
    help_format="plaintext",
    default_parameter=Parameter(negative=()),
    suppress_keyboard_interrupt=False,
    version_flags=["--version", "-V"],
    help_epilogue=(
        "Examples:\n\n    cellscribe embed cells.h5ad -o vectors.npy\n"
        "    cellscribe help embed    # its options, with more examples"
    ),
)
app.meta.group_parameters = Group("Everywhere", sort_key=9)
# It does not take this over from `app`, and Ctrl-C would end here without a word.
app.meta.suppress_keyboard_interrupt = False


_below: list[Callable[..., None]] = []


def under_flags(source: Callable[..., None]) -> Callable[..., None]:
    """Register what lies under the flags and under --config: called as cyclopts calls a config."""
    _below.append(source)
    return source


@app.meta.default
def launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Path | None = None,
    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"])] = False,
    verbose: Annotated[bool, Parameter(name=["--verbose", "-v"])] = False,
) -> None:
    """Run one verb.

    Parameters
    ----------
    config
        TOML file that lies under the flags: a table for each verb, [embed] with model = "mini".
    quiet
        Say nothing on stderr but warnings and errors.
    verbose
        Say when each line was reached, and where an error came from.
    """
    if quiet and verbose:
        raise InputError("--quiet and --verbose contradict each other; leave one out")
    with speaking("quiet" if quiet else "verbose" if verbose else "normal"):
        try:
            _run_verb(tokens, config)
        except InputError:
            if verbose:
                traceback.print_exc()
            raise


@app.command(name="help")
def help_(*verb: str) -> None:
    """Describe a verb, as VERB --help does.

    Parameters
    ----------
    verb
        Such as embed, or index build.
    """
    command = app
    for i, word in enumerate(verb):
        verbs = [name for name in command if not name.startswith("-")]
        if word not in verbs:
            where = " ".join(verb[:i]) or "cellscribe"
            raise InputError(f"no verb {word!r}; {where} has {', '.join(verbs) or 'none'}")
        command = command[word]
    app.meta([*verb, "--help"], exit_on_error=False, print_error=False)


@app.command
def completion(shell: Literal["bash", "zsh", "fish"], /) -> None:
    """Print the script by which a shell completes verbs and options.

    Parameters
    ----------
    shell
        Whose script.
    """
    print(app.generate_completion(shell=shell))


def _run_verb(tokens: Sequence[str], config: Path | None) -> None:
    from cellscribe.cli.renamed import with_new_flags, with_new_keys

    app.config = tuple(_below)
    if config is not None:
        from cellscribe.config import read_toml

        verbs = [name for name in app if not name.startswith("-")]
        tables = read_toml(config)
        for table in tables:
            if table not in verbs:
                raise InputError(f"{config}: no verb {table!r}; tables are {', '.join(verbs)}")
        settings = with_new_keys(tables, str(config))
        app.config = (Dict(settings, source=str(config), allow_unknown=False), *_below)
    app(with_new_flags(tokens), exit_on_error=False, print_error=False)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; leaves by SystemExit with status 0, 2 or 130."""
    run(app.meta, arguments)


def run(program: App, arguments: list[str] | None = None) -> None:
    """Run a program of commands as `main` does."""
    stopped: list[int] = []

    def stop(number: int, frame: object) -> None:
        stopped.append(128 + number)
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    try:
        try:
            with spoken_by("the command line"):
                program(arguments, exit_on_error=False, print_error=False)
        finally:
            # here, where a reader that went away can still be distinguished from an error
            sys.stdout.flush()
    except (InputError, CycloptsError) as error:
        if stopped:
            sys.exit(stopped[0])
        fail(str(error), 2)
    except KeyboardInterrupt as interrupt:
        fail(str(interrupt) or "interrupted", 130)
    except BrokenPipeError:
        # or Python would try once more to write what is left, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except BaseException as error:
        # a library may have made an error of its own of the signal that ended its call
        if stopped:
            sys.exit(stopped[0])
        if _interrupted(error):
            fail("interrupted", 130)
        told = told_by_system(error)
        if told is None or os.environ.get("CELLSCRIBE_DEBUG"):
            raise
        fail(str(told), 2)


def _interrupted(error: BaseException | None) -> bool:
    """Whether an error was made of Ctrl-C: safetensors makes a text of what is raised in it."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt) or "KeyboardInterrupt" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def fail(line: str, status: int) -> None:
    """Print one line and leave."""
    print(f"cellscribe: {one_line(line)}", file=sys.stderr)
    sys.exit(status)
