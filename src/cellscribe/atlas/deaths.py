"""Shards that kill their workers.

A worker that is killed, for want of memory most often, cannot say that its shard was the reason.
But its claim stays as it was, or holds how it died where somebody saw that (`record_death`); a
worker that stops by itself leaves its claim free. So the claims of a shard tell how often it has
killed a worker, over all machines, and `refuse_fatal` records it as failed after `DEATHS` of them
in place of giving it to the next worker.
"""

from __future__ import annotations

import json

from cellscribe.atlas.claims import FAILED, FREE, Claim, claim_key
from cellscribe.atlas.stores import Store
from cellscribe.errors import InputError

DEATHS = 3
"""Workers that a shard may kill in one try; it is tried again by those who come later."""
UNSEEN = "no sign of life"
"""How a worker died whose death nobody saw."""
KILLED = ("signal 9", UNSEEN)
"""Deaths for which want of memory is the likely reason."""


def record_death(store: Store, shard: str, number: int, how: str) -> None:
    """Record that the worker of a shard's n-th claim died, which frees the shard at once.

    Parameters
    ----------
    store
        Where the workers meet.
    shard, number
        The claim.
    how
        Such as "signal 9".
    """
    store.write(claim_key(shard, number), json.dumps({"died": how}).encode())


def deaths_before(store: Store, shard: str, number: int) -> list[str]:
    """List how the workers died that had a shard since it last failed, before its n-th claim."""
    found: list[str] = []
    for earlier in range(number - 1, 0, -1):
        if store.read(f"{FAILED}/{shard}/{earlier:05}") is not None:
            break
        content = store.read(claim_key(shard, earlier)) or FREE
        if content != FREE:
            found.insert(0, _how(content))
    return found


def _how(content: bytes) -> str:
    try:
        return str(json.loads(content).get("died", UNSEEN))
    except (ValueError, AttributeError):
        return UNSEEN


def refuse_fatal(store: Store, claim: Claim) -> None:
    """Refuse a shard that has killed its workers.

    Raises
    ------
    InputError
        `DEATHS` of them, or more, have died at it.
    """
    deaths = deaths_before(store, claim.shard, claim.number)
    if len(deaths) < DEATHS:
        return
    advice = "run again to try it once more"
    if deaths[-1] in KILLED or "memory" in deaths[-1]:
        advice = "perhaps for lack of memory; give fewer --workers, or cut it with --rows-per-shard"
    raise InputError(f"its worker died {len(deaths)} times ({deaths[-1]}), {advice}")
