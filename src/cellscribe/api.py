"""What one does with cellscribe, one function a verb. Command line and Python call the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cellscribe.cells.counts import Counts, open_counts, tell
from cellscribe.cells.tokenize import Progress, Tokenized, write_tokens
from cellscribe.config import EmbedOptions, ImportOptions, OutputDtype, Precision, preset_names
from cellscribe.errors import InputError
from cellscribe.families.opening import open_tokenizer, read_model
from cellscribe.inference.embed import Embedded, check_output, embed_counts
from cellscribe.model.header import bundled_models, read_header
from cellscribe.writing import check_target

if TYPE_CHECKING:
    from anndata import AnnData


def embed(
    source: str | Path | AnnData,
    *,
    model: str | Path = "mini",
    key_added: str = "X_cellscribe",
    copy: bool = False,
    layer: str | None = None,
    gene_key: str | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    dtype: OutputDtype = "float32",
    threads: int | None = None,
    progress: Progress | None = None,
) -> AnnData | npt.NDArray[np.floating] | None:
    """Embed the cells of an AnnData in place, or those of a file into an array.

    Parameters
    ----------
    source
        AnnData, in memory or backed, or a file of any known format. Raw counts.
    model, device, precision, threads
        As for `load`.
    key_added
        The vectors go to ``obsm[key_added]``, what they are to ``uns["cellscribe"][key_added]``.
    copy
        Leave an AnnData as it is and return a changed copy.
    layer
        Where the raw counts are: ``"X"`` (default), ``"raw"``, or a layer's name.
    gene_key
        Column of ``var`` with Ensembl ids or symbols; found by its values if not given.
    dtype
        Of the vectors.
    progress
        Told (cells done, cells in all).

    Returns
    -------
    AnnData, numpy.ndarray or None
        None for an AnnData; the copy with `copy`; ``[n_cells, D]`` for a file.

    Raises
    ------
    InputError
        Bad input, in one line with its mend.
    """
    from cellscribe.inference.embedder import load

    embedder = load(model, device=device, precision=precision, threads=threads)
    words: dict[str, Any] = {"layer": layer, "gene_key": gene_key, "dtype": dtype}
    vectors = embedder.embed(source, **words, progress=progress)
    if isinstance(source, str | Path):
        return vectors
    adata = source
    if copy:
        # A backed one has no copy but in another file.
        adata = source.to_memory() if source.isbacked else source.copy()
    adata.obsm[key_added] = vectors
    about = dict(adata.uns.get("cellscribe", {}))
    about[key_added] = {
        "model": embedder.header.name,
        "model_hash": embedder.hash,
        "vocabulary_hash": embedder.header.table.hash,
        "pooling": embedder.pooling,
        "precision": embedder.precision,
        "device": embedder.device.type,
        "layer": layer or "X",
    }
    adata.uns["cellscribe"] = about
    return adata if copy else None


def embed_file(
    source: str | Path | AnnData | Counts,
    out: str | Path,
    options: EmbedOptions | None = None,
    *,
    report: str | Path | None = None,
    map_png: str | Path | None = None,
    color_by: str | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Embedded:
    """Embed every cell of `source` into the file `out`, by blocks, resumable.

    Parameters
    ----------
    source
        As for `embed`.
    out
        ``.npy``, ``.h5ad``, ``.zarr`` or ``.parquet``.
    options
        Model, precision, whether to resume or overwrite.
    report
        Also write a self-contained HTML page here.
    map_png
        Also draw the map (UMAP of the vectors) here.
    color_by
        Column of obs that colours the map.
    progress
        Told (cells done, cells in all).
    say
        Told, a line each, what a user should know while it happens; stderr if not given.

    Raises
    ------
    InputError
        Bad input or options, a full disk.
    """
    options = options or EmbedOptions()
    report, map_png = (None if path is None else Path(path) for path in (report, map_png))
    drawn = [path for path in (report, map_png) if path is not None]
    out, say = Path(out), say or tell
    # A conversion of the input may take long: an output that cannot be is refused before it.
    check_output(out, Path(source) if isinstance(source, str | Path) else None, options)
    with open_counts(source, layer=options.layer, say=say) as counts:
        if drawn:
            from cellscribe.report.embedding import check_wishes, draw

            check_wishes(counts, color_by, drawn, out)
        result = embed_counts(counts, out, options, progress=progress, say=say)
        if drawn:
            draw(
                result,
                counts,
                context=result.provenance["context"],
                color_by=color_by,
                report=report,
                map_png=map_png,
            )
    return result


def tokenize(
    source: str | Path | AnnData,
    out: str | Path,
    *,
    model: str | Path = "mini",
    layer: str | None = None,
    gene_key: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Tokenized:
    """Write the tokens of every cell to a Parquet file, with a model's gene table and context.

    Parameters
    ----------
    source, layer, gene_key
        As for `embed`.
    out
        The ``.parquet`` file.
    model
        A bundled model's name or a checkpoint directory.
    overwrite
        Replace `out` if it exists.
    progress
        Told (cells done, cells in all).

    Raises
    ------
    InputError
        Bad input, in one line with its mend.
    """
    header = read_model(model)
    tokenizer = open_tokenizer(header)
    return write_tokens(
        source,
        out,
        lambda counts: header.map_genes(counts.var, gene_key=gene_key, name=counts.name),
        tokenizer.tokenize,
        front=tokenizer.front,
        back=tokenizer.back,
        about=tokenizer.about,
        layer=layer,
        overwrite=overwrite,
        progress=progress,
    )


def train(
    corpus: str | Path,
    out: str | Path,
    *,
    preset: str = "geneformer-10m",
    init_from: str | Path | None = None,
    resume: bool = False,
    shape: Mapping[str, Any] | None = None,
    watch: Callable[[dict[str, Any]], None] | None = None,
    say: Callable[[str], None] = tell,
    **settings: Any,
) -> Path | None:
    """Pre-train a model on a corpus.

    Parameters
    ----------
    corpus
        Folder that `build_corpus` made.
    out
        Folder of the run: ``metrics.jsonl``, checkpoints, and at its end ``model``.
    preset
        A preset's name, or a TOML file with tables ``[model]`` and ``[training]``.
    init_from
        Begin with the weights, and the shape, of this model.
    resume
        Go on with an interrupted run, where there is one.
    shape
        Fields of `config.ModelConfig` that differ from the preset's.
    watch
        Told of each step: what ``metrics.jsonl`` gets.
    say
        Told what a user should know.
    **settings
        Fields of `config.TrainOptions` that differ from the preset's.

    Returns
    -------
    pathlib.Path or None
        The finished model; None if SIGTERM or Ctrl-C asked for the end, and ``resume`` goes on.

    Raises
    ------
    InputError
        Something is missing or does not go together; see `training.plan` and `training.pretrain`.
    """
    from cellscribe.report.training import draw_curve
    from cellscribe.training.plan import plan, settle
    from cellscribe.training.pretrain import pretrain

    config, options = settle(preset, settings, shape or {}, init_from)
    planned = plan(corpus, out, config, options, preset=preset, init_from=init_from, resume=resume)
    can_draw = find_spec("matplotlib") is not None
    return pretrain(planned, watch=watch, draw=draw_curve if can_draw else None, say=say)


def import_model(
    source: str | Path,
    out: str | Path,
    *,
    genes: str | Path | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = tell,
) -> Path:
    """Bring in a published model: Geneformer, BioNeMo, scGPT, scBERT or scFoundation.

    Parameters
    ----------
    source
        Folder or file as published, or a Hugging Face repository id (with the extra ``hub``).
    out
        The new model directory; it appears whole or not at all.
    genes
        Gene list or dictionaries that are not in `source` itself.
    overwrite
        Replace `out` if it exists.
    say
        Told, a line each, what was found.

    Returns
    -------
    pathlib.Path
        `out`, a model like any other.

    Raises
    ------
    InputError
        Nothing known is there, or it is damaged, incomplete, or holds more than plain values.
    """
    from cellscribe.families.importing import import_model as bring_in

    options = ImportOptions(genes=None if genes is None else Path(genes))
    return bring_in(source, out, options, overwrite=overwrite, say=say)


def export_model(
    model: str | Path, out: str | Path, *, format: str = "hf", overwrite: bool = False
) -> Path:
    """Write a model as other tools read it.

    Parameters
    ----------
    model
        A bundled model's name or a checkpoint directory.
    out
        The new folder; it appears whole or not at all.
    format
        ``"hf"``: a Hugging Face ``BertForMaskedLM``, with the dictionaries of Geneformer's tools.
    overwrite
        Replace `out` if it exists.

    Raises
    ------
    InputError
        Unknown model or format, or a model that the format cannot hold.
    """
    if format != "hf":
        raise InputError(f"no export format {format!r}; there is hf")
    from cellscribe.families.hugging_face import export_hugging_face
    from cellscribe.model.checkpoint import load_checkpoint

    header = read_header(model)
    check_target(Path(out), header.directory, overwrite=overwrite)
    export_hugging_face(load_checkpoint(model), Path(out), overwrite=overwrite)
    return Path(out)


def info(model: str | Path = "mini") -> dict[str, Any]:
    """Size, cost, vocabulary, context and provenance of a model or a preset.

    Raises
    ------
    InputError
        There is no model or preset of that name, or the model is damaged.
    """
    from cellscribe.families.about import about_model, about_preset

    is_model = Path(model).is_dir() or str(model) in bundled_models()
    if str(model) in preset_names() and not is_model:
        return about_preset(str(model))
    try:
        return about_model(model)
    except InputError as error:
        if is_model:
            raise
        raise InputError(f"{error}, or a preset ({', '.join(preset_names())})") from None


def sample() -> AnnData:
    """700 labelled cells of 10x PBMC 3k, raw counts.

    Returns
    -------
    AnnData
        ``X`` ``[700, 14167]`` CSR uint16, ``obs["cell_type"]``; source and licence (CC BY 4.0) in
        ``uns["source"]`` and the package's NOTICE.
    """
    import anndata

    with resources.as_file(resources.files("cellscribe") / "bundled/pbmc3k_sample.h5ad") as path:
        return anndata.read_h5ad(path)
