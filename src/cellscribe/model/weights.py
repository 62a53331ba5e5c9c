"""Read a file of weights that may be damaged: whole, floating-point, finite, and as it was saved.

What the file claims of itself is compared before anything is allocated. While its tensors are
looked at, a thread computes its SHA-256, which is both the model's hash and what `checksums`
compares.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from cellscribe.config.files import check_file
from cellscribe.errors import InputError
from cellscribe.model.checksums import check_sum
from cellscribe.writing import hash_of

if TYPE_CHECKING:
    import torch

WEIGHTS = "model.safetensors"
FLOATS = ("F64", "F32", "F16", "BF16")
"""Types of weights, as safetensors names them."""
AGAIN = "copy or download the model again"
SHOWN = 5
"""Tensors that a message lists."""
Shapes = Mapping[str, tuple[int, ...]]


def read_weights(
    directory: Path, check: Callable[[Shapes, str], None] = lambda shapes, where: None
) -> tuple[dict[str, torch.Tensor], str]:
    """Tensors of a model directory, and the first 16 digits of the SHA-256 of their file.

    Parameters
    ----------
    directory
        Of the model.
    check
        Called with the shapes of all tensors and the file's name before any is read.

    Raises
    ------
    InputError
        The file is missing, damaged or not the one that was saved; a tensor is not of a
        floating-point type, or holds what is not a finite number; or `check` refuses the shapes.
    """
    path = directory / WEIGHTS
    check_file(path, fix="copy the whole model folder")
    # one thread for the hash, which is most of the time of a large file
    with ThreadPoolExecutor(1) as pool:
        hashing = pool.submit(hash_of, path)
        tensors = read_tensors(path, lambda shapes: check(shapes, str(path)))
        check_finite(tensors, str(path))
        try:
            digest = hashing.result()
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); {AGAIN}") from None
    check_sum(path, digest)
    return tensors, digest[:16]


def read_tensors(
    path: Path, check: Callable[[Shapes], None] = lambda shapes: None, *, fix: str = AGAIN
) -> dict[str, torch.Tensor]:
    """Read all tensors of a safetensors file; they stay where the file is mapped.

    Raises
    ------
    InputError
        The file is damaged, a tensor is not of a floating-point type, or `check` refuses.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            about = {name: file.get_slice(name) for name in names}
            for name, each in about.items():
                if each.get_dtype() not in FLOATS:
                    raise InputError(
                        f"{path}: {name} is of type {each.get_dtype()}, and weights are one of "
                        f"{', '.join(FLOATS)}; {fix}"
                    )
            check({name: tuple(each.get_shape()) for name, each in about.items()})
            return {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise InputError(f"{path}: damaged ({error}); {fix}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); {fix}") from None
    except (RuntimeError, MemoryError, OverflowError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: damaged ({error}); {fix}") from None


def check_finite(tensors: Mapping[str, torch.Tensor], where: str) -> None:
    """Refuse weights of which some are no numbers, or infinite.

    Raises
    ------
    InputError
        There are such; the line names the first five tensors and how many values of each.
    """
    import torch

    bad = {}
    for name, tensor in tensors.items():
        wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
        # a sum is not finite if one of its parts is not; only then are these counted
        if math.isfinite(tensor.sum(dtype=wide)):
            continue
        if n := int((~tensor.isfinite()).sum()):
            bad[name] = f"{n:,} of {tensor.numel():,} values of {name}"
    if bad:
        more = f" and {len(bad) - SHOWN:,} more tensors" if len(bad) > SHOWN else ""
        raise InputError(
            f"{where}: {', '.join(list(bad.values())[:SHOWN])}{more} are not finite (NaN or "
            f"infinite); the weights are damaged or did not learn, {AGAIN}"
        )
