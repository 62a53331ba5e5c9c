"""The process of one of several workers: reads its task from standard input, tells what it does.

``python -m cellscribe.atlas.child`` is started by `processes` and by nobody else. The task is one
line; when the input ends after it, the worker lets go of its shard and ends.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext, suppress
from typing import Any, NoReturn

from cellscribe.atlas.listener import Listener
from cellscribe.atlas.processes import GRACE, REFUSED
from cellscribe.cells.source_lists import Shard
from cellscribe.config import ShardOptions
from cellscribe.errors import InputError, spoken_by


def run_verb(task: dict[str, Any], shards: list[Shard]) -> None:
    """Run the task's verb over its shards, as one worker."""
    from cellscribe.atlas.run import OPTIONS, run_shards
    from cellscribe.atlas.worker import Joined
    from cellscribe.cells.pipeline import use_cores

    use_cores(task["threads"])
    run_shards(
        shards,
        task["out"],
        OPTIONS[task["verb"]](**task["options"]),
        ShardOptions(**task["sharing"]),
        listener=Teller(),
        joined=Joined(failed_before=task["failed_before"], begin=task.get("begin")),
        log=lambda line: print(line, file=sys.stderr, flush=True),
    )


def main(run: Callable[[dict[str, Any], list[Shard]], None] = run_verb) -> int:
    """Work until all shards are finished; 2 and a line on stderr if that cannot be."""
    # whoever started us may ignore or block them: a shell does for a command in the background,
    # and Ray for its actors
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        task: dict[str, Any] = json.loads(sys.stdin.readline())
        threading.Thread(target=_end_with_input, daemon=True).start()
        shards = [Shard(**{**shard, "rows": _pair(shard["rows"])}) for shard in task["shards"]]
        with spoken_by("the command line") if task.get("spoken") else nullcontext():
            run(task, shards)
    except InputError as error:
        print(error, file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        return REFUSED
    return 0


def _end_with_input() -> None:
    """Interrupt the work when standard input ends, and end it if it does not heed that."""
    while os.read(0, 1 << 16):  # not sys.stdin, whose lock Python wants when it ends
        continue
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    time.sleep(GRACE)
    os.kill(os.getpid(), signal.SIGKILL)


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

    def on_record(self, shard: str, record: Mapping[str, Any]) -> None:
        """Tell what is recorded of a shard."""
        _tell(recorded=shard, record=record)

    def on_seen(self, shards: Collection[str]) -> None:
        """Tell of shards that others have finished."""
        _tell(seen=list(shards))


def _tell(**message: Any) -> None:
    try:
        print(json.dumps(message), flush=True)
    except BrokenPipeError:  # nobody listens any more: the same as being asked to end
        raise KeyboardInterrupt from None


def end(status: int) -> NoReturn:
    """End the process without taking its modules down, which would keep a core busy for a while."""
    with suppress(OSError):  # nobody reads any more
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    end(main())
