"""Gene tables of BioNeMo's checkpoints: five special tokens, then the genes of ``medians.json``.

The medians are Geneformer's (30 million cells), by Ensembl id in token order; BioNeMo writes them
as JSON next to its training data, and a NeMo 1 archive has a copy. ``geneformer.vocab`` adds
symbols; where it is missing they come from the bundled table of human genes. Ids are matched
exactly, as published: a retired id is no gene. One thing is not as published: columns of a file
with the same id are summed; BioNeMo gives a cell the same token twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cellscribe.cells.gene_names.genes import human_genes
from cellscribe.cells.gene_names.vocabulary import SPECIAL_TOKENS, Vocabulary
from cellscribe.config import ImportOptions
from cellscribe.errors import InputError
from cellscribe.families.bionemo.nemo_archive import NemoArchive
from cellscribe.families.geneformer.dictionaries import check_medians
from cellscribe.families.source import Source, first_line, parse_json
from cellscribe.families.unpickle import read_pickle

MEDIANS = (
    "medians.json",
    "*medians.json",
    "gene_median_dictionary_gc30M.pkl",
    "gene_median_dictionary*.pkl",
)
VOCABULARY = ("geneformer.vocab", "*geneformer.vocab")


def read_table(source: Source, options: ImportOptions, archive: NemoArchive | None) -> Vocabulary:
    """Read the gene table of a checkpoint.

    Parameters
    ----------
    source
        The checkpoint.
    options
        `genes`: the medians, or a folder that holds them; read first.
    archive
        The checkpoint, if it is an archive.

    Raises
    ------
    InputError
        There are no medians, or they do not fit the vocabulary.
    """
    medians, where = _find_medians(source, options, archive)
    found = _find_vocabulary(source, options, archive)
    if found is None:
        symbol_of = dict(
            zip(*(human_genes()[key] for key in ("ensembl_id", "symbol")), strict=True)
        )
        ids = list(medians)
    else:
        ids, symbol_of = _parse_vocabulary(*found)
        if unscaled := [gene for gene in ids if gene not in medians]:
            raise InputError(
                f"{where}: {len(unscaled):,} genes of {found[1]} have no median "
                f"({', '.join(unscaled[:5])}); they belong to different models"
            )
    table = Vocabulary.build(
        ids, [symbol_of.get(gene, "") for gene in ids], np.array([medians[gene] for gene in ids])
    )
    return Vocabulary(ids=table.ids, symbols=table.symbols, medians=table.medians, synonyms={})


def _find_medians(
    source: Source, options: ImportOptions, archive: NemoArchive | None
) -> tuple[dict[str, float], str]:
    path = _given(options.genes, MEDIANS)
    if options.genes is not None and path is None:
        raise InputError(f"--genes {options.genes}: none of {', '.join(MEDIANS)} in it")
    if path is None and archive and (name := archive.artifact("medians_file", "medians.json")):
        where = f"{archive.path}:{name}"
        return _check_medians(parse_json(archive.text(name) or "", where), where), where
    path = path or _near(source, MEDIANS)
    if path is None:
        raise InputError(
            f"{source.path}: medians.json is missing, the medians that genes are ranked by; "
            "BioNeMo keeps it with its training data: give it, or Geneformer's "
            "gene_median_dictionary_gc30M.pkl, by --genes FILE"
        )
    data = read_pickle(path) if path.suffix == ".pkl" else parse_json(source.text(path), str(path))
    return _check_medians(data, str(path)), str(path)


def _find_vocabulary(
    source: Source, options: ImportOptions, archive: NemoArchive | None
) -> tuple[Any, str] | None:
    path = None
    if options.genes is not None and options.genes.is_dir():
        path = _given(options.genes, VOCABULARY)
    if path is None and archive and (name := archive.artifact("vocab_file", "geneformer.vocab")):
        where = f"{archive.path}:{name}"
        return parse_json(archive.text(name) or "", where), where
    path = path or _near(source, VOCABULARY)
    return None if path is None else (parse_json(source.text(path), str(path)), str(path))


def _given(genes: Path | None, patterns: tuple[str, ...]) -> Path | None:
    """File that --genes names, or the one in the folder that it names."""
    if genes is None:
        return None
    if not genes.exists():
        raise InputError(f"--genes {genes}: no such file or folder")
    if genes.is_file():
        return genes
    return next((path for pattern in patterns for path in sorted(genes.glob(pattern))), None)


def _near(source: Source, patterns: tuple[str, ...]) -> Path | None:
    """Find a file in the checkpoint's folder, its ``context/``, or next to its ``weights/``."""
    folders = [source.folder, source.folder / "context"]
    if source.is_folder and source.folder.name == "weights":
        folders += [source.folder.parent, source.folder.parent / "context"]
    for folder in folders:
        if (path := _given(folder, patterns) if folder.is_dir() else None) is not None:
            return path
    return None


def _check_medians(data: Any, where: str) -> dict[str, float]:
    """Refuse anything but a table of positive numbers by gene."""
    if isinstance(data, Mapping) and data and all(_is_name(gene) for gene in data):
        try:
            medians = {gene: float(value) for gene, value in data.items()}
        except (TypeError, ValueError, OverflowError):
            medians = {}
        if medians and all(0 < value < np.inf for value in medians.values()):
            check_medians(np.array(list(medians.values())), where)
            return medians
    raise InputError(
        f"{where}: not a table of Ensembl ids and medians above zero; give BioNeMo's medians.json "
        "or Geneformer's gene_median_dictionary_gc30M.pkl by --genes"
    )


def _is_name(gene: object) -> bool:
    return isinstance(gene, str) and bool(gene) and gene.isprintable()


def _parse_vocabulary(data: Any, where: str) -> tuple[list[str], dict[str, str]]:
    """Genes in token order, and symbols by gene, of a ``geneformer.vocab``."""
    try:
        names = sorted(data["vocab"], key=data["vocab"].__getitem__)
        tokens = [data["vocab"][name] for name in names]
        symbol_of = {gene: symbol for symbol, gene in reversed(data["gene_to_ens"].items())}
        odd = [name for name in names if not (name and name.isprintable())]
    except (TypeError, KeyError, AttributeError):
        raise InputError(
            f"{where}: not a BioNeMo vocabulary (a JSON table with vocab and gene_to_ens)"
        ) from None
    if odd:
        raise InputError(f"{where}: {first_line(repr(odd[0]))} in it is no name of a gene")
    symbol_of = {gene: symbol for gene, symbol in symbol_of.items() if symbol.isprintable()}
    n_special = len(SPECIAL_TOKENS)
    if tokens != list(range(len(tokens))) or tuple(names[:n_special]) != SPECIAL_TOKENS:
        raise InputError(
            f"{where}: its tokens do not count up from {', '.join(SPECIAL_TOKENS)}; not a "
            "vocabulary of BioNeMo's Geneformer, or damaged"
        )
    return names[n_special:], symbol_of
