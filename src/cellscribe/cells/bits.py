"""Random numbers that depend on a state alone: SplitMix64 (Steele et al. 2014).

Masks, bins and the order of a corpus are drawn from it: the same seed gives the same numbers in
any batch, thread and process, and no release of NumPy can change them.

Everything here is compiled and may be called from compiled code. A caller's cache does not notice
a change of this file: remove ``__pycache__`` after one.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

U64 = np.uint64
INCREMENT = U64(0x9E3779B97F4A7C15)
"""What a state advances by."""
compiled: Any = numba.njit(nogil=True, cache=True)


@compiled
def scramble(x):  # type: ignore[no-untyped-def]
    """Scramble 64 bits, a number or an array of them: SplitMix64's finaliser."""
    x = (x ^ (x >> U64(30))) * U64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> U64(27))) * U64(0x94D049BB133111EB)
    return x ^ (x >> U64(31))


@compiled
def mix(x):  # type: ignore[no-untyped-def]
    """Advance a state and scramble it: states that differ by one give unrelated numbers."""
    return scramble(x + INCREMENT)


@compiled
def draw(state):  # type: ignore[no-untyped-def]
    """Next state, and 32 random bits."""
    state += INCREMENT
    return state, scramble(state) >> U64(32)


@compiled
def below(bits, n):  # type: ignore[no-untyped-def]
    """Turn 32 random bits into a number below `n`; the bias is at most n / 2^32."""
    return np.int64((bits * U64(n)) >> U64(32))
