"""A published checkpoint -> a model directory of ours, whole or not at all.

The directory is complete: weights as safetensors, gene table, configuration, and a README with
licence and source. Before it gets its name it is opened in the same way as by `embed`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cellscribe.callbacks import Log
from cellscribe.config import ImportOptions
from cellscribe.errors import InputError
from cellscribe.families import hub
from cellscribe.families.base import Published, PublishedBert, PublishedHead
from cellscribe.families.locate import locate
from cellscribe.families.registry import open_model
from cellscribe.families.saving import network_config, write_files
from cellscribe.families.source import Source, recorded
from cellscribe.families.weights import check_names
from cellscribe.lease import claim
from cellscribe.model.checksums import seal
from cellscribe.model.heads import Head, save_head
from cellscribe.model.weights import check_finite
from cellscribe.writing import hash_of, writing

MOST_FILES = 8
"""Files that the provenance of an import lists."""


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
        Gene list, if `source` has none; subfolder and revision.
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
    options = options or ImportOptions()
    path = _local(source, options, log)
    with claim(out, [path], overwrite=overwrite, is_folder=True):
        given, family = locate(Source(path), options.subfolder, log)
        with recorded() as files:
            published = family.read_published(given, options)
        where = str(given.path)
        check_finite(published.tensors, where)
        if published.head is None and options.labels is not None:
            raise InputError(f"--labels {options.labels}: {where} is no classifier; leave it out")
        if published.head is not None:
            check_finite({"weight": published.head.weight, "bias": published.head.bias}, where)
        log(f"{published.title}, from {where}")
        for note in published.notes:
            log(f"Note: {note}")
        with writing(out) as partial:
            read_from = source_files(files, given.folder)
            write_published(partial, published, read_from, name=out.name)
            open_model(partial)
    return out


def write_published(
    folder: Path, published: Published, read_from: Sequence[str], *, name: str
) -> None:
    """Write the files of a model directory.

    Parameters
    ----------
    folder
        The directory; made here.
    published
        What was read.
    read_from
        From `source_files`.
    name
        Of the model, in its README.

    Raises
    ------
    InputError
        Weights and configuration do not fit together.
    """
    provenance = {
        "model": published.title,
        "licence": published.licence,
        "published": published.origin,
        "read from": list(read_from),
        **({"notes": list(published.notes)} if published.notes else {}),
    }
    readme = card(name, published, provenance)
    if isinstance(published, PublishedBert):
        _write_bert(folder, published, provenance, readme)
    else:
        _write_other(folder, published, provenance, readme)
    for file, text in published.texts.items():
        (folder / file).write_text(text, encoding="utf-8")
    if published.head is not None:
        save_head(folder, head_of(published.head, published.title))
    seal(folder)


def head_of(published: PublishedHead, title: str) -> Head:
    """Make a head of ours, which calls every cell or gene: nothing tells when it would be wrong."""
    return Head(
        of=published.of,
        labels=published.labels,
        weight=published.weight.float().numpy(),
        bias=published.bias.float().numpy(),
        temperature=1.0,
        threshold=0.0,
        about={"mode": "imported", "model": {"name": title}},
    )


def source_files(files: Sequence[Path], folder: Path) -> list[str]:
    """List name, size and SHA-256 of the files that were read, the largest first.

    Parameters
    ----------
    files
        Their paths.
    folder
        The checkpoint's; names are relative to it where a file is in it.
    """
    lines = []
    for path in sorted(files, key=lambda path: -path.stat().st_size)[:MOST_FILES]:
        name = path.relative_to(folder) if path.is_relative_to(folder) else path.name
        lines.append(f"{name}, {path.stat().st_size:,} bytes, SHA-256 {hash_of(path)}")
    return lines


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
    config = network_config(published.family, published.settings, provenance, published.vector)
    write_files(folder, config, published.table, readme, published.tensors)


def _local(source: str | Path, options: ImportOptions, log: Log) -> Path:
    """Path of a source; a repository of the Hugging Face hub is downloaded first."""
    path = Path(source)
    if os.path.lexists(path) or not hub.is_repository(source):
        if options.revision is not None:
            raise InputError(f"{source} is not of the Hugging Face hub; leave out --revision")
        return path
    folder = hub.download(str(source), options.subfolder, options.revision)
    log(f"From Hugging Face: {source}, revision {folder.name}.")
    return folder
