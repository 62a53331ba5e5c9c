"""Geneformer's gene dictionaries: four pickles beside a model, found and read as a gene table.

The published repository keeps them in ``geneformer/`` (second release, suffix ``_gc104M``, earlier
``_gc95M``: the same bytes) and ``geneformer/gene_dictionaries_30m/`` (first release), next to the
folders of the models. A model uses those that have as many tokens as it has.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

from cellscribe.cells.symbols import table as human_table
from cellscribe.cells.vocabulary import Vocabulary
from cellscribe.errors import InputError
from cellscribe.families.geneformer.gene_ids import synonyms_of
from cellscribe.families.unpickle import read_pickle

TOKENS, MEDIANS = "token_dictionary", "gene_median_dictionary"
NAMES, MAPPING = "gene_name_id_dict", "ensembl_mapping_dict"
PLACES = ("", "geneformer", "geneformer/gene_dictionaries_30m", "gene_dictionaries_30m")
"""Folders of the dictionaries, relative to a model's folder or one above it."""
ABOVE = 3
"""Number of folders above a model's that are searched."""
WHICH = "those of gc30M (25,426 tokens) go with V1, those of gc95M and gc104M (20,275) with V2"


@dataclass(frozen=True)
class Dictionaries:
    """A gene table, and the files that it was read from."""

    vocabulary: Vocabulary
    files: tuple[str, ...]
    """Names of the files read."""
    has_mapping: bool
    """Whether the dictionary of retired ids was there."""


def read_dictionaries(folder: Path, genes: Path | None, n_tokens: int) -> Dictionaries:
    """Find the dictionaries of a model and read them.

    Parameters
    ----------
    folder
        The model's.
    genes
        A folder with the dictionaries, or the token dictionary, if a user names one.
    n_tokens
        Rows of the model's table of gene vectors.

    Raises
    ------
    InputError
        There are none, none of that size, or they are damaged or do not belong together.
    """
    sizes = []
    for path in _token_dictionaries(folder, genes):
        ids = _token_order(path)
        if len(ids) == n_tokens:
            return _read(path, ids)
        sizes.append(f"{path} has {len(ids):,}")
    wanted = f"{TOKENS}*.pkl, {MEDIANS}*.pkl and, where there is one, {MAPPING}*.pkl"
    if not sizes:
        where = genes or f"{folder}, geneformer/ in it, or the folders above"
        raise InputError(
            f"no {TOKENS}*.pkl in {where}; give --genes the folder that holds {wanted}"
        )
    raise InputError(
        f"the model has {n_tokens:,} tokens, but {'; '.join(sizes)}: {WHICH}; "
        f"give --genes the folder with the model's own {wanted}"
    )


def _token_dictionaries(folder: Path, genes: Path | None) -> Iterator[Path]:
    """Token dictionaries, the nearest first."""
    if genes is not None and genes.is_file():
        yield genes
        return
    if genes is not None and not genes.is_dir():
        raise InputError(f"{genes}: no such file or folder (--genes)")
    folder = folder.absolute()
    starts = (genes,) if genes is not None else (folder, *folder.parents[:ABOVE])
    for start in starts:
        for place in PLACES:
            yield from sorted((start / place).glob(f"{TOKENS}*.pkl"))


def _read(path: Path, ids: tuple[str, ...]) -> Dictionaries:
    n_special = next((i for i, name in enumerate(ids) if name[0] != "<"), len(ids))
    medians_path = _companion(path, MEDIANS)
    if not medians_path.is_file():
        raise InputError(f"{medians_path} is missing; copy it from the published repository")
    medians = _dictionary(medians_path, Real)
    lacking = [name for name in ids[n_special:] if name not in medians]
    if lacking:
        raise InputError(
            f"{medians_path}: {len(lacking):,} genes of {path.name} have no median (such as "
            f"{', '.join(lacking[:5])}); take both files from one release"
        )
    files, names, mapping = [path.name, medians_path.name], {}, None
    if (names_path := _companion(path, NAMES)).is_file():
        names = {gene: symbol for symbol, gene in _texts(names_path).items()}
        files.append(names_path.name)
    if (mapping_path := _companion(path, MAPPING)).is_file():
        mapping = _texts(mapping_path)
        files.append(mapping_path.name)
    symbol_of = human_table().symbol_of
    vocabulary = Vocabulary(
        ids=ids,
        symbols=tuple(names.get(name) or symbol_of.get(name, "") for name in ids),
        medians=np.array([math.nan] * n_special + [float(medians[n]) for n in ids[n_special:]]),
        n_special=n_special,
        synonyms=synonyms_of(mapping, ids),
    )
    return Dictionaries(vocabulary, tuple(files), mapping is not None)


def _companion(path: Path, kind: str) -> Path:
    """File of another kind with the same suffix, in the same folder."""
    if TOKENS not in path.name:
        raise InputError(
            f"{path}: name it as published, {TOKENS}*.pkl, so that {MEDIANS}*.pkl beside it is "
            "known to belong to it"
        )
    return path.with_name(path.name.replace(TOKENS, kind))


def _token_order(path: Path) -> tuple[str, ...]:
    """Names of a token dictionary in token order."""
    tokens = _dictionary(path, Integral)
    ids = tuple(sorted(tokens, key=lambda name: int(tokens[name])))
    if [int(tokens[name]) for name in ids] != list(range(len(ids))):
        raise InputError(
            f"{path}: the tokens are not 0 to {len(ids) - 1:,}, each once; copy it again"
        )
    n_special = sum(name[0] == "<" for name in ids)
    if {"<pad>", "<mask>"} - set(ids[:n_special]):
        raise InputError(
            f"{path}: <pad> and <mask> must stand before the genes; is it Geneformer's?"
        )
    return ids


def _dictionary(path: Path, values: type) -> dict[str, Any]:
    """Read a pickle that must be a dictionary from names to `values`."""
    found = read_pickle(path)
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and name and isinstance(value, values)
        for name, value in found.items()
    ):
        what = "medians" if values is Real else "tokens"
        raise InputError(f"{path}: not a dictionary from gene names to {what}; copy it again")
    return found


def _texts(path: Path) -> dict[str, str]:
    """Read a pickled dictionary from names to names, without entries that are not text."""
    found = read_pickle(path)
    if not isinstance(found, dict):
        raise InputError(f"{path}: not a dictionary of gene names; copy it again")
    return {
        name: gene
        for name, gene in found.items()
        if isinstance(name, str) and isinstance(gene, str) and name
    }
