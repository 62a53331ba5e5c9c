"""Several workers: started, heard, and started again when they die.

What makes their processes and brings what they tell is an `Engine`: this machine (`processes`) or
a Ray cluster (`ray_engine`). What becomes of a worker that ends is decided here, for both:

- one that dies has its shard freed at once, and a fresh one takes its place. A shard that goes on
  killing its workers is given up (`deaths`), so this comes to an end;
- one that dies before it has claimed anything is started again a few times, if it was killed; if it
  could not work (no model, another job's output, an error in the code), its place stays empty;
- when every place is empty and nobody has seen the end of the work, the first reason is raised;
- when every shard has ended, by what the workers told, those that wait for others are stopped;
  not where the word that one has died may still be on its way.
"""

from __future__ import annotations

import json
import queue
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from cellscribe.atlas.claims import DONE, FREE, claim_key
from cellscribe.atlas.deaths import record_death
from cellscribe.atlas.job import Job
from cellscribe.atlas.listener import FINISHED, Listener
from cellscribe.atlas.processes import ENGINE, End, Event, LocalEngine
from cellscribe.atlas.worker import clear_scratch
from cellscribe.callbacks import Log
from cellscribe.config import ShardOptions
from cellscribe.errors import InputError

FALSE_STARTS = 3
"""Workers in a row that may be killed in one place before they have claimed anything."""


class Engine(Protocol):
    """Starts workers somewhere, and brings what they tell."""

    n: int
    """Places for workers."""
    is_prompt: bool
    """Whether the death of a worker is heard before another takes its shard over."""
    events: queue.Queue[Event]
    """What they tell; of place `ENGINE`, why the engine itself cannot go on."""

    def start(self, place: int) -> None:
        """Start a worker in a place that is free."""

    def stop(self) -> None:
        """End all workers, and return when they have ended."""


@dataclass
class _Place:
    held: tuple[str, int] | None = None
    """The shard that its worker works on, and the number of its claim."""
    begun: bool = False
    """Whether its worker has claimed anything."""
    false_starts: int = 0


@dataclass
class _Told:
    """What workers told."""

    ended: set[str] = field(default_factory=set)
    """Shards that are done or have failed."""
    records: dict[str, dict[str, Any]] = field(default_factory=dict)


def launch(
    task: Mapping[str, Any], job: Job, sharing: ShardOptions, *, listener: Listener, log: Log
) -> dict[str, dict[str, Any]]:
    """Run workers until all shards have ended.

    Parameters
    ----------
    task
        What every worker reads: the program, the shards, the output, the options.
    job
        What they work on.
    sharing
        How many, where, and whether the first failure stops them.
    listener
        Hears what each of them tells.
    log
        Called with a line when a worker dies.

    Returns
    -------
    dict
        Records of the shards that these workers finished.

    Raises
    ------
    InputError
        No worker could work: the line of the first. With `sharing.strict`, why a shard failed.
    KeyboardInterrupt
        Ctrl-C, when the workers have ended.
    """
    engine: Engine
    if sharing.engine == "ray":
        from cellscribe.atlas.ray_engine import RayEngine

        engine = RayEngine(task, job, sharing, log)
    else:
        engine = LocalEngine(task, sharing.workers or 1, log)
    told = _Told()
    _oversee(engine, job, sharing.strict, listener, log, told, len(task["shards"]))
    return told.records


def _oversee(
    engine: Engine,
    job: Job,
    strict: bool,
    listener: Listener,
    log: Log,
    told: _Told,
    n_shards: int,
) -> None:
    """Keep an engine's workers at work until all shards have ended."""
    places = [_Place() for _ in range(engine.n)]
    at_work, finished, ends = engine.n, False, list[End]()
    try:
        for i in range(engine.n):
            engine.start(i)
        while at_work:
            i, heard = engine.events.get()
            if i == ENGINE:
                raise InputError(heard.how if isinstance(heard, End) else heard)
            if isinstance(heard, str):
                failure = _hear(places[i], heard, listener, told)
                if failure and strict:
                    raise InputError(failure)
                if engine.is_prompt and len(told.ended) == n_shards:
                    finished = True
                    break
                continue
            finished |= heard.kind == "finished"
            again = _end(places[i], heard, job, listener) and not finished
            if heard.kind in ("crashed", "killed"):
                held = places[i].held
                at = f" at {held[0]}" if held else ""
                then = "; another takes its place" if again else ""
                log(f"worker {i + 1} died{at} ({heard.how}){then}")
            if again:
                places[i] = _Place(false_starts=places[i].false_starts)
                engine.start(i)
            else:
                places[i].held = None
                at_work -= 1
                ends.append(heard)
    finally:
        engine.stop()
        _free(engine, places, job)
    if not finished:
        killed = ends[0].kind == "killed"
        raise InputError(f"no worker lives long enough: {ends[0].how}" if killed else ends[0].how)
    for refusal in dict.fromkeys(end.how for end in ends if end.kind == "refused"):
        log(f"a worker could not work, others did its part: {refusal}")


def _hear(place: _Place, line: str, listener: Listener, told: _Told) -> str:
    """Take in what a worker tells; return why its shard failed, if it did."""
    try:
        message: Mapping[str, Any] = json.loads(line)
    except ValueError:
        return ""
    if "claims" in message:
        place.held, place.begun = (str(message["claims"]), int(message["number"])), True
        place.false_starts = 0
        listener.on_claim(*place.held)
    elif "cells" in message:
        listener.on_cells(str(message["cells"]), int(message["done"]), int(message["total"]))
    elif "seen" in message:
        told.ended.update(message["seen"])
        listener.on_seen(message["seen"])
    elif "recorded" in message:
        told.records[str(message["recorded"])] = message["record"]
    elif "ended" in message:
        place.held = None
        told.ended.add(str(message["ended"]))
        listener.on_shard(str(message["ended"]), str(message["what"]))
        return "" if message["what"] == FINISHED else str(message["what"])
    return ""


def _end(place: _Place, end: End, job: Job, listener: Listener) -> bool:
    """Take in how a worker ended, and free its shard; tell whether another takes its place."""
    if end.kind not in ("crashed", "killed"):
        return False
    if place.held is not None:
        shard, number = place.held
        if job.state.read(f"{DONE}/{shard}") is not None:  # it had no time to tell
            listener.on_shard(shard, FINISHED)
        clear_scratch(job, claim_key(shard, number))
        record_death(job.state, shard, number, end.how)
        return True
    place.false_starts += 1
    return (place.begun or end.kind == "killed") and place.false_starts <= FALSE_STARTS


def _free(engine: Engine, places: list[_Place], job: Job) -> None:
    """Free the shards of workers that had to be killed, by what they told last."""
    while not engine.events.empty():
        i, heard = engine.events.get()
        if i != ENGINE and isinstance(heard, str):
            _hear(places[i], heard, Listener(), _Told())
    for place in places:
        if place.held is not None:
            job.state.write(claim_key(*place.held), FREE)
