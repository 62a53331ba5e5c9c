"""Labels, learnt and given: the verbs finetune and annotate, for command line and Python."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellscribe.annotation.labels import check_model_place, read_labels
from cellscribe.callbacks import Log, Progress, in_step, log_stderr, no_progress
from cellscribe.cells.counts import Counts, open_counts
from cellscribe.cells.genes import map_genes
from cellscribe.config import AnnotateOptions, FinetuneOptions, Pooling, from_mapping
from cellscribe.errors import InputError
from cellscribe.model.metadata import read_header

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from cellscribe.annotation.annotate import Annotation
    from cellscribe.annotation.finetune import Finetuned


def finetune(
    model: str | Path,
    data: str | Path | AnnData | Sequence[str | Path | AnnData],
    out: str | Path,
    options: FinetuneOptions | None = None,
    *,
    progress: Progress | None = None,
    log: Log = log_stderr,
    **settings: Any,
) -> Finetuned:
    """Learn labels from annotated cells, and save a model that `annotate` applies.

    Parameters
    ----------
    model
        A bundled model's name or a checkpoint directory.
    data
        One or several files, or AnnData, of raw counts with labels in obs.
    out
        The new model's directory; it appears whole or not at all.
    options
        Columns, mode and recipe; or give their fields by name (``label="cell_type"``).
    progress
        Told (cells done, cells in all, what is being done).
    log
        Told, a line each, what a user should know.

    Raises
    ------
    InputError
        Bad input, in one line with its mend.
    """
    options = options or from_mapping(FinetuneOptions, settings, "finetune")
    several = isinstance(data, Sequence) and not isinstance(data, str)
    sources: list[Any] = list(data) if several else [data]  # type: ignore[arg-type]
    header, out = read_header(model), Path(out)
    paths = [Path(source) for source in sources if isinstance(source, str | Path)]
    check_model_place(out, [header.directory, *paths], overwrite=options.overwrite)
    if options.mode != "head" and (header.pooling != Pooling() or header.config.sep_token):
        raise InputError(
            f"{header.name} makes its vectors in a way of its own ({header.pooling.sentence()}), "
            "for which layers cannot be trained; use --mode head"
        )
    with ExitStack() as stack:
        opened = [
            stack.enter_context(open_counts(source, layer=options.layer, log=log))
            for source in sources
        ]
        labelled = read_labels(opened, options.label, options.group, options.fewest_cells, log=log)
        for counts in opened:
            map_genes(counts.var, header.vocabulary, gene_key=options.gene_key, name=counts.name)
        # torch takes its time to import: all that can be refused without it is behind us.
        from cellscribe.annotation.annotate import embed_opened
        from cellscribe.annotation.finetune import finetune_model
        from cellscribe.inference.embedder import load
        from cellscribe.model.checkpoint import load_checkpoint

        embedder = load(
            model, device=options.device, precision=options.precision, threads=options.threads
        )
        if embedder.note:
            log(embedder.note)

        def embed(counts: Counts) -> Any:
            genes = map_genes(
                counts.var, header.vocabulary, gene_key=options.gene_key, name=counts.name
            )
            step = in_step(progress, "Embedding")
            return embed_opened(embedder, counts, genes, progress=step)

        return finetune_model(
            load_checkpoint(model),
            header.directory,
            opened,
            labelled,
            out,
            options,
            embed=embed,
            device=embedder.device,
            precision=embedder.precision,
            progress=progress or no_progress,
            log=log,
        )


def annotate(
    source: str | Path | AnnData,
    *,
    model: str | Path = "mini",
    reference: str | Path | AnnData | None = None,
    copy: bool = False,
    progress: Progress | None = None,
    log: Log = log_stderr,
    **settings: Any,
) -> AnnData | pd.DataFrame | None:
    """Label the cells of an AnnData in place, or those of a file in a table.

    Parameters
    ----------
    source
        AnnData, in memory or backed, or a file of any known format. Raw counts.
    model
        A fine-tuned model's directory; with `reference`, the model whose vectors are compared.
    reference
        Labelled cells, whose nearest give the label; ``label="cell_type"`` names their column.
    copy
        Leave an AnnData as it is and return a changed copy.
    progress, log
        As for `finetune`.
    **settings
        Other fields of `AnnotateOptions`.

    Returns
    -------
    AnnData, pandas.DataFrame or None
        None for an AnnData, whose ``obs`` then has ``cellscribe_label``, ``cellscribe_probability``
        and ``cellscribe_best``; the copy with `copy`; for a file a table of the same, a row a cell.

    Raises
    ------
    InputError
        Bad input, in one line with its mend.
    """
    from cellscribe.annotation.annotate import COLUMNS, PREFIX, annotate_opened

    named = {"model": str(model), "reference": None if reference is None else str(reference)[:200]}
    options = from_mapping(AnnotateOptions, named | settings, "annotate")
    words: dict[str, Any] = {"reference": reference, "progress": progress, "log": log}
    with open_counts(source, layer=options.layer, log=log) as counts:
        done = annotate_opened(counts, options, **words)
        table = done.table(counts.obs.index)
    if isinstance(source, str | Path):
        return table
    adata = source
    if copy:
        adata = source.to_memory() if source.isbacked else source.copy()
    for name in COLUMNS:
        adata.obs[f"{PREFIX}{name}"] = table[name].array
    adata.uns["cellscribe"] = {**adata.uns.get("cellscribe", {}), "annotation": done.about}
    return adata if copy else None


def annotate_file(
    source: str | Path | AnnData,
    out: str | Path,
    options: AnnotateOptions | None = None,
    *,
    progress: Progress | None = None,
    log: Log = log_stderr,
) -> Annotation:
    """Label every cell of `source` into ``.csv``, ``.parquet`` or a copy as ``.h5ad``.

    Parameters
    ----------
    source, progress, log
        As for `annotate`.
    out
        Appears when it is whole.
    options
        Model or reference, and all the rest.

    Raises
    ------
    InputError
        Bad input or options, a full disk.
    """
    from cellscribe.annotation.annotate import annotate_opened, check_annotated, write_annotation

    options, out = options or AnnotateOptions(), Path(out)
    inputs = [source, options.reference]
    check_annotated(
        out,
        [Path(path) for path in inputs if isinstance(path, str | Path)],
        overwrite=options.overwrite,
    )
    with open_counts(source, layer=options.layer, log=log) as counts:
        done = annotate_opened(counts, options, progress=progress, log=log)
        write_annotation(out, done, counts)
    return done
