"""Geneformer's gene dictionaries: four pickles beside a model, found and read as a gene table.

The published repository keeps them in ``geneformer/`` (second release, suffix ``_gc104M``, earlier
``_gc95M``: the same bytes) and ``geneformer/gene_dictionaries_30m/`` (first release), next to the
folders of the models. A model uses those that have as many tokens as it has.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cellscribe.cells.gene_names.symbols import table as human_table
from cellscribe.cells.gene_names.vocabulary import Vocabulary
from cellscribe.errors import InputError
from cellscribe.families.geneformer.gene_ids import synonyms_of
from cellscribe.families.source import first_line
from cellscribe.families.unpickle import read_pickle

TOKENS, MEDIANS = "token_dictionary", "gene_median_dictionary"
NAMES, MAPPING = "gene_name_id_dict", "ensembl_mapping_dict"
SYMBOLS = "GeneSymbol_to_EnsemblID"
"""Mouse-Geneformer's dictionary of names; it puts words of its own before the others' names too."""
PLACES = ("", "geneformer", "geneformer/gene_dictionaries_30m", "gene_dictionaries_30m")
"""Folders of the dictionaries, relative to a model's folder or one above it."""
ABOVE = 3
"""Number of folders above a model's that are searched."""
WHICH = "those of gc30M (25,426 tokens) go with V1, those of gc95M and gc104M (20,275) with V2"
MOST_MEDIAN = 10_000.0
"""Medians are of counts per 10,000."""
_SPECIES = {"ENSG": "human", "ENSMUSG": "mouse", "ENSRNOG": "rat", "ENSDARG": "zebrafish"}
_GENE = re.compile(r"(ENS[A-Z]*G)\d{11}")


@dataclass(frozen=True)
class Dictionaries:
    """A gene table, and the files that it was read from."""

    vocabulary: Vocabulary
    files: tuple[str, ...]
    """Names of the files read."""
    has_mapping: bool
    """Whether the dictionary of retired ids was there."""

    @property
    def species(self) -> str:
        """Of the genes, by most of their ids: "human", "mouse", or the ids' prefix."""
        return species_of(self.vocabulary.ids[self.vocabulary.n_special :])


def species_of(genes: Sequence[str]) -> str:
    """Species of most Ensembl ids: "human", "mouse", or a prefix without a name here.

    Parameters
    ----------
    genes
        Ids; "" is returned where fewer than half of them are Ensembl's.
    """
    found = Counter(match[1] for gene in genes if (match := _GENE.fullmatch(gene)))
    prefix, n = found.most_common(1)[0] if found else ("", 0)
    return _SPECIES.get(prefix, prefix) if 2 * n >= len(genes) else ""


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
    sizes = sizes[:5]
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
            found = (start / place).glob(f"*{TOKENS}*.pkl")
            # the published name first
            yield from sorted(
                (path for path in found if SYMBOLS not in path.name),
                key=lambda path: (not path.name.startswith(TOKENS), path.name),
            )


def _read(path: Path, ids: tuple[str, ...]) -> Dictionaries:
    n_special = next((i for i, name in enumerate(ids) if name[0] != "<"), len(ids))
    genes = ids[n_special:]
    medians_path = _companion(path, MEDIANS)
    if not medians_path.is_file():
        raise InputError(f"{medians_path} is missing; copy it from the published repository")
    medians = _medians(medians_path, genes, path)
    files, names, mapping = [path.name, medians_path.name], {}, None
    if (names_path := _companion(path, NAMES, SYMBOLS)).is_file():
        names = _symbols(names_path, genes)
        files.append(names_path.name)
    if (mapping_path := _companion(path, MAPPING)).is_file():
        mapping = _mapping(mapping_path, genes)
        files.append(mapping_path.name)
    symbol_of = human_table().symbol_of
    vocabulary = Vocabulary(
        ids=ids,
        symbols=tuple(names.get(name) or symbol_of.get(name, "") for name in ids),
        medians=np.array([math.nan] * n_special + medians),
        n_special=n_special,
        synonyms=synonyms_of(mapping, ids),
    )
    return Dictionaries(vocabulary, tuple(files), mapping is not None)


def _companion(path: Path, *kinds: str) -> Path:
    """File of another kind in the same folder: with the same suffix, or the only one of its kind.

    The second holds only for makers who put words of their own before the names.
    """
    if TOKENS not in path.name:
        raise InputError(
            f"{path}: name it as published, {TOKENS}*.pkl, so that {MEDIANS}*.pkl beside it is "
            "known to belong to it"
        )
    published = path.with_name(path.name.replace(TOKENS, kinds[0]))
    if published.is_file() or path.name.startswith(TOKENS):
        return published
    found = sorted({other for kind in kinds for other in path.parent.glob(f"*{kind}*.pkl")})
    if len(found) > 1:
        raise InputError(
            f"{path.parent}: which of {', '.join(other.name for other in found[:5])} goes with "
            f"{path.name}? leave only that one in the folder"
        )
    return found[0] if found else published


def _medians(path: Path, genes: Sequence[str], tokens_path: Path) -> list[float]:
    """Medians of genes, which must be able to be such."""
    medians = _dictionary(path, Real)
    lacking = [name for name in genes if name not in medians]
    if lacking:
        raise InputError(
            f"{path}: {len(lacking):,} genes of {tokens_path.name} have no median (such as "
            f"{', '.join(map(first_line, lacking[:5]))}); take both files from one release"
        )
    values = np.array([float(medians[name]) for name in genes])
    check_medians(values, str(path))
    return [float(value) for value in values]


def check_medians(values: npt.NDArray[np.float64], where: str) -> None:
    """Refuse numbers that cannot be the medians of counts per 10,000.

    Parameters
    ----------
    values
        ``[G]``, in token order.
    where
        Name of their file in messages.

    Raises
    ------
    InputError
        They are the numbers of tokens, or some are negative, too large, or no numbers.
    """
    whole = bool((values == np.floor(values)).all())
    if whole and len(values) > 9 and len(np.unique(values)) == len(values):
        raise InputError(
            f"{where}: holds {values.min():,.0f} to {values.max():,.0f}, whole numbers and each "
            f"once: tokens, not medians; it is a {TOKENS}, take the {MEDIANS} of the release"
        )
    bad = ~((values > 0) & (values <= MOST_MEDIAN))
    if bad.any():
        raise InputError(
            f"{where}: {int(bad.sum()):,} genes have no median above zero (and at most "
            f"{MOST_MEDIAN:,.0f}, for counts per 10,000), such as {values[bad][0]:g}; copy it again"
        )


def _symbols(path: Path, genes: Sequence[str]) -> dict[str, str]:
    """Symbol of each gene that has one."""
    texts = _texts(path)
    if genes and len(set(genes) & set(texts)) > len(genes) / 2:
        raise InputError(
            f"{path}: names of genes are Ensembl ids in it, so it is a {MAPPING}, not a {NAMES}; "
            "take both from one release"
        )
    symbols = {gene: symbol for symbol, gene in texts.items()}
    return {gene: symbol for gene, symbol in symbols.items() if symbol.isprintable()}


def _mapping(path: Path, genes: Sequence[str]) -> dict[str, str]:
    """Names and the ids that they are read as; most genes must be read at all."""
    mapping = _texts(path)
    known = set(genes)
    lost = sum(mapping.get(gene) not in known for gene in genes)
    if lost > len(genes) / 2:
        raise InputError(
            f"{path}: {lost:,} of {len(genes):,} genes of the token dictionary are read as nothing "
            f"by it; is it a {NAMES}, or of another release? take all files from one"
        )
    return mapping


def _token_order(path: Path) -> tuple[str, ...]:
    """Names of a token dictionary in token order."""
    tokens = _dictionary(path, Integral)
    ids = tuple(sorted(tokens, key=lambda name: int(tokens[name])))
    if [int(tokens[name]) for name in ids] != list(range(len(ids))):
        raise InputError(
            f"{path}: the tokens are not 0 to {len(ids) - 1:,}, each once; copy it again"
        )
    if odd := [name for name in ids if not name.isprintable()]:
        raise InputError(f"{path}: {first_line(repr(odd[0]))} is no name of a gene; copy it again")
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
