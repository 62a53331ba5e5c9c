"""Weights by a closed formula: the same in every package, on every machine, from a name alone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import torch


def fill(name: str, shape: Sequence[int], scale: float = 0.05) -> torch.Tensor:
    """Fill a tensor with values in ``[-scale, scale)``, mixed from its name and each place.

    SplitMix64 of (first eight bytes of the SHA-256 of the name, little-endian) + place, its upper
    53 bits as a fraction: integer arithmetic alone, so every language gives the same bits.
    """
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    with np.errstate(over="ignore"):
        z = np.arange(math.prod(shape), dtype=np.uint64) + np.uint64(key)
        z = (z + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    fraction = (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return torch.from_numpy((scale * (2 * fraction - 1)).astype(np.float32)).reshape(tuple(shape))
