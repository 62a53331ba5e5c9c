"""One run from file to file on one object of a bucket, by the contract of the workers (`claims`).

While a run is at work its claim lies under ``.cellscribe/single`` next to the object, with a pulse.
Who comes second waits for a sign of life: one, and it is told who is at work; none for as long as
workers are patient, and the other is taken for dead. At the end nothing is left.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cellscribe.atlas.claims import (
    CLAIMS,
    PATIENCE,
    PULSES,
    Claim,
    Claims,
    Worker,
    alive,
    claim_key,
    highest,
)
from cellscribe.atlas.job import STATE
from cellscribe.atlas.records import as_record
from cellscribe.buckets.bucket import Bucket, NotSharedError, split_object
from cellscribe.buckets.credentials import WEB
from cellscribe.callbacks import Log
from cellscribe.errors import InputError


@contextmanager
def remote_lease(out: str | Path, log: Log, patience: float = PATIENCE) -> Iterator[None]:
    """Hold a remote output until the block ends; of a local one nothing is done.

    Parameters
    ----------
    out
        Path or URL of the output.
    log
        Called with a line where one has to wait, or a bucket cannot keep two runs apart.
    patience
        Seconds without a sign of life after which another run is taken for dead.

    Raises
    ------
    InputError
        Another run is at work on it, or the bucket refuses.
    """
    scheme, remote, _ = str(out).partition("://")
    if not remote or scheme in WEB:
        yield
        return
    root, key = split_object(str(out))
    parent, _, name = key.rpartition("/")
    store = Bucket("/".join(part for part in (root, parent, STATE, "single") if part))
    try:
        claim = _take(store, name, str(out), log, patience)
    except NotSharedError:
        log(f"{out}: the bucket has no conditional put, so nothing keeps a second run off it")
        yield
        return
    try:
        with alive(claim, patience):
            yield
    finally:
        if claim.holds():
            for old in list(store.keys(f"{CLAIMS}/{name}")):
                store.delete(old)


def _take(store: Bucket, name: str, out: str, log: Log, patience: float) -> Claim:
    claims, first = Claims(store, [name], Worker(), patience=patience), b""
    while True:
        claim = claims.take(name)
        if claim is not None:
            # the keys of one that has ended since are gone, and with them what ours follows
            if claim.number == 1 or store.read(claim_key(name, claim.number - 1)) is not None:
                return claim
            store.delete(claim.key)
            continue
        content = store.read(claim_key(name, highest(store, name))) or b""
        holder = as_record(content)
        who = f"host {holder.get('host')}, pid {holder.get('pid')}"
        if first and content and content != first:
            raise InputError(
                f"{out} is being written by another process ({who}); wait for it, or name another "
                "output"
            )
        if not first:
            log(f"{out} is claimed by another process ({who}); looking whether it is at work")
            first = content
        time.sleep(patience / PULSES)
