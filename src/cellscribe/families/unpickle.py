"""Pickles and weights of others, read without running their code.

A pickle may name any function to be called when it is read, and may set the state of what comes
out. `pickle_machine` builds plain containers, numbers, strings, NumPy scalars and arrays, and
`torch_file` tensors; anything else is refused, and the message names what the pickle wanted to
import.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from cellscribe.errors import InputError
from cellscribe.families import torch_file
from cellscribe.families.pickle_machine import Forbidden, run
from cellscribe.families.plain_values import PLAIN

if TYPE_CHECKING:
    import torch

AGAIN = "copy or download it again"
PICKLE = 1 << 29
"""Bytes of a pickle, at most."""
SHOWN = 120
"""Letters of a reason or a name from a file that a message holds."""
POINTER = b"version https://git-lfs"


def read_pickle(path: str | Path) -> Any:
    """Read a pickle of plain containers, numbers, strings and NumPy values.

    Raises
    ------
    InputError
        The file is missing or damaged, or wants to import something else.
    """
    path = Path(path)
    with opened(path) as file:
        data = file.read(PICKLE + 1)
    if len(data) > PICKLE:
        raise InputError(
            f"{path}: more than {PICKLE:,} bytes, which no dictionary of genes has; is it another "
            "file?"
        )
    return load_pickle(data, str(path))


def load_pickle(data: bytes, where: str) -> Any:
    """Read a pickle from memory; see `read_pickle`."""
    return _guarded(lambda: run(data, PLAIN)[0], where, "a damaged pickle")


def read_torch(path: str | Path) -> Any:
    """Read a torch file of tensors, plain containers and NumPy scalars, on the CPU.

    Raises
    ------
    InputError
        The file is missing or damaged, or wants to import something else.
    """
    with opened(Path(path)) as file:
        return load_torch(file, str(path))


def load_torch(file: IO[bytes], where: str) -> Any:
    """Read a torch file from an opened, seekable one; see `read_torch`."""
    return _guarded(lambda: torch_file.read(file), where, "damaged or cut short")


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Read ``.safetensors``.

    Raises
    ------
    InputError
        The file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with opened(Path(path)):
        pass
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: damaged or cut short ({shown(error)}); {AGAIN}") from None


def opened(path: Path) -> IO[bytes]:
    """Open a file that must be the file itself, not a folder and not a pointer to it.

    Raises
    ------
    InputError
        It cannot be opened.
    """
    try:
        if path.is_dir():
            raise InputError(f"{path}: a folder, where a file should be; name the file")
        # pipes and devices could wait for ever
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: not a regular file; copy it to one")
        file = path.open("rb")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    start = file.read(len(POINTER))
    file.seek(0)
    if start == POINTER:
        file.close()
        raise InputError(
            f"{path}: a Git LFS pointer, not the file itself; fetch it with git lfs pull"
        )
    return file


def shown(error: object) -> str:
    """First line of a reason or a name that a file may have chosen, printable and short."""
    line = str(error).strip().partition("\n")[0]
    line = "".join(letter if letter.isprintable() else "?" for letter in line)
    return line if len(line) <= SHOWN else f"{line[:SHOWN]}..."


def _guarded(do: Callable[[], Any], where: str, what: str) -> Any:
    """Run a reader of a file; what it raises becomes one line."""
    try:
        return do()
    except Forbidden as error:
        raise InputError(
            f"{where}: refused, it holds more than tensors and plain values: reading it would "
            f"import {shown(error)}; ask its makers for the weights alone (a state dict, or "
            "safetensors)"
        ) from None
    except Exception as error:  # noqa: BLE001  (a damaged file raises whatever it happens upon)
        reason = shown(error) or type(error).__name__
        raise InputError(f"{where}: {what} ({reason}); {AGAIN}") from None
