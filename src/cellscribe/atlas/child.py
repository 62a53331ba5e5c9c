"""The process of one of several workers: reads its task from standard input, tells what it does.

``python -m cellscribe.atlas.child`` is started by `launch` and by nobody else.
"""

from __future__ import annotations

import json
import signal
import sys
from typing import Any

from cellscribe.atlas.claims import Claim
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
            on_claim=_claimed,
            on_shard=lambda name, what: _tell(ended=name, what=what),
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


def _claimed(claim: Claim) -> None:
    _tell(claims=claim.shard, number=claim.number)


def _tell(**message: Any) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    sys.exit(main())
