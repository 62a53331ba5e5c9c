"""Run a verb over the shards of a job, in this process or in several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from cellscribe.atlas.claims import Claims, Worker
from cellscribe.atlas.cut import cut_shards, refuse_unknown_columns
from cellscribe.atlas.fetch import look_at_remote
from cellscribe.atlas.job import Job
from cellscribe.atlas.launch import launch
from cellscribe.atlas.listener import Listener
from cellscribe.atlas.memory import refuse_workers
from cellscribe.atlas.parts import columns_of
from cellscribe.atlas.worker import Joined, Make, work
from cellscribe.callbacks import Log, Progress
from cellscribe.cells.counts import open_counts
from cellscribe.cells.source_lists import Shard
from cellscribe.cells.tokenize import write_opened
from cellscribe.config import EmbedOptions, Options, ShardOptions, TokenizeOptions
from cellscribe.errors import is_spoken
from cellscribe.families.named import local_model
from cellscribe.inference.embed import Interrupted, embed_cells
from cellscribe.inference.inputs import HashedCounts, hash_of_blocks
from cellscribe.inference.obs_columns import check_columns
from cellscribe.inference.outputs import check_form, sidecar
from cellscribe.inference.session import Session, open_session
from cellscribe.model.metadata import find_checkpoint

T = TypeVar("T", EmbedOptions, TokenizeOptions)
FREE_OPTIONS = ("model", "device", "precision", "threads", "overwrite", "resume")
"""Options that are no part of what a job makes, or that the model's identity stands for."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What became of a run over many sources."""

    manifest: dict[str, Any]

    @property
    def failures(self) -> dict[str, str]:
        """Shards that failed, with the reason."""
        return {
            shard["name"]: shard["reason"]
            for shard in self.manifest["shards"]
            if shard["status"] == "failed"
        }

    @property
    def n_cells(self) -> int:
        """Cells of the finished shards."""
        return sum(shard.get("cells", 0) for shard in self.manifest["shards"])


def run_shards(
    shards: Sequence[Shard],
    out: str | Path,
    options: EmbedOptions | TokenizeOptions,
    sharing: ShardOptions,
    *,
    log: Log,
    listener: Listener | None = None,
    joined: Joined | None = None,
) -> Run:
    """Embed or tokenise every shard into a file of its own, as the kind of the options says.

    Parameters
    ----------
    shards
        From `find_shards`.
    out
        Folder or URL of the results.
    options
        Of each shard: `EmbedOptions` or `TokenizeOptions`.
    sharing
        How the shards are shared out.
    log
        Called with each line that a user should read.
    listener
        Hears how the run goes.
    joined
        See `work`. Who started the run cuts the sources before, and writes the manifest after.

    Returns
    -------
    Run
        Without shards, of one that is `joined`.

    Raises
    ------
    InputError
        The model or the output cannot be used; with `sharing.strict`, why a shard failed.
    Interrupted
        Ctrl-C: the claims of this process and of its workers are free, and what is done is kept.
    """
    try:
        return _run(shards, out, options, sharing, log, listener or Listener(), joined)
    except KeyboardInterrupt:
        raise Interrupted(
            "interrupted; what is done is kept, and the same command goes on from there"
        ) from None


def _run(
    shards: Sequence[Shard],
    out: str | Path,
    options: EmbedOptions | TokenizeOptions,
    sharing: ShardOptions,
    log: Log,
    listener: Listener,
    joined: Joined | None,
) -> Run:
    if isinstance(options, EmbedOptions):
        check_form(Path(f"NAME.{sharing.form}"), options.key_added, options.obs)
    shards = look_at_remote(shards)
    if isinstance(options, EmbedOptions) and joined is None:
        refuse_unknown_columns(shards, options)
    shards = cut_shards(shards, sharing.rows_per_shard, options, log)
    listener.on_start(len(shards))
    if sharing.in_other_processes:
        # once, before the workers
        options = replace(options, model=str(local_model(options.model)))
        model = find_checkpoint(options.model)
        refuse_workers(sharing.workers or 1, sum(f.stat().st_size for f in model.iterdir()))
        job = Job(out, None, f".{sharing.form}")
        claims = Claims(job.state, [shard.name for shard in shards], Worker())
        task = {
            "program": "cellscribe.atlas.child",
            "spoken": is_spoken(),
            "shards": [asdict(shard) for shard in shards],
            "out": str(out),
            "verb": _verb(options),
            "options": asdict(options),
            "sharing": asdict(sharing.of_one_worker()),
            "failed_before": claims.failed_before,
        }
        records = launch(task, job, sharing, listener=listener, log=log)
        return Run(manifest=job.write_manifest(shards, claims, records))
    with open_session(None, options, log=log) as session:
        identity = _identity(session, options)
        Job(out, None, f".{sharing.form}").refuse_results_of_others(shards)
        job = Job(out, identity, f".{sharing.form}")
        changed = job.reopen_changed(shards)
        if changed:
            log(f"changed since they were embedded, so embedded again: {', '.join(changed[:5])}")
        claims = work(
            job,
            shards,
            MAKERS[_verb(options)](session, options, sharing.strict, log),
            patience=sharing.patience,
            strict=sharing.strict,
            joined=joined,
            spool_gb=sharing.spool_gb,
            listener=listener,
        )
        if joined is not None:
            return Run(manifest={"shards": []})
        return Run(manifest=job.write_manifest(shards, claims))


def _verb(options: Options) -> str:
    return "tokenize" if isinstance(options, TokenizeOptions) else "embed"


def _identity(session: Session, options: EmbedOptions | TokenizeOptions) -> dict[str, Any]:
    """All that can change a result, but for the source."""
    settings = {key: value for key, value in asdict(options).items() if key not in FREE_OPTIONS}
    if isinstance(options, TokenizeOptions):
        return {"verb": "tokenize", **session.tokenizer(options.counts).about, **settings}
    embedder = session.embedder
    return {
        "verb": "embed",
        **embedder.identity,
        "pooling": embedder.pooling,
        "precision": embedder.precision,
        "device": embedder.device.type,
        "width": embedder.width,
        **settings,
    }


def _own(options: T, shard: Shard) -> T:
    """Options of one shard; its result is new, whatever lies there."""
    own = replace(options, overwrite=True)
    return own if shard.layer is None else replace(own, layer=shard.layer)


def _embed(session: Session, options: EmbedOptions, strict: bool, log: Log) -> Make:
    """Make the function that embeds one shard with a model that is loaded once."""

    def make(shard: Shard, path: Path, progress: Progress) -> dict[str, Any]:
        own = replace(_own(options, shard), resume=False)
        with open_counts(shard.path, options=own, log=log) as whole:
            counts = whole.part(*shard.rows) if shard.rows else whole
            if strict:
                check_columns(counts, options.obs)
            cells = session.map_genes(counts, shard.gene_key or options.gene_key)
            done = embed_cells(session, cells, path, own, progress=progress)
        # what the vectors are stands in the manifest, for all shards at once
        sidecar(path).unlink(missing_ok=True)
        return {
            "cells": done.n_cells,
            "warnings": done.warnings,
            "about": done.provenance,
            "counts_hash": done.counts_hash,
            **({"columns": columns_of(path)} if path.suffix == ".parquet" else {}),
        }

    return make


def _tokenize(session: Session, options: TokenizeOptions, strict: bool, log: Log) -> Make:
    """Make the function that tokenises one shard."""
    tokenizer = session.tokenizer(options.counts)

    def make(shard: Shard, path: Path, progress: Progress) -> dict[str, Any]:
        own = _own(options, shard)
        with open_counts(shard.path, options=own, log=log) as whole:
            counts = whole.part(*shard.rows) if shard.rows else whole
            cells = session.map_genes(counts, shard.gene_key or options.gene_key)
            with HashedCounts(counts) as hashed:
                done = write_opened(
                    hashed.counts,
                    path,
                    cells.genes,
                    tokenizer.tokenize,
                    front=tokenizer.front,
                    back=tokenizer.back,
                    about=tokenizer.about,
                    progress=progress,
                )
                counts_hash = hash_of_blocks(hashed.take(0, done.n_cells))
        return {
            "cells": done.n_cells,
            "tokens": done.n_tokens,
            "warnings": done.warnings,
            "counts_hash": counts_hash,
        }

    return make


MAKERS: Mapping[str, Callable[[Session, Any, bool, Log], Make]] = {
    "embed": _embed,
    "tokenize": _tokenize,
}
"""What a verb does with a shard."""
OPTIONS: Mapping[str, type[EmbedOptions | TokenizeOptions]] = {
    "embed": EmbedOptions,
    "tokenize": TokenizeOptions,
}
