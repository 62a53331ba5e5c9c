"""The process of one of several workers: reads its task from standard input, tells what it does.

``python -m cellscribe.atlas.child`` is started by `launch` and by nobody else.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Collection
from typing import Any

from cellscribe.atlas.listener import Listener
from cellscribe.atlas.run import OPTIONS, run_shards
from cellscribe.cells.source_lists import Shard
from cellscribe.config import ShardOptions
from cellscribe.errors import InputError


def main() -> int:
    """Work until all shards are finished; 2 and a line on stderr if that cannot be."""
    task: dict[str, Any] = json.load(sys.stdin)
    given: dict[str, Any] = task["options"]
    if given.get("threads", 1) is None:  # the part of the cores that is this worker's
        given["threads"] = task["threads"]
    shards = [Shard(**{**shard, "rows": _pair(shard["rows"])}) for shard in task["shards"]]
    try:
        run_shards(
            shards,
            task["out"],
            OPTIONS[task["verb"]](**given),
            ShardOptions(**task["sharing"]),
            listener=Teller(),
            log=lambda line: print(line, file=sys.stderr, flush=True),
        )
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 2
    return 0


def _pair(rows: list[int] | None) -> tuple[int, int] | None:
    return (rows[0], rows[1]) if rows else None


class Teller(Listener):
    """Tells the process that started this one all it hears, a JSON line each."""

    def on_claim(self, shard: str, number: int) -> None:
        """Tell of a claim."""
        _tell(claims=shard, number=number)

    def on_cells(self, shard: str, done: int, total: int) -> None:
        """Tell of the cells of a shard."""
        _tell(cells=shard, done=done, total=total)

    def on_shard(self, shard: str, what: str) -> None:
        """Tell of the end of a shard."""
        _tell(ended=shard, what=what)

    def on_seen(self, shards: Collection[str]) -> None:
        """Tell of shards that others have finished."""
        _tell(seen=list(shards))


def _tell(**message: Any) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    sys.exit(main())
