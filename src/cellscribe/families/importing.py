"""A published checkpoint -> a model directory of ours, whole or not at all.

The directory is complete: weights as safetensors, gene table, configuration, and a README with
licence and source. Before it gets its name it is opened in the same way as by `embed`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellscribe.callbacks import Log
from cellscribe.config import ImportOptions
from cellscribe.errors import InputError
from cellscribe.families.base import Family, Published, PublishedBert
from cellscribe.families.registry import FAMILIES, open_model
from cellscribe.families.source import Source
from cellscribe.families.weights import SHOWN, check_names
from cellscribe.lease import claim
from cellscribe.writing import hash_of, writing

if TYPE_CHECKING:
    import torch

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
"""A Hugging Face repository id."""


def import_model(
    source: str | Path,
    out: str | Path,
    options: ImportOptions | None = None,
    *,
    overwrite: bool = False,
    log: Log = print,
) -> Path:
    """Write a published checkpoint as a model directory of ours.

    Parameters
    ----------
    source
        Folder or file as published, or a Hugging Face repository id (with the extra ``hub``).
    out
        The new directory.
    options
        Gene list, if `source` has none.
    overwrite
        Replace `out` if it exists.
    log
        Called with a line of text for the title and for each note.

    Returns
    -------
    pathlib.Path
        `out`.

    Raises
    ------
    InputError
        `source` is of no known family, lacks a file, is damaged or does not fit together, or `out`
        cannot be written.
    """
    out = Path(out)
    given = Source(_local(source))
    with claim(out, [given.path], overwrite=overwrite, is_folder=True):
        published = recognise(given).read_published(given, options or ImportOptions())
        log(f"{published.title}, from {given.path}")
        for note in published.notes:
            log(f"Note: {note}")
        with writing(out) as partial:
            write_published(partial, published, given, name=out.name)
            open_model(partial)
    return out


def recognise(source: Source) -> Family:
    """Find the family that a source belongs to.

    Raises
    ------
    InputError
        It belongs to none; the message lists what was looked for.
    """
    for family in FAMILIES.values():
        if family.recognise(source):
            return family
    wants = "; ".join(family.WANTS for family in FAMILIES.values())
    found = ", ".join(source.names[:SHOWN]) + (", ..." if len(source.names) > SHOWN else "")
    raise InputError(
        f"{source.path}: no checkpoint of a known family ({found or 'an empty folder'}); "
        f"looked for {wants}"
    )


def write_published(folder: Path, published: Published, source: Source, *, name: str) -> None:
    """Write the files of a model directory.

    Raises
    ------
    InputError
        Weights and configuration do not fit together.
    """
    provenance = {
        "model": published.title,
        "licence": published.licence,
        "published": published.origin,
        "read from": source_files(source),
        **({"notes": list(published.notes)} if published.notes else {}),
    }
    readme = card(name, published, provenance)
    if isinstance(published, PublishedBert):
        _write_bert(folder, published, provenance, readme)
    else:
        _write_other(folder, published, provenance, readme)
    for file, text in published.texts.items():
        (folder / file).write_text(text, encoding="utf-8")


def source_files(source: Source) -> list[str]:
    """List name, size and SHA-256 of the files of a source, the largest first."""
    paths = [source.folder / name for name in source.names]
    paths = sorted(paths, key=lambda path: -path.stat().st_size)[:SHOWN]
    return [
        f"{path.relative_to(source.folder)}, {path.stat().st_size:,} bytes, SHA-256 {hash_of(path)}"
        for path in paths
    ]


def card(name: str, published: Published, provenance: Mapping[str, Any]) -> str:
    """README of an imported model."""
    lines = [
        f"# {name}",
        "",
        f"{published.title}. Published by {published.origin}.",
        "",
        f"**Licence of the weights: {published.licence}**",
        "",
        "Brought into this form by `cellscribe import`: the same weights under the names that "
        "cellscribe reads, the gene table in `genes.tsv`, everything else in `config.json`.",
        "",
        "```",
        f"cellscribe embed CELLS.h5ad --model {name} -o VECTORS.npy",
        "```",
        "",
    ]
    if published.notes:
        lines += ["## To know", "", *(f"- {note}" for note in published.notes), ""]
    lines += ["## Read from", "", *(f"- {file}" for file in provenance["read from"])]
    return "\n".join(lines) + "\n"


def _write_bert(
    folder: Path, published: PublishedBert, provenance: Mapping[str, Any], readme: str
) -> None:
    import torch

    from cellscribe.model.checkpoint import from_hugging_face, save_checkpoint, to_hugging_face
    from cellscribe.model.encoder import MaskedGeneModel

    title = published.title
    with torch.device("meta"):
        model = MaskedGeneModel(published.config)
    wanted = model.state_dict()
    check_names(published.tensors, to_hugging_face(wanted), title)
    state = from_hugging_face(published.tensors, wanted, title)
    model.load_state_dict(state, assign=True)
    save_checkpoint(
        folder,
        model,
        published.table,
        provenance,
        readme=readme,
        pooling=published.pooling,
        family=published.family,
    )


def _write_other(
    folder: Path, published: Published, provenance: Mapping[str, Any], readme: str
) -> None:
    from safetensors.torch import save_file

    from cellscribe.model.checkpoint import WEIGHTS

    folder.mkdir()
    config = {
        "model_type": f"cellscribe-{published.family}",
        "cellscribe": {
            "format": 1,
            "family": published.family,
            "settings": published.settings,
            "provenance": dict(provenance),
        },
    }
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    tensors: dict[str, torch.Tensor] = {
        name: tensor.contiguous() for name, tensor in published.tensors.items()
    }
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    # safetensors makes it readable by its owner alone.
    (folder / WEIGHTS).chmod(0o644)
    published.table.write(folder / "genes.tsv")
    (folder / "README.md").write_text(readme, encoding="utf-8")


def _local(source: str | Path) -> Path:
    """Path of a source; a repository of the Hugging Face hub is downloaded first."""
    path = Path(source)
    if path.exists() or not REPOSITORY.fullmatch(str(source)):
        return path
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise InputError(
            f"{source}: no such file or folder; if it is a Hugging Face repository, install "
            'what downloads it: pip install "cellscribe[hub]"'
        ) from None
    try:
        return Path(snapshot_download(str(source)))
    except (OSError, ValueError) as error:
        first = str(error).strip().partition("\n")[0]
        raise InputError(
            f"{source}: neither here nor to be had from Hugging Face ({first}); check the name "
            "and the network, or give a local folder"
        ) from None
