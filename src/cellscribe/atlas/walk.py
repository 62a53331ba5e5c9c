"""The order in which a worker tries the shards that were open when it last looked.

It goes along the list from a place of its own, so that workers seldom meet and one keeps to the
rows of one file. Where another is or was before it, it goes on at a place drawn by chance.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

COLLISIONS, LOOKS = 8, 250
"""Refusals after which the list is read anew; and one more for each so many finished shards, which
cost as much to list as one shard to look at, in a folder and on SeaweedFS."""


def most_refusals(n_done: int) -> int:
    """Shards that may be refused before the list is read anew, when so many are finished."""
    return COLLISIONS + n_done // LOOKS


class Walk:
    """Shards, each given once, until too many of them have been refused.

    Parameters
    ----------
    shards
        Those that are tried; the list is emptied.
    at
        Where to begin, as a part of the list, from 0 to 1.
    refusals
        So many of them, and the list is not worth following.
    chance
        Draws the places.
    """

    def __init__(self, shards: list[str], at: float, refusals: int, chance: random.Random) -> None:
        self._left, self._refusals, self._chance = shards, refusals, chance
        self._at = min(int(at * len(shards)), len(shards) - 1)

    def __iter__(self) -> Iterator[str]:
        while self._left and self._refusals > 0:
            yield self._left.pop(self._at)
            self._at %= len(self._left) or 1

    @property
    def upcoming(self) -> str | None:
        """The shard that comes next, unless the last one is refused."""
        return self._left[self._at % len(self._left)] if self._left else None

    def refused(self) -> None:
        """Go on elsewhere: the shard given last is another worker's."""
        self._refusals -= 1
        # the place goes through `%=` once more, which does no harm
        self._at = self._chance.randrange(len(self._left)) if self._left else 0
