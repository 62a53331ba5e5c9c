"""Embed the shards of a job, in this process or in several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cellscribe.atlas.claims import Claim, Claims, Worker
from cellscribe.atlas.job import Job
from cellscribe.atlas.launch import launch
from cellscribe.atlas.sources import Shard
from cellscribe.atlas.worker import Make, OnShard, work
from cellscribe.callbacks import Log
from cellscribe.cells.counts import open_counts
from cellscribe.config import EmbedOptions, ShardOptions
from cellscribe.inference.embed import embed_cells
from cellscribe.inference.outputs import sidecar
from cellscribe.inference.session import Session, open_session

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


def embed_shards(
    shards: Sequence[Shard],
    out: str | Path,
    model: str | Path,
    options: EmbedOptions,
    sharing: ShardOptions,
    *,
    on_shard: OnShard,
    log: Log,
    on_claim: Callable[[Claim], None] = lambda claim: None,
) -> Run:
    """Embed every shard into a file of its own.

    Parameters
    ----------
    shards
        From `find_shards`.
    out
        Folder or URL of the results.
    model
        Name or directory.
    options
        Of each embedding.
    sharing
        How the shards are shared out.
    on_shard
        Called for every shard that ends, with its name and "done" or the reason why it failed.
    log
        Called with each line that a user should read.
    on_claim
        Called with each claim of this process.

    Raises
    ------
    InputError
        The model or the output cannot be used; with `sharing.strict`, why a shard failed.
    """
    if sharing.workers > 1:
        job = Job(out, None, f".{sharing.form}")
        task = {
            "shards": [asdict(shard) for shard in shards],
            "out": str(out),
            "model": str(model),
            "options": asdict(options),
            "sharing": asdict(replace(sharing, workers=1)),
        }
        claims = Claims(job.state, [shard.name for shard in shards], Worker())
        launch(task, job, sharing, on_shard=on_shard, log=log)
        return Run(manifest=job.write_manifest(shards, claims))
    with open_session(model, options, log=log) as session:
        job = Job(out, _identity(session, options), f".{sharing.form}")
        changed = job.reopen_changed(shards)
        if changed:
            log(f"changed since they were embedded, so embedded again: {', '.join(changed[:5])}")
        claims = work(
            job,
            shards,
            _maker(session, options, log),
            patience=sharing.patience,
            strict=sharing.strict,
            on_claim=on_claim,
            on_shard=on_shard,
        )
        return Run(manifest=job.write_manifest(shards, claims))


def _identity(session: Session, options: EmbedOptions) -> dict[str, Any]:
    embedder = session.embedder
    settings = {key: value for key, value in asdict(options).items() if key not in FREE_OPTIONS}
    return {
        "verb": "embed",
        **embedder.identity,
        "pooling": embedder.pooling,
        "precision": embedder.precision,
        "device": embedder.device.type,
        "width": embedder.width,
        **settings,
    }


def _maker(session: Session, options: EmbedOptions, log: Log) -> Make:
    """Make the function that embeds one shard with a model that is loaded once."""

    def make(shard: Shard, path: Path) -> dict[str, Any]:
        own = replace(options, overwrite=True, resume=False)
        if shard.layer is not None:
            own = replace(own, layer=shard.layer)
        with open_counts(shard.path, options=own, log=log) as counts:
            cells = session.map_genes(counts, shard.gene_key or options.gene_key)
            done = embed_cells(session, cells, path, own)
        # what the vectors are stands in the manifest, for all shards at once
        sidecar(path).unlink(missing_ok=True)
        return {
            "cells": done.n_cells,
            "width": done.width,
            "dtype": options.dtype,
            "warnings": done.warnings,
            "about": done.provenance,
        }

    return make
