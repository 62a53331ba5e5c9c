"""One worker: claims shards of a job, makes their results, and takes them in.

What a result is made of is a `Make`: a function from a shard and a path to the facts about what was
written there. A shard that fails is recorded with its line and does not stop the others.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellscribe.atlas.claims import CLAIM, DONE, Claim, Claims, Worker, alive, claim_key
from cellscribe.atlas.deaths import record_death, refuse_fatal
from cellscribe.atlas.fetch import Sources
from cellscribe.atlas.job import STATE, Job, source_identity
from cellscribe.atlas.listener import FINISHED, Listener
from cellscribe.atlas.records import as_record
from cellscribe.atlas.stores import Folder, Store
from cellscribe.callbacks import Progress, at_most_every
from cellscribe.cells.source_lists import Shard
from cellscribe.errors import InputError
from cellscribe.writing import OutputError, disk_errors, hash_of, remove, size_of

Make = Callable[[Shard, Path, Progress], dict[str, Any]]
"""Writes the result of a shard whose source is local to a path, reports (cells done, cells in all),
and returns facts about the result."""
REPORT_EVERY = 0.3
"""Seconds between two reports on the cells of a shard."""


@dataclass(frozen=True, kw_only=True)
class Joined:
    """A run that several workers were started for."""

    failed_before: Mapping[str, int]
    """`Claims.failed_before` when it began: a failure since then is not tried again."""
    begin: float | None = None
    """See `Claims.begin`; drawn by chance if not given."""


def work(
    job: Job,
    shards: Sequence[Shard],
    make: Make,
    *,
    patience: float,
    strict: bool = False,
    joined: Joined | None = None,
    spool_gb: float | None = None,
    listener: Listener,
) -> Claims:
    """Work on a job until every shard is finished or has failed.

    Parameters
    ----------
    job
        Where the results go.
    shards
        All shards of the job; other workers may have the same list.
    make
        Makes one result.
    patience
        Seconds without a pulse after which another worker is taken for dead.
    strict
        Raise the first failure.
    joined
        The run whose worker this is; None for a worker of its own.
    spool_gb
        Most room for copies of remote sources, of all workers on this machine.
    listener
        Hears of each claim, of its cells, and of each shard that this worker ends.

    Raises
    ------
    InputError
        With `strict`, why a shard failed; always, an output that cannot be written.
    """
    by_name = {shard.name: shard for shard in shards}
    known: set[str] = set()
    """Finished shards that the listener has heard of."""

    def on_done(done: set[str]) -> None:
        new = sorted((done & by_name.keys()) - known)
        known.update(new)
        if new:
            listener.on_seen(new)

    claims = Claims(job.state, by_name, Worker(), patience=patience, on_done=on_done)
    if joined is not None:
        claims.failed_before = dict(joined.failed_before)
        claims.begin = claims.begin if joined.begin is None else joined.begin
    with _scratch(job, claims.worker) as folder, Sources(shards, spool_gb) as sources:
        for claim in claims:
            shard = by_name[claim.shard]
            try:
                listener.on_claim(claim.shard, claim.number)
                if claim.number > 1:
                    clear_scratch(job, claim_key(claim.shard, claim.number - 1))
                with alive(claim, patience):
                    refuse_fatal(job.state, claim)
                    with sources.local(shard, by_name.get(claims.upcoming or "")) as local:
                        published = _do(job, shard, local, claim, make, folder, listener)
            except Exception as error:
                # who took the shard over, as we were away for long, removed our folder
                ours = folder.exists() or claim.holds()
                if ours and (_is_the_end(job, claim, error, listener) or strict):
                    raise
            except BaseException:
                claim.let_go()
                raise
            else:
                if published:
                    known.add(shard.name)
                    listener.on_shard(shard.name, FINISHED)
            finally:
                folder.mkdir(parents=True, exist_ok=True)
                for left in folder.iterdir():
                    remove(left)
    return claims


def _is_the_end(job: Job, claim: Claim, error: Exception, listener: Listener) -> bool:
    """Record why a shard was not done; tell whether the worker cannot go on."""
    if isinstance(error, OutputError):
        claim.let_go()
        return True
    if isinstance(error, InputError):
        claim.fail(str(error))
        listener.on_shard(claim.shard, str(error))
        return False
    # of the code or a library: the next worker may fare the same
    how = f"{type(error).__name__}: {error}".partition("\n")[0]
    record_death(job.state, claim.shard, claim.number, how)
    return True


def _do(
    job: Job,
    shard: Shard,
    local: Shard,
    claim: Claim,
    make: Make,
    folder: Path,
    listener: Listener,
) -> bool:
    """Make a shard's result and take it in; False if another worker was quicker."""
    began = time.perf_counter()
    source = source_identity(shard)
    made = folder / job.file(shard.name)
    progress = at_most_every(
        REPORT_EVERY, lambda done, total, what=None: listener.on_cells(shard.name, done, total)
    )
    try:
        facts = make(local, made, progress)
    except OutputError:
        raise
    except InputError:
        _refuse_changed(shard, source)  # which is then the better reason
        raise
    _refuse_changed(shard, source)
    record = {
        **facts,
        "file": job.file(shard.name),
        "source": source,
        "bytes": size_of(made),
        "sha256": hash_of(made),
        "seconds": round(time.perf_counter() - began, 3),
        "worker": f"{claim.worker.host}:{claim.worker.pid}",
    }
    if not claim.holds():
        return False
    job.store.take_in(job.file(shard.name), made)
    if claim.done(record):
        listener.on_record(shard.name, {**record, CLAIM: claim.number})
        return True
    # Another worker took the shard over in that very moment. If it read another state of the
    # source, our result lies under the name of its own.
    theirs = as_record(job.state.read(f"{DONE}/{shard.name}"))
    if theirs.get("sha256") != record["sha256"]:
        job.reopen(shard.name, theirs)
    return False


def _refuse_changed(shard: Shard, source: Mapping[str, Any]) -> None:
    if source_identity(shard) != source:
        raise InputError(f"{shard.path} changed while it was read; run again when it is whole")


@contextmanager
def _scratch(job: Job, worker: Worker) -> Iterator[Path]:
    """Make a folder for unfinished results: next to the finished ones where that is a folder."""
    folder = _scratch_of(job.store, worker.token)
    with disk_errors(folder, "free some space or set TMPDIR"):
        folder.mkdir(parents=True, mode=0o777 if isinstance(job.store, Folder) else 0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _scratch_of(store: Store, token: str) -> Path:
    if isinstance(store, Folder):
        return store.path / STATE / "work" / token
    return Path(tempfile.gettempdir(), f"cellscribe-{token}")


def clear_scratch(job: Job, claim: str) -> None:
    """Remove what a worker that died left unfinished, next to the results or on this machine.

    Parameters
    ----------
    job
        What it worked on.
    claim
        Key of its claim.
    """
    token = as_record(job.state.read(claim)).get("token")
    if isinstance(token, str) and token.isalnum():
        shutil.rmtree(_scratch_of(job.store, token), ignore_errors=True)
