"""Build a shuffled, split training store from files of counts; resumable at every point.

Steps: `plan`, `scatter`, `dedup_and_medians`, `write_shards`; each is a module with a function that
can be called alone. Unfinished work is in ``DIR/.build``; the manifest, written last, makes the
folder a corpus.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cellscribe.callbacks import Log, Progress, in_step, log_stderr
from cellscribe.cells.gene_names.vocabulary import Vocabulary
from cellscribe.config import DATASET, BuildOptions, SplitOptions
from cellscribe.config.files import read_json
from cellscribe.corpus.build.dedup_and_medians import by_source, find_duplicates, make_vocabulary
from cellscribe.corpus.build.plan import BuildPlan, make_plan, refuse
from cellscribe.corpus.build.scatter import DUPLICATE, scatter
from cellscribe.corpus.build.sources import BadSource
from cellscribe.corpus.build.spill import SpillFile
from cellscribe.corpus.build.splits import SPLITS
from cellscribe.corpus.build.write_shards import write_shards
from cellscribe.corpus.manifest import FORMAT, MANIFEST, VERSION
from cellscribe.corpus.store import GENES, Corpus, open_corpus
from cellscribe.errors import InputError
from cellscribe.lease import lease
from cellscribe.writing import disk_errors, remove, write_json

SCRATCH = ".build"
ANEW = "remove the unfinished corpus, and build it anew"


def build_corpus(
    sources: Sequence[str | Path],
    out: str | Path,
    options: BuildOptions | None = None,
    split: SplitOptions | None = None,
    *,
    progress: Progress | None = None,
    log: Log = log_stderr,
) -> Corpus:
    """Build a corpus, continue one that was interrupted, or open it if it is finished.

    Parameters
    ----------
    sources
        Files of raw counts in any known format, folders of them, globs, and lists of sources.
    out
        Folder of the corpus: a new or empty one, or that of the same build.
    options, split
        What goes into the corpus, and how it is split.
    progress, log
        Called with (done, total, step), and with messages for the user.

    Raises
    ------
    InputError
        A source cannot be used, `out` holds something else, no split is possible, or the disk is
        full.
    """
    out = Path(out)
    options, split = options or BuildOptions(), split or SplitOptions()
    _check_target(out)
    with lease(out):
        return _build(list(sources), out, options, split, progress, log)


def _build(
    sources: Sequence[str | Path],
    out: Path,
    options: BuildOptions,
    split: SplitOptions,
    progress: Progress | None,
    log: Log,
) -> Corpus:
    """Build a corpus in a folder that this process holds."""
    refused: dict[str, str] = {}

    def plan_work() -> BuildPlan:
        return make_plan(
            sources,
            options,
            split,
            refused=refused,
            log=log,
            progress=in_step(progress, "Looking at sources"),
        )

    plan = plan_work()
    if (out / MANIFEST).exists():
        return _already_built(out, plan, log)
    with disk_errors(out):
        (out / SCRATCH).mkdir(parents=True, exist_ok=True)
        while True:
            _claim(out, plan)
            try:
                spills = scatter(
                    plan,
                    out / SCRATCH / "runs",
                    log=log,
                    progress=in_step(progress, "Reading"),
                )
                break
            except BadSource as error:
                bad = plan.sources[error.place]
                refuse(error, bad.name, bad.path, options, refused, log)
                remove(out / SCRATCH / "plan.json")
                plan = plan_work()
        return _finish(out, plan, spills, progress, log)


def _finish(
    out: Path, plan: BuildPlan, spills: list[SpillFile], progress: Progress | None, log: Log
) -> Corpus:
    """Do the steps after `scatter`, without those already done, and write the manifest."""
    scratch = out / SCRATCH
    if progress is not None:
        progress(0, 1, "Choosing genes")
    duplicates = np.empty(0, np.int64) if plan.options.keep_duplicates else find_duplicates(spills)
    record = scratch / "vocabulary.json"
    if not record.exists():
        vocabulary, about = make_vocabulary(plan, spills, duplicates)
        vocabulary.write(out / GENES)
        write_json(record, about)
    vocabulary = Vocabulary.read(out / GENES)
    shards = write_shards(
        plan,
        spills,
        duplicates,
        vocabulary,
        out,
        scratch / "shards",
        progress=in_step(progress, "Writing"),
    )
    about = read_json(record, fix=ANEW)
    write_json(out / MANIFEST, _manifest(plan, spills, duplicates, shards, about))
    remove(scratch)
    for source in plan.sources:
        for note in source.notes:
            # other notes are in the manifest only; this one decides what is held out together
            if note.endswith(DATASET):
                log(f"{source.name}: {note}")
    for line in plan.split.note.split("; "):
        if line:
            log(f"Note: {line}")
    return open_corpus(out)


def _manifest(
    plan: BuildPlan,
    spills: list[SpillFile],
    duplicates: npt.NDArray[np.int64],
    shards: dict[str, list[dict[str, Any]]],
    vocabulary: dict[str, Any],
) -> dict[str, Any]:
    dropped = [Counter[str]() for _ in plan.sources]
    for spill in spills:
        for source, reasons in spill.dropped.items():
            dropped[source].update(reasons)
    for source, n in by_source(plan, duplicates).items():
        dropped[source][DUPLICATE] += n
    sources = [
        source.facts | {"kept": source.cells - went.total(), "dropped": dict(sorted(went.items()))}
        for source, went in zip(plan.sources, dropped, strict=True)
    ]
    sides, split = plan.split, plan.split_options
    kept = sum(
        (Counter(shard.pop("datasets")) for part in shards.values() for shard in part), Counter()
    )
    return {
        "format": FORMAT,
        "version": VERSION,
        "cellscribe": metadata.version("cellscribe"),
        "fingerprint": plan.fingerprint,
        "options": plan.recorded_options(),
        "context": plan.options.context,
        "labels": list(plan.options.labels),
        "sources": sources,
        "refused": list(plan.refused),
        "dropped": dict(sorted(sum(dropped, Counter()).items())),
        "datasets": {
            name: {"side": side, "cells": kept[name]} for name, side in sides.side.items()
        },
        "split": {
            "seed": split.seed,
            "holdout_asked": split.holdout,
            "holdout_reached": sides.share,
            "note": sides.note,
        },
        "genes_counted": len(plan.space),
        "vocabulary": vocabulary,
        "splits": {
            name: {
                "cells": sum(shard["cells"] for shard in shards[name]),
                "tokens": sum(shard["tokens"]["tokens"] for shard in shards[name]),
                "shards": shards[name],
            }
            for name in SPLITS
            if name in shards
        },
    }


def _check_target(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; name a folder for the corpus")
    if not out.exists() and not out.parent.is_dir():
        raise InputError(f"{out.parent}: no such folder; make it first")
    ours = (out / MANIFEST).exists() or (out / SCRATCH).exists()
    if out.is_dir() and not ours and any(out.iterdir()):
        raise InputError(f"{out} is not empty and holds no corpus; name a new folder")


def _already_built(out: Path, plan: BuildPlan, log: Log) -> Corpus:
    corpus = open_corpus(out)
    if corpus.manifest["fingerprint"] != plan.fingerprint:
        raise InputError(
            f"{out} holds a corpus of other sources or options; remove it or name a new folder"
        )
    remove(out / SCRATCH)
    log(f"{out} holds this corpus already; nothing is changed")
    return corpus


def _claim(out: Path, plan: BuildPlan) -> None:
    """Make or check the scratch folder of this plan; remove files of killed writers."""
    scratch = out / SCRATCH
    record = scratch / "plan.json"
    if record.exists():
        if read_json(record, fix=ANEW).get("fingerprint") != plan.fingerprint:
            raise InputError(
                f"{out} holds an unfinished corpus of other sources or options; "
                "remove it or name a new folder"
            )
    else:
        for path in ("runs", "shards", "vocabulary.json"):
            remove(scratch / path)
        write_json(record, {"fingerprint": plan.fingerprint})
    for pattern in (".*.partial-*", "tokens/*/.*.partial-*", "counts/*/.*.partial-*"):
        for left in out.glob(pattern):
            remove(left)
