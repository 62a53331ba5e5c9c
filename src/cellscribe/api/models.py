"""Models themselves: import, export, info."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellscribe.callbacks import Log, log_stderr
from cellscribe.config import ImportOptions, preset_names
from cellscribe.errors import InputError
from cellscribe.model.metadata import bundled_models, read_header
from cellscribe.writing import check_target

if TYPE_CHECKING:
    pass


def import_model(
    source: str | Path,
    out: str | Path,
    *,
    genes: str | Path | None = None,
    overwrite: bool = False,
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
    overwrite
        Replace `out` if it exists.
    log
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
    return bring_in(source, out, options, overwrite=overwrite, log=log)


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
    from cellscribe.families.geneformer.export import export_hugging_face
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
