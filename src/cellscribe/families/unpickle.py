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
from cellscribe.families.source import AGAIN, first_line, opened

if TYPE_CHECKING:
    import torch

PICKLE = 1 << 29
"""Bytes of a pickle, at most."""


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
        raise InputError(f"{path}: damaged or cut short ({first_line(error)}); {AGAIN}") from None


def _guarded(do: Callable[[], Any], where: str, what: str) -> Any:
    """Run a reader of a file; what it raises becomes one line."""
    try:
        return do()
    except Forbidden as error:
        raise InputError(
            f"{where}: refused, it holds more than tensors and plain values: reading it would "
            f"import {first_line(error)}; ask its makers for the weights alone (a state dict, or "
            "safetensors)"
        ) from None
    except Exception as error:  # noqa: BLE001  (a damaged file raises whatever it happens upon)
        reason = first_line(error) or type(error).__name__
        raise InputError(f"{where}: {what} ({reason}); {AGAIN}") from None
