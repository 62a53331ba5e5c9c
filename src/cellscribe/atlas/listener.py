"""Who is told how a run goes: a bar, a notebook, the process that started a worker."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

FINISHED = "done"


class Listener:
    """Hears of a run while it goes on; each method does nothing unless it is overridden.

    What it is called with is text and numbers, so that it can be passed on between processes.
    """

    def on_start(self, shards: int) -> None:
        """Hear how many shards there are."""

    def on_claim(self, shard: str, number: int) -> None:
        """Hear of the n-th claim of a shard, before the work on it begins."""

    def on_cells(self, shard: str, done: int, total: int) -> None:
        """Hear how many cells of a shard at work are done, a few times a second at most."""

    def on_shard(self, shard: str, what: str) -> None:
        """Hear of a shard that this run has ended: `FINISHED`, or the reason why it failed."""

    def on_record(self, shard: str, record: Mapping[str, Any]) -> None:
        """Hear what is recorded of a shard that this run has finished, before `on_shard`."""

    def on_seen(self, shards: Collection[str]) -> None:
        """Hear of shards that were finished before this run, or by workers of other runs."""
