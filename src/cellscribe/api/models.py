"""The verbs on models: import, export, info."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cellscribe.callbacks import Log, log_stderr
from cellscribe.config import ExportOptions, ImportOptions, choose_options, preset_names
from cellscribe.config.renamed import former_keywords
from cellscribe.errors import InputError
from cellscribe.inference.session import checkpoint_path
from cellscribe.model.metadata import bundled_models, read_header
from cellscribe.writing import check_target

if TYPE_CHECKING:
    from cellscribe.inference.embedder import Embedder


@former_keywords(say="log")
def import_model(
    source: str | Path,
    out: str | Path,
    *,
    genes: str | Path | None = None,
    subfolder: str | None = None,
    labels: str | Path | None = None,
    revision: str | None = None,
    overwrite: bool | None = None,
    options: ImportOptions | None = None,
    log: Log = log_stderr,
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
    subfolder
        Folder in `source` that holds the model, where it has several.
    labels
        Names of a classifier's classes, where its configuration has none: ``.json`` or ``.pkl``.
    revision
        Branch, tag or commit of a Hugging Face repository.
    overwrite
        Replace `out` if it exists.
    options
        Both at once, in place of the keywords.
    log
        Called with each line on what was found.

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

    given = {
        "genes": None if genes is None else Path(genes),
        "subfolder": subfolder,
        "labels": None if labels is None else Path(labels),
        "revision": revision,
        "overwrite": overwrite,
    }
    options = choose_options(ImportOptions, options, "import_model", given)
    return bring_in(source, out, options, overwrite=options.overwrite, log=log)


def export_model(
    model: str | Path | Embedder,
    out: str | Path,
    *,
    format: Literal["hf"] | None = None,
    overwrite: bool | None = None,
    options: ExportOptions | None = None,
) -> Path:
    """Write a model as other tools read it.

    Parameters
    ----------
    model
        A bundled model's name, a checkpoint directory or a loaded model.
    out
        The new folder; it appears whole or not at all.
    format
        ``"hf"``: a Hugging Face ``BertForMaskedLM``, with the dictionaries of Geneformer's tools.
    overwrite
        Replace `out` if it exists.
    options
        Both at once, in place of the keywords.

    Raises
    ------
    InputError
        Unknown model or format, or a model that the format cannot hold.
    """
    given = {"format": format, "overwrite": overwrite}
    options = choose_options(ExportOptions, options, "export_model", given)
    if options.format != "hf":
        raise InputError(f"no export format {options.format!r}; there is hf")
    from cellscribe.families.geneformer.export import export_hugging_face
    from cellscribe.model.checkpoint import load_checkpoint

    header = read_header(checkpoint_path(model))
    check_target(Path(out), header.directory, overwrite=options.overwrite, is_folder=True)
    export_hugging_face(load_checkpoint(header), Path(out), overwrite=options.overwrite)
    return Path(out)


def info(model: str | Path | Embedder = "mini") -> dict[str, Any]:
    """Describe a model or a preset: size, cost, vocabulary, context and provenance.

    Returns
    -------
    dict
        ``name``, ``parameters``, ``vector_size``, ``vocabulary_size``, ``context`` (genes a cell),
        of a BERT its shape and ``flop_per_cell``, of other families their ``settings``; of a model
        also ``family``, ``hash``, ``bytes``, ``pooling``, ``pools``, ``gene_table_hash``,
        ``species``, ``labels`` or ``gene_labels`` where it has learnt some (of several columns
        ``columns``: the labels of each, or the range of its numbers), and ``provenance``.

    Raises
    ------
    InputError
        There is no model or preset of that name, or the model is damaged.
    """
    from cellscribe.families.about import about_model, about_preset

    name = checkpoint_path(model)
    is_model = Path(name).is_dir() or str(name) in bundled_models()
    if str(name) in preset_names() and not is_model:
        return about_preset(str(name))
    try:
        return about_model(name)
    except InputError as error:
        if is_model:
            raise
        raise InputError(f"{error}, or a preset ({', '.join(preset_names())})") from None
