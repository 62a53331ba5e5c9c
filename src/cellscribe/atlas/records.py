"""What became of the shards of a job, found with few requests however many shards there are.

Three lists tell how each of them stands. Its record is read only if the last manifest does not hold
it already. A record that is taken back leaves a key ``reopened/SHARD.CLAIM``, so that nobody takes
it from a manifest that still has it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from cellscribe.atlas.claims import CLAIM, DONE, FAILED
from cellscribe.atlas.stores import Store, numbers
from cellscribe.cells.source_lists import Shard

REOPENED = "reopened"
READERS = 32
"""Keys read at once: from a bucket each takes some tens of milliseconds."""


@dataclass(frozen=True)
class Standing:
    """How the shards of a job stand; those of other lists of sources in the folder, too."""

    done: frozenset[str]
    """Shards with a result."""
    reopened: frozenset[str]
    """Records that were taken back, as ``SHARD.CLAIM``."""
    failed: Mapping[str, int]
    """Number of the last claim that failed, of each shard that has failed."""

    def digest(self, shards: Sequence[Shard]) -> str:
        """Tell how these shards stand from how they or others stood before."""
        rows = [(s.name, s.path, s.name in self.done, self.failed.get(s.name)) for s in shards]
        return hashlib.sha256(json.dumps([rows, sorted(self.reopened)]).encode()).hexdigest()


def standing(state: Store) -> Standing:
    """List how the shards of a job stand."""
    done, reopened = (
        frozenset(key.rpartition("/")[2] for key in state.keys(folder))
        for folder in (DONE, REOPENED)
    )
    return Standing(done=done, reopened=reopened, failed=numbers(state, FAILED))


def reopened_key(shard: str, record: Mapping[str, Any]) -> str:
    """Key of a record that is taken back."""
    return f"{REOPENED}/{shard}.{record.get(CLAIM)}"


def read_records(
    state: Store, names: Iterable[str], stand: Standing, known: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Read the records of those shards that are done.

    Parameters
    ----------
    state
        Where the workers meet.
    names
        Shards.
    stand
        From `standing`.
    known
        Records of an earlier manifest.

    Returns
    -------
    dict
        Record of each; none for one whose record is damaged or gone meanwhile.
    """
    found: dict[str, dict[str, Any]] = {}
    unknown = []
    for name in names:
        if name in stand.done:
            record = known.get(name)
            if record and reopened_key(name, record).rpartition("/")[2] not in stand.reopened:
                found[name] = dict(record)
            else:
                unknown.append(name)
    contents = read_many(state, [f"{DONE}/{name}" for name in unknown])
    for name, content in zip(unknown, contents, strict=True):
        if record := as_record(content):
            found[name] = record
    return found


def read_failures(state: Store, names: Iterable[str], stand: Standing) -> dict[str, str]:
    """Read why those shards failed that have failed and have no result."""
    failed = [name for name in names if name in stand.failed and name not in stand.done]
    keys = [f"{FAILED}/{name}/{stand.failed[name]:05}" for name in failed]
    contents = read_many(state, keys)
    return {
        name: (content or b"").decode("utf-8", "replace")
        for name, content in zip(failed, contents, strict=True)
    }


def read_many(store: Store, keys: Sequence[str]) -> list[bytes | None]:
    """Read many keys at once, in their order."""
    if len(keys) < 2:
        return [store.read(key) for key in keys]
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(store.read, keys))


def as_record(content: bytes | None) -> dict[str, Any]:
    """Take a JSON object from what is under a key; {} if it is not there or not whole."""
    try:
        found = json.loads(content or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
