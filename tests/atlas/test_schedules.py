"""Any order of crashes, sleeps, lost and repeated requests: each shard is done exactly once.

Workers are threads of which one runs at a time: at each request to the store a seeded scheduler
decides who goes on, who is killed, who sleeps, and whether the request fails, before it is carried
out or after. Clocks and sleep are the scheduler's.
"""

from __future__ import annotations

import hashlib
import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cellscribe.atlas import claims as claims_room
from cellscribe.atlas.claims import Claim, Claims, Worker
from cellscribe.atlas.job import Job
from cellscribe.atlas.listener import Listener
from cellscribe.atlas.worker import _do
from cellscribe.cells.source_lists import Shard
from cellscribe.errors import InputError

SHARDS = [f"s{i}" for i in range(4)]
PATIENCE = 10.0
STEPS = 30_000


class KilledError(BaseException):
    """What a killed worker ends by."""


class Player:
    """A worker's thread, which waits for its turn."""

    def __init__(self, name: str, life: Callable[[Player], None], clock: float) -> None:
        self.name, self.clock = name, clock
        """Its clock is hours from that of the others."""
        self.go, self.waits = threading.Semaphore(0), threading.Semaphore(0)
        self.over, self.error = False, None
        self.asleep_until = 0.0

        def run() -> None:
            self.go.acquire()
            try:
                life(self)
            except KilledError:
                pass
            except BaseException as error:  # noqa: BLE001, as it is raised in the test
                self.error = error
            finally:
                self.over = True
                self.waits.release()

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()


class World:
    """The store that all see, time, and what happened."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now, self.content = 0.0, dict[str, bytes]()
        self.players: list[Player] = []
        self.here: Player | None = None
        self.doomed: set[str] = set()
        self.executions = Counter[str]()
        self.claimed = set[tuple[str, int]]()
        self.recorded = Counter[str]()
        self.kills = self.naps = self.faults = self.changes = self.reopened = 0
        self.faulty = False

    def turn(self) -> None:
        """Give the turn back, and wait for the next."""
        player = self.here
        assert player is not None
        player.waits.release()
        player.go.acquire()
        if player.name in self.doomed:
            raise KilledError

    def play(self, deaths: int, naps: int, faults: int, sources: list[Path], changes: int) -> None:
        """Let the workers run until all have ended."""
        for _ in range(STEPS):
            alive = [p for p in self.players if not p.over]
            if not alive:
                return
            self.now += self.rng.random() * 0.2
            awake = [p for p in alive if p.asleep_until <= self.now]
            if not awake:
                self.now = min(p.asleep_until for p in alive)
                continue
            player = self.rng.choice(awake)
            luck = self.rng.random()
            if luck < 0.02 and self.kills < deaths:
                self.kills += 1
                self.doomed.add(player.name)
            elif luck < 0.06 and self.naps < naps:
                self.naps += 1  # stopped, or cut off, for longer than others are patient
                player.asleep_until = self.now + PATIENCE * self.rng.choice((0.5, 1.5, 4))
                continue
            elif luck < 0.09 and self.changes < changes:
                self.changes += 1
                self.rng.choice(sources).write_bytes(b"1" * (1 + self.changes))
            self.here, self.faulty = player, luck > 0.97 and self.faults < faults
            player.go.release()
            player.waits.acquire()
            if player.error is not None:
                raise player.error
        raise AssertionError("the workers do not come to an end")


class Remote:
    """A store whose requests may be lost, or carried out and not answered."""

    def __init__(self, world: World) -> None:
        self.world = world

    name = "remote"

    def _ask(self, carry_out: Callable[[], object]) -> object:
        world = self.world
        world.turn()
        if world.faulty:
            world.faults += 1
            if world.rng.random() < 0.5:
                carry_out()
            raise InputError("the store does not answer")
        return carry_out()

    def create(self, key: str, data: bytes) -> bool:
        """As a bucket's: asked again after an answer that was lost, it knows its own content."""
        content = self.world.content

        def carry_out() -> bool:
            there = content.setdefault(key, data)
            return there is data or there == data

        for _ in range(5):
            try:
                return bool(self._ask(carry_out))
            except InputError:
                continue
        return bool(self._ask(carry_out))

    def write(self, key: str, data: bytes) -> None:
        self._ask(lambda: self.world.content.update({key: data}))

    def read(self, key: str) -> bytes | None:
        return self._ask(lambda: self.world.content.get(key))  # type: ignore[return-value]

    def keys(self, folder: str) -> Iterator[str]:
        found = self._ask(lambda: [k for k in self.world.content if k.startswith(f"{folder}/")])
        return iter(found)  # type: ignore[call-overload,no-any-return]

    def delete(self, key: str) -> None:
        self._ask(lambda: self.world.content.pop(key, None))
        self.world.reopened += key.startswith("done/")

    def take_in(self, key: str, path: Path) -> None:
        self._ask(lambda: self.world.content.update({key: path.read_bytes()}))


def one_life(world: World, folder: Path) -> Callable[[Player], None]:
    """What a worker does, as `atlas.worker.work`, with its pulse between the steps of its work."""
    job = Job.__new__(Job)
    job.state = job.store = Remote(world)  # type: ignore[assignment]
    job.suffix = ".parquet"

    def live(player: Player) -> None:
        while True:
            try:
                claim_all(player)
                return
            except InputError:  # the process ends, and is started again
                continue

    def claim_all(player: Player) -> None:
        worker = Worker(host=player.name, pid=1, since=0, token=str(world.rng.random()))
        clock = lambda: player.clock + world.now
        claims = Claims(job.state, SHARDS, worker, patience=PATIENCE, clock=clock)
        (folder / player.name).mkdir(exist_ok=True)
        for claim in claims:
            world.executions[claim.shard] += 1
            assert (claim.shard, claim.number) not in world.claimed
            assert f"done/{claim.shard}" not in world.content
            world.claimed.add((claim.shard, claim.number))
            shard = Shard(name=claim.shard, path=str(folder / claim.shard))

            def make(shard: Shard, path: Path, progress: object, claim: Claim = claim) -> Any:
                seen = Path(shard.path).read_bytes()
                for _ in range(world.rng.randrange(1, 4)):
                    for _ in range(world.rng.randrange(8)):
                        world.turn()
                    with suppress(InputError):
                        claim.pulse()
                path.write_bytes(seen)
                return {}

            try:
                if _do(job, shard, shard, claim, make, folder / player.name, Listener()):
                    world.recorded[claim.shard] += 1
            except InputError as error:
                claim.fail(str(error))

    return live


def play(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    seed: int,
    *,
    deaths: int = 0,
    naps: int = 0,
    faults: int = 0,
    changes: int = 0,
) -> World:
    """Let workers run through misfortune, and then one through none."""
    world = World(seed)

    def sleep(seconds: float) -> None:
        assert world.here is not None
        world.here.asleep_until = world.now + seconds
        world.turn()

    clocks = SimpleNamespace(sleep=sleep, monotonic=None, time=None)
    monkeypatch.setattr(claims_room, "time", clocks)
    for shard in SHARDS:
        (folder / shard).write_bytes(b"1")
    life = one_life(world, folder)
    hours = (-1e5, 0.0, 1e5)
    world.players = [Player(f"w{i}", life, world.rng.choice(hours)) for i in range(deaths + 3)]
    world.play(deaths, naps, faults, [folder / shard for shard in SHARDS], changes)
    world.players = [Player("last", life, 0.0)]
    world.play(0, 0, 0, [], 0)
    return world


def check(world: World) -> None:
    for shard in SHARDS:
        record = json.loads(world.content[f"done/{shard}"])
        there = hashlib.sha256(world.content[f"{shard}.parquet"]).hexdigest()
        assert record["sha256"] == there


@pytest.mark.parametrize("seed", range(60))
def test_each_shard_is_done_exactly_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seed: int
) -> None:
    world = play(monkeypatch, tmp_path, seed, deaths=3, naps=4, faults=6)
    check(world)
    assert all(world.recorded[shard] <= 1 for shard in SHARDS)
    # every execution but the first has a death, a nap or a fault as its reason
    extra = sum(world.executions.values()) - len(SHARDS)
    assert extra <= world.kills + world.naps + world.faults


@pytest.mark.parametrize("seed", range(60))
def test_no_result_lies_under_the_record_of_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seed: int
) -> None:
    """Also if sources change while workers sleep that have read them as they were."""
    check(play(monkeypatch, tmp_path, seed, naps=8, changes=8))


@pytest.mark.parametrize("seed", range(20))
def test_without_misfortune_nothing_is_done_twice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seed: int
) -> None:
    world = play(monkeypatch, tmp_path, seed)
    assert world.executions == dict.fromkeys(SHARDS, 1)
    assert world.recorded == dict.fromkeys(SHARDS, 1)
    check(world)
