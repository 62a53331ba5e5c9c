"""The verb genes: vectors and importance of genes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from cellscribe.callbacks import Log, Progress, log_stderr
from cellscribe.config import CountsKind, GenesOptions, Precision, Species, choose_options
from cellscribe.config.renamed import former_keywords
from cellscribe.errors import InputError
from cellscribe.escaping import safe_cells
from cellscribe.families.registry import read_model
from cellscribe.inference.session import Session, checkpoint_path, open_session
from cellscribe.lease import claim
from cellscribe.model.heads import UNKNOWN, Head, best_of, load_gene_head
from cellscribe.writing import writing

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd
    from anndata import AnnData

    from cellscribe.inference.embedder import Embedder

FORMS = (".h5ad", ".parquet", ".csv")


@former_keywords(say="log", group="group_by")
def embed_genes(
    source: str | Path | AnnData,
    *,
    model: str | Path | Embedder | None = None,
    layer: str | None = None,
    gene_key: str | None = None,
    species: Species | None = None,
    modality: str | None = None,
    table: str | None = None,
    counts: CountsKind | None = None,
    hidden_layer: int | None = None,
    device: str | None = None,
    precision: Precision | None = None,
    threads: int | None = None,
    options: GenesOptions | None = None,
    progress: Progress | None = None,
    log: Log = log_stderr,
) -> AnnData:
    """Embed genes: the mean of each gene's vectors over the cells that show it to the model.

    Parameters
    ----------
    source, model, layer, gene_key, species, modality, table, counts, hidden_layer, device,
    precision, threads, progress, log
        As for `embed`.
    options
        All settings at once, in place of the keywords.

    Returns
    -------
    AnnData
        ``X`` ``[genes, D]`` float32; ``obs`` by Ensembl id (or the name that the model's family
        has) with ``symbol`` and ``n_cells``; their provenance in ``uns["cellscribe"]``. Of a model
        that labels genes also ``label`` and ``probability``, and all of them in
        ``obsm["probabilities"]``: its head on that vector, so on its mean score over the cells.

    Raises
    ------
    InputError
        Bad input, or a model whose family has no vectors of genes.
    """
    given = {
        "layer": layer,
        "gene_key": gene_key,
        "species": species,
        "modality": modality,
        "table": table,
        "counts": counts,
        "hidden_layer": hidden_layer,
        "device": device,
        "precision": precision,
        "threads": threads,
    }
    options = choose_options(GenesOptions, options, "embed_genes", given)
    with open_session(model, options, log=log) as session:
        cells = session.open(source)
        import pandas as pd
        from anndata import AnnData

        from cellscribe.inference.gene_vectors import gene_vectors

        head = load_gene_head(session.header.directory)
        if head is not None and options.hidden_layer is not None:
            raise InputError(
                f"{session.header.name} labels genes by the layer that it was trained on; leave "
                "--hidden-layer out"
            )
        found = gene_vectors(session.embedder, cells.counts, cells.genes, progress=progress)
        obs = gene_frame(session).iloc[found.tokens].assign(n_cells=found.n_cells)
        about = session.about(cells, what="mean over cells of each gene's vector")
        if head is None:
            return AnnData(X=found.vectors, obs=obs, uns={"cellscribe": about})
        probabilities = head.probabilities(found.vectors)
        each = pd.DataFrame(probabilities, index=obs.index, columns=head.labels)
        labels = gene_labels(probabilities, head, obs.index)
        return AnnData(
            X=found.vectors,
            obs=obs.join(labels),
            uns={"cellscribe": about},
            obsm={"probabilities": each},
        )


def gene_labels(
    probabilities: npt.NDArray[np.float64], head: Head, names: pd.Index
) -> pd.DataFrame:
    """Label of each gene, its probability, and the best label also where it is too improbable."""
    import pandas as pd

    best, probability = best_of(probabilities)
    kinds = pd.Index([*head.labels, UNKNOWN])
    called = [
        label if share >= head.threshold else len(head.labels)
        for label, share in zip(best, probability, strict=True)
    ]
    return pd.DataFrame(
        {
            "label": pd.Categorical.from_codes(called, kinds),
            "probability": probability,
            "best": pd.Categorical.from_codes(best, kinds),
        },
        index=names,
    )


@former_keywords(say="log", group="group_by")
def gene_importance(
    source: str | Path | AnnData,
    *,
    model: str | Path | Embedder | None = None,
    group_by: str | None = None,
    layer: str | None = None,
    gene_key: str | None = None,
    species: Species | None = None,
    modality: str | None = None,
    table: str | None = None,
    counts: CountsKind | None = None,
    device: str | None = None,
    precision: Precision | None = None,
    threads: int | None = None,
    options: GenesOptions | None = None,
    progress: Progress | None = None,
    log: Log = log_stderr,
) -> pd.DataFrame:
    """Measure how much attention each gene gets, by group of cells (scBERT).

    Parameters
    ----------
    source, layer, gene_key, species, modality, table, counts, device, precision, threads,
    options, progress, log
        As for `embed_genes`.
    model
        A checkpoint directory of a family that tells it (scBERT), or such a model, loaded.
    group_by
        Column of obs, such as ``cell_type``; all cells together if not given.

    Returns
    -------
    pandas.DataFrame
        A row a gene of the model, a column a group: mean over the group's cells of the share of
        the attention in a cell that the gene gets. A group of cells without a known gene is absent.

    Raises
    ------
    InputError
        Bad input, no such column, or a model whose family tells no importance.
    """
    import pandas as pd

    given = {
        "layer": layer,
        "gene_key": gene_key,
        "species": species,
        "modality": modality,
        "table": table,
        "counts": counts,
        "device": device,
        "precision": precision,
        "threads": threads,
    }
    options = choose_options(GenesOptions, options, "gene_importance", given)
    with open_session(model, options, log=log) as session:
        cells = session.open(source)
        opened = cells.counts
        if group_by is None:
            labels = pd.Series("all", index=range(opened.n_cells))
        elif group_by in opened.obs:
            labels = opened.obs[group_by]
        else:
            known = ", ".join(map(str, opened.obs.columns)) or "none"
            raise InputError(f"{opened.name}: no obs column {group_by!r}; there are {known}")
        from cellscribe.inference.gene_vectors import importance

        codes, names = pd.factorize(labels.to_numpy(dtype=object), sort=True)
        shares, n_cells = importance(
            session.embedder, opened, cells.genes, codes, progress=progress
        )
        frame = gene_frame(session)
        for name, share in zip(names[n_cells > 0], shares[n_cells > 0], strict=True):
            frame[str(name)] = share
        frame.attrs["cellscribe"] = session.about(cells, what="share of the attention")
        return frame


def embed_genes_file(
    source: str | Path | AnnData,
    out: str | Path,
    options: GenesOptions | None = None,
    *,
    model: str | Path | Embedder | None = None,
    progress: Progress | None = None,
    log: Log = log_stderr,
) -> AnnData:
    """Write `embed_genes` to an ``.h5ad`` or a ``.parquet`` (gene, symbol, n_cells, embedding).

    Labels of genes, from a model that gives them, also to a ``.csv``.
    """
    options, out = options or GenesOptions(), Path(out)
    with claim_form(out, source, FORMS, overwrite=options.overwrite):
        if out.suffix == ".csv":
            header = read_model(checkpoint_path(model or options.model))
            if load_gene_head(header.directory) is None:
                raise InputError(
                    f"{out}: a .csv takes labels of genes, and {header.name} gives none; end the "
                    "output's name in .h5ad or .parquet"
                )
        found = embed_genes(source, model=model, options=options, progress=progress, log=log)
        _write(found, out)
    return found


def _write(found: AnnData, out: Path) -> None:
    with writing(out) as partial:
        if out.suffix == ".h5ad":
            found.write_h5ad(partial)
            return
        frame = found.obs.rename_axis("gene").reset_index()
        if out.suffix == ".csv":
            safe_cells(frame).to_csv(partial, index=False, float_format="%.6g")
        else:
            for name in frame.columns.intersection(["label", "best"]):
                # the texts, not categories: every reader of Parquet takes them for what they are
                frame[name] = frame[name].astype(str)
            frame.assign(embedding=list(found.X)).to_parquet(partial)


def claim_form(
    out: Path,
    source: str | Path | AnnData,
    forms: tuple[str, ...],
    *,
    overwrite: bool,
    beside: Sequence[Path] = (),
) -> AbstractContextManager[None]:
    """Hold an output; one of another form, or that `claim` refuses, is refused."""
    if out.suffix not in forms:
        raise InputError(f"{out}: end the output's name in {' or '.join(forms)}")
    path = Path(source) if isinstance(source, str | Path) else None
    return claim(out, [path], overwrite=overwrite, beside=beside)


def gene_frame(session: Session) -> pd.DataFrame:
    """Names and symbols of the model's genes."""
    import pandas as pd

    table = session.header.table
    return pd.DataFrame({"symbol": list(table.symbols)}, index=list(table.ids))
