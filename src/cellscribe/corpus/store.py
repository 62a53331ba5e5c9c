"""The format of a corpus on disk: names, columns, manifest; open and check a corpus.

::

    DIR/manifest.json                      sources with hashes, splits, shards with hashes, options
    DIR/genes.tsv                          vocabulary and medians (see `cells.vocabulary`)
    DIR/tokens/train/00000.parquet         a row per cell: ranked genes, labels
    DIR/counts/train.zarr/dataset_0        the same cells in the same order, as AnnData

The files can be read without this package: `datasets.load_dataset("parquet", ...)` opens the
tokens, `anndata.read_zarr` a counts shard, `annbatch.DatasetCollection` a split of them. Cells are
shuffled over all sources before they are written, so consecutive rows are a random sample.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellscribe.cells.gene_names.vocabulary import Vocabulary
from cellscribe.config import LABELS
from cellscribe.config.files import check_file
from cellscribe.corpus.manifest import CORE, MANIFEST, read_manifest
from cellscribe.corpus.row_groups import check_tokens, readable, whole
from cellscribe.errors import InputError
from cellscribe.writing import hash_of, size_of

if TYPE_CHECKING:
    import pyarrow as pa

GENES = "genes.tsv"
NO_LABEL = "unknown"
"""Label of cells whose source gives none; the Census writes the same word."""
ROW_GROUP = 1_024
"""Number of cells of a Parquet row group, which a reader decodes at once."""


def token_schema(labels: Sequence[str] = LABELS) -> pa.Schema:
    """Return the columns of a token file.

    ``cell`` is the cell's number in the concatenated sources and never changes; ``input_ids`` are
    gene tokens, highest rank first, without special tokens; ``n_counts`` is over all columns of the
    source, ``n_genes`` counts human genes; ``cell_hash`` depends on the genes and their counts.
    """
    import pyarrow as pa

    text = pa.dictionary(pa.int32(), pa.string())
    # without nulls to look for, readers are 1.5 times as fast
    tokens = pa.list_(pa.field("element", pa.uint16(), nullable=False))
    return pa.schema(
        [
            ("cell", pa.int64()),
            ("cell_id", pa.string()),
            pa.field("input_ids", tokens, nullable=False),
            ("length", pa.int32()),
            ("n_counts", pa.int64()),
            ("n_genes", pa.int32()),
            ("cell_hash", pa.uint64()),
            ("source", text),
            ("dataset_id", text),
            *((label, text) for label in labels),
        ]
    )


def tokens_name(split: str, shard: int) -> str:
    """Return the path of a shard's tokens, relative to the corpus."""
    return f"tokens/{split}/{shard:05}.parquet"


def counts_name(split: str, shard: int) -> str:
    """Return the path of a shard's counts, relative to the corpus."""
    return f"counts/{split}.zarr/dataset_{shard}"


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A finished corpus, opened.

    Attributes
    ----------
    path
        The folder.
    manifest
        Contents of ``manifest.json``.
    vocabulary
        ``genes.tsv``.
    """

    path: Path
    manifest: dict[str, Any]
    vocabulary: Vocabulary

    @property
    def splits(self) -> dict[str, dict[str, Any]]:
        """Split -> ``cells``, ``tokens`` and ``shards``; only splits that have cells."""
        return self.manifest["splits"]

    @property
    def labels(self) -> list[str]:
        """Tracked columns of obs, without ``dataset_id``."""
        return self.manifest["labels"]

    @property
    def context(self) -> int:
        """Largest number of genes kept per cell."""
        return self.manifest["context"]

    @cached_property
    def hash(self) -> str:
        """First 16 hexadecimal digits of the manifest's SHA-256, which identify the corpus."""
        return hash_of(self.path / MANIFEST)[:16]

    def shards(self, split: str) -> list[dict[str, Any]]:
        """Return a split's shards in order: ``cells``, and name, bytes and hash of each half.

        Raises
        ------
        InputError
            The corpus has no such split.
        """
        if split not in self.splits:
            there = ", ".join(self.splits) or "none"
            raise InputError(f"{self.path} has no split {split!r}; there are {there}")
        return self.splits[split]["shards"]

    def token_files(self, split: str) -> list[Path]:
        """Return the paths of a split's token files, in order."""
        return [self.path / shard["tokens"]["name"] for shard in self.shards(split)]

    def summary(self) -> list[str]:
        """Describe the contents, one fact per line."""
        lines = []
        for split, facts in self.splits.items():
            shards = len(facts["shards"])
            lines.append(
                f"{split}: {facts['cells']:,} cells, {facts['tokens']:,} tokens in {shards:,} "
                f"{'shard' if shards == 1 else 'shards'}"
            )
        lines.append(f"{self.vocabulary.n_genes:,} genes: {self.manifest['vocabulary']['chosen']}")
        dropped = self.manifest["dropped"]
        lines += [f"Dropped: {n:,} cells, {reason}" for reason, n in dropped.items()]
        return lines

    def cells(self, split: str, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Read columns of a split's cells, one table per shard.

        Raises
        ------
        InputError
            A shard is missing or damaged, or a token is not in the gene table.
        """
        import pyarrow.parquet as pq

        for path in self.token_files(split):
            with readable(path):
                table = pq.read_table(path, columns=list(columns), partitioning=None)
                # indices of labels in range, text in UTF-8: nothing that reads them looks again
                table.validate(full=True)
            for name in columns:
                if name in CORE and table[name].null_count:
                    raise InputError(
                        f"{path}: column {name!r} has empty places; copy the corpus anew"
                    )
            if "input_ids" in columns:
                tokens = whole(table["input_ids"]).values
                check_tokens(tokens.to_numpy(zero_copy_only=False), self.vocabulary, path)
            yield table


def open_corpus(path: str | Path, *, deep: bool = False) -> Corpus:
    """Open a corpus and check that its shards are those of its manifest.

    Parameters
    ----------
    path
        The folder that ``cellscribe corpus build`` made.
    deep
        Whether to compare hashes too, which reads every shard; else sizes and numbers of rows.

    Raises
    ------
    InputError
        There is no corpus, it is not finished, or a shard is missing or differs from the manifest.
    """
    path = Path(path)
    again = "run the cellscribe corpus build that made it again"
    if not os.path.lexists(path / MANIFEST):
        if (path / ".build").is_dir():
            raise InputError(f"{path}: the corpus is not finished; {again}, and it goes on")
        raise InputError(f"{path} holds no corpus; make one with cellscribe corpus build")
    manifest = read_manifest(path, again)
    corpus = Corpus(path=path, manifest=manifest, vocabulary=Vocabulary.read(path / GENES))
    if corpus.vocabulary.hash != manifest["vocabulary"]["hash"]:
        raise InputError(f"{path / GENES} is not the gene table of the manifest; {again}")
    for split in corpus.splits:
        for shard in corpus.shards(split):
            _check_shard(corpus, shard, again, deep=deep)
    return corpus


def _check_shard(corpus: Corpus, shard: dict[str, Any], fix: str, *, deep: bool) -> None:
    """Compare a shard with the manifest; a corpus may have no counts at all."""
    import pyarrow.parquet as pq

    for half in ("tokens", "counts"):
        entry = shard.get(half)
        if entry is None or (half == "counts" and not (corpus.path / half).exists()):
            continue
        there = corpus.path / entry["name"]
        if not there.exists():
            raise InputError(f"{there} is missing; copy the whole corpus, or remove it and {fix}")
        if half == "tokens":
            check_file(there, fix=f"remove the corpus and {fix}")
        if size_of(there) != entry["bytes"] or (deep and hash_of(there) != entry["sha256"]):
            raise InputError(f"{there} does not fit the manifest; remove the corpus and {fix}")
    tokens = corpus.path / shard["tokens"]["name"]
    with readable(tokens):
        footer = pq.read_metadata(tokens)
        schema = footer.schema.to_arrow_schema()
    if footer.num_rows != shard["cells"]:
        raise InputError(
            f"{tokens} has {footer.num_rows:,} cells, the manifest {shard['cells']:,}; "
            f"remove the corpus and {fix}"
        )
    _check_columns(tokens, schema, corpus.labels, fix)


def _check_columns(path: Path, schema: pa.Schema, labels: Sequence[str], fix: str) -> None:
    """Refuse a token file whose columns are not those of `token_schema`."""
    import pyarrow as pa

    for wanted in token_schema(labels):
        places = schema.get_all_field_indices(wanted.name)
        if len(places) != 1:
            raise InputError(
                f"{path} has {len(places)} columns {wanted.name!r} where there should be one; "
                f"remove the corpus and {fix}"
            )
        found = schema.field(places[0]).type
        if pa.types.is_dictionary(wanted.type):
            is_text = pa.types.is_string(found) or pa.types.is_large_string(found)
            fits = found == wanted.type or is_text
        elif pa.types.is_list(wanted.type):
            fits = pa.types.is_list(found) and found.value_type == wanted.type.value_type
        else:
            fits = found == wanted.type
        if not fits:
            raise InputError(
                f"{path}: column {wanted.name!r} is of type {found}, not {wanted.type}; remove the "
                f"corpus and {fix}"
            )
