"""Options of a training store: how it is downloaded, built, split and read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cellscribe.config.checked import check_fields
from cellscribe.config.shared_options import InputOptions, check_seed
from cellscribe.errors import InputError

LABELS = ("assay", "sex", "development_stage", "tissue_general", "self_reported_ethnicity")
"""Columns of obs that sc-FM tracks with `dataset_id` (NVIDIA sc-FM model card, bias tables)."""
DATASET = "dataset_id"
"""Column of obs that says which dataset a cell belongs to, as in the CELLxGENE Census."""
SOMA_ID = "soma_joinid"
"""Column of obs that numbers the cells of a SOMA store."""


@dataclass(frozen=True, kw_only=True)
class CensusOptions:
    """What `cellscribe corpus census` downloads.

    The defaults are sc-FM's (NVIDIA's model card, "Training Dataset"): human cells of the Census of
    2023-12-15 whose `suspension_type` is not "na", that are primary data, of disease "normal".
    """

    census_version: str = "2023-12-15"
    """Release of the published Census: a date, stable or latest."""
    uri: str | None = None
    """Read this SOMA collection, shaped like the Census, or this experiment instead."""
    organism: str = "Homo sapiens"
    """Whose experiment of the Census."""
    measurement: str = "RNA"
    """Measurement of the experiment that has the counts of genes."""
    x_layer: str | None = None
    """Layer of X with the raw counts; raw, or the only one, if not given."""
    gene_column: str | None = None
    """Column of var with Ensembl ids or symbols; feature_id, or else var_id, if not given."""
    dataset_column: str = DATASET
    """Column of obs that says which dataset a cell belongs to; "none" takes all cells as one."""
    disease: tuple[str, ...] = ("normal",)
    """Keep cells with one of these diseases; "any" keeps all."""
    exclude_suspension_type: tuple[str, ...] = ("na",)
    """Leave out cells of these suspension types; "none" keeps all."""
    include_duplicates: bool = False
    """Keep also cells that are in the Census more than once (is_primary_data False)."""
    where: str | None = None
    """Further condition on obs, such as "tissue_general == 'blood'"."""
    obs: tuple[str, ...] = (*LABELS, DATASET)
    """Columns of obs to keep; soma_joinid and dataset_id always are."""
    dry_run: bool = False
    """Print the cells of every label, and read no counts."""
    retries: int = 5
    """Further tries when the network fails, with growing waits."""
    skip_bad: bool = False
    """Leave out, and list in census.json, datasets whose values are no raw counts."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.retries < 0:
            raise InputError(f"retries is {self.retries}; give 0 or more")

    @property
    def columns(self) -> list[str]:
        """Columns of `obs` that are kept, besides soma_joinid."""
        wanted = dict.fromkeys([*self.obs, DATASET])
        return [name for name in wanted if name != SOMA_ID]

    @property
    def conditions(self) -> dict[str, tuple[str, str]]:
        """Column of obs -> its condition, and the flags that lift it."""
        found = {}
        if self.disease and "any" not in self.disease:
            found["disease"] = (f"disease in {list(self.disease)!r}", "--disease any")
        if excluded := [name for name in self.exclude_suspension_type if name != "none"]:
            text = " and ".join(f"suspension_type != {name!r}" for name in excluded)
            found["suspension_type"] = (text, "--exclude-suspension-type none")
        if not self.include_duplicates:
            found["is_primary_data"] = ("is_primary_data == True", "--include-duplicates")
        return found

    @property
    def value_filter(self) -> str | None:
        """SOMA value filter; None if everything fits."""
        terms = [text for text, _ in self.conditions.values()]
        if self.where:
            terms.append(f"({self.where})")
        return " and ".join(terms) or None


@dataclass(frozen=True, kw_only=True)
class BuildOptions(InputOptions):
    """What goes into a corpus and how."""

    genes: int = 25_424
    """Genes of the vocabulary, those that most training cells show; as many as sc-FM has."""
    vocabulary: Path | None = None
    """Keep this genes.tsv, medians included, instead of choosing genes and finding medians."""
    context: int = 1_024
    """Most genes kept a cell, the highest ranked."""
    min_genes: int = 7
    """Cells with fewer human genes are dropped (7: Theodoris et al. 2023, Methods)."""
    keep_duplicates: bool = False
    """Keep cells whose genes and counts equal an earlier cell's."""
    exclude: tuple[str, ...] = ()
    """COLUMN=VALUE: drop cells that have this value in obs; may stand several times."""
    obs: tuple[str, ...] = ()
    """NAME=COLUMN: read dataset_id or a tracked label from another column of obs."""
    labels: tuple[str, ...] = LABELS
    """Columns of obs to track, with dataset_id."""
    skip_bad: bool = False
    """Leave out sources that cannot be used, and list them in the manifest."""
    shard_cells: int = 32_768
    """Cells a shard, about; four shards at most are in memory at a time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.counts != "raw":
            raise InputError(
                f"--counts {self.counts}: training downsamples the whole counts of a corpus; "
                "round the values, and build from that file"
            )
        for name in ("genes", "context", "shard_cells"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be positive, not {getattr(self, name)}")
        for flag, pairs in (("--exclude", self.exclude), ("--obs", self.obs)):
            for pair in pairs:
                name, equals, value = pair.partition("=")
                if not (name and equals and value):
                    raise InputError(f"{flag} takes NAME=VALUE, not {pair!r}")
        for name in self.columns:
            if name not in (DATASET, *self.labels):
                there = ", ".join((DATASET, *self.labels))
                raise InputError(f"--obs {name}=...: no label {name!r}; there are {there}")

    @property
    def columns(self) -> dict[str, str]:
        """Label -> column of obs that it is read from, where they differ."""
        return dict(pair.split("=", 1) for pair in self.obs)

    @property
    def exclusions(self) -> list[tuple[str, str]]:
        """Columns and the values that exclude a cell."""
        return [tuple(pair.split("=", 1)) for pair in self.exclude]  # type: ignore[misc]


@dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """How a corpus is split."""

    holdout: float = 0.01
    """Share of cells to hold out, the unseen dataset's included; 0 holds out only what is named."""
    validation: float = 0.54
    """Share of the divided hold-out cells that go to val, the others go to test."""
    covered: tuple[str, ...] = ("assay", "tissue_general")
    """Columns whose every label must be in train; an empty label needs no cover."""
    unseen: str | None = None
    """dataset_id that goes to test_unseen; chosen if not given."""
    held_out: tuple[str, ...] = ()
    """dataset_ids that must be held out; others join them to reach the share."""
    train: tuple[str, ...] = ()
    """dataset_ids that must stay in train."""
    seed: int = 0
    """Of the order of the cells, of val and test, and between hold-outs that are equally good."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_seed(self.seed, bits=64)
        if not 0 <= self.holdout < 1:
            raise InputError(f"holdout {self.holdout} is not a share; give 0 or more, less than 1")
        if not 0 <= self.validation <= 1:
            raise InputError(f"validation {self.validation} is not a share; give 0 to 1")
        both = sorted(set(self.train) & {*self.held_out, self.unseen})
        if both:
            raise InputError(
                f"dataset {both[0]!r} is to be in train and held out; name it on one side"
            )


@dataclass(frozen=True, kw_only=True)
class ReaderOptions:
    """What a reader yields; none but the first four decides which cells make up a batch."""

    split: str = "train"
    """Part of the corpus to read."""
    batch_cells: int = 256
    """Cells of a batch, of all ranks together."""
    seed: int = 0
    """Seed of the order of cells."""
    lanes: int = 64
    """Row groups that are mixed at a time, over all ranks; a multiple of their number."""
    layout: Literal["padded", "packed"] = "padded"
    """A row a cell, [PAD] after its tokens, or all cells' tokens one after the other."""
    cls_token: bool = True
    """Put [CLS] in front of each cell."""
    context: int | None = None
    """Most genes of a cell, the highest ranked; all that the corpus has if not given."""
    drop_last: bool = False
    """Leave out the last batch of an epoch if it is not full."""
    threads: int = 2
    """Threads that decode and put together."""

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("batch_cells", "lanes", "threads", "context"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"{name} must be positive, not {getattr(self, name)}")
        if self.seed < 0:
            raise InputError(f"seed must not be negative, as {self.seed} is")
