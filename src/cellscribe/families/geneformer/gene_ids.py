"""Geneformer's dictionary of gene names, to and from the synonyms of a gene table.

Its tokeniser writes the names of a file in capitals, looks them up unchanged, and keeps those that
the token dictionary has; counts of names with the same target are summed. The dictionary holds the
current ids, retired ids and, in the second release, symbols. Without it each id is read unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cellscribe.cells.gene_names.vocabulary import Vocabulary


def synonyms_of(mapping: Mapping[str, str] | None, ids: Sequence[str]) -> dict[str, int]:
    """Names that are read as another id, and ids that are read as nothing (-1).

    Parameters
    ----------
    mapping
        Published: name -> Ensembl id, the canonical ones among the names; None for none.
    ids
        Ids of the gene table in token order; special tokens may be among them.
    """
    if mapping is None:
        return {}
    token_of = {gene: token for token, gene in enumerate(ids) if gene[0] != "<"}
    found = {
        name: token_of[gene]
        for name, gene in mapping.items()
        # another spelling is never looked up, and a file's names are stripped
        if gene in token_of and name != gene and name == name.upper().strip() and name.isprintable()
    }
    lost = {gene: -1 for gene in token_of if mapping.get(gene) not in token_of}
    return {**found, **lost}


def mapping_of(vocabulary: Vocabulary) -> dict[str, str]:
    """Publish a gene table's names: every name that it reads -> the id that it is read as."""
    genes = vocabulary.ids[vocabulary.n_special :]
    synonyms = vocabulary.synonyms or {}
    mapping = dict(zip(genes, genes, strict=True))
    mapping.update({name: vocabulary.ids[t] for name, t in synonyms.items() if t >= 0})
    return {name: gene for name, gene in mapping.items() if synonyms.get(name) != -1}
