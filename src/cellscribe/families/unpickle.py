"""Pickles of others, read without running their code.

A pickle may name any function to be called when it is read. These readers accept plain containers,
numbers, strings, NumPy scalars and arrays, and in torch files tensors. Anything else is refused;
the message names what the pickle wanted to import.
"""

from __future__ import annotations

import io
import pickle
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellscribe.errors import InputError

if TYPE_CHECKING:
    import torch

PLAIN = frozenset(
    {
        ("_codecs", "encode"),
        ("builtins", "bytearray"),
        ("builtins", "complex"),
        ("builtins", "frozenset"),
        ("builtins", "set"),
        ("collections", "OrderedDict"),
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy._core.numeric", "_frombuffer"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy.core.numeric", "_frombuffer"),
    }
)
"""Imports that a pickle of plain values may use: constructors that run no code of the file."""
AGAIN = "copy or download it again"


class RestrictedUnpickler(pickle.Unpickler):
    """Unpickles what `allowed` names, as (module, name), and nothing else."""

    allowed: frozenset[tuple[str, str]] = PLAIN

    def find_class(self, module: str, name: str) -> Any:
        """Import the class that a pickle names, if it is allowed."""
        # Python 2 had other names for the same modules.
        module = {"__builtin__": "builtins"}.get(module, module)
        if (module, name) not in self.allowed:
            raise Forbidden(f"{module}.{name}")
        return super().find_class(module, name)


class Forbidden(pickle.UnpicklingError):
    """A pickle names something that is not allowed."""


def read_pickle(path: str | Path) -> Any:
    """Read a pickle of plain containers, numbers, strings and NumPy values.

    Raises
    ------
    InputError
        The file is missing or damaged, or wants to import something else.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if data.startswith(b"version https://git-lfs"):
        raise InputError(f"{path}: a Git LFS pointer, not the file itself; fetch it with git lfs")
    try:
        return RestrictedUnpickler(io.BytesIO(data)).load()
    except Forbidden as error:
        raise InputError(_refusal(path, str(error))) from None
    except Exception as error:  # noqa: BLE001  (a damaged pickle raises whatever it happens upon)
        raise InputError(f"{path}: a damaged pickle ({error}); {AGAIN}") from None


def read_torch(path: str | Path) -> Any:
    """Read a torch file of tensors, plain containers and NumPy scalars, on the CPU.

    Raises
    ------
    InputError
        The file is missing or damaged, or wants to import something else.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with path.open("rb") as file:
        return load_torch(file, str(path))


def load_torch(file: Any, where: str) -> Any:
    """Read a torch file from an opened, seekable one; see `read_torch`."""
    import numpy as np
    import torch

    multiarray = np._core.multiarray  # type: ignore[attr-defined]
    kinds = [type(np.dtype(kind)) for kind in ("f8", "f4", "i2", "i4", "i8", "?")]
    scalars: list[Any] = [
        np.dtype,
        np.ndarray,
        *kinds,
        (multiarray.scalar, "numpy.core.multiarray.scalar"),
        (multiarray.scalar, "numpy._core.multiarray.scalar"),
        (multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),
        (multiarray._reconstruct, "numpy._core.multiarray._reconstruct"),
    ]
    try:
        with torch.serialization.safe_globals(scalars):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001  (a damaged file raises whatever it happens upon)
        wanted = re.search(r"(?:GLOBAL|global|Unsupported class) `?([\w.]+)`?", str(error))
        if isinstance(error, pickle.UnpicklingError) and wanted:
            raise InputError(_refusal(Path(where), wanted[1])) from None
        first = str(error).strip().partition("\n")[0]
        raise InputError(f"{where}: damaged or cut short ({first}); {AGAIN}") from None


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Read ``.safetensors``.

    Raises
    ------
    InputError
        The file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except SafetensorError as error:
        raise InputError(f"{path}: damaged or cut short ({error}); {AGAIN}") from None


def _refusal(path: Path, wanted: str) -> str:
    return (
        f"{path}: refused, it holds more than tensors and plain values: reading it would import "
        f"{wanted}; ask its makers for the weights alone (a state dict, or safetensors)"
    )
