"""Options of a run over many sources."""

from dataclasses import dataclass, replace
from typing import Literal

from cellscribe.config.shared_options import Options, check_positive
from cellscribe.errors import InputError

Form = Literal["parquet", "h5ad", "zarr", "npy"]


@dataclass(frozen=True, kw_only=True)
class ShardOptions(Options):
    """How many sources are shared out."""

    form: Form = "parquet"
    """Form of the results where the output is a folder."""
    workers: int | None = None
    """Processes on this machine (1): each takes its part of the cores, and a GPU of its own."""
    rows_per_shard: int = 500_000
    """Cut larger sources that are stored by rows into shards of so many cells; 0 cuts none."""
    strict: bool = False
    """Stop at the first source that fails, in place of listing the failures at the end."""
    dry_run: bool = False
    """Look at every source, try two seconds of the work, print what it all would take, and stop."""
    patience: float = 60.0
    """Seconds without a sign of life after which another worker takes a shard over."""
    spool_gb: float | None = None
    """Most disk space for copies of remote sources in TMPDIR; half of what is free if not given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, ("workers", "patience", "spool_gb"))
        if self.rows_per_shard < 0:
            raise InputError(f"rows_per_shard is {self.rows_per_shard}; give 0 (none) or more")

    @property
    def in_other_processes(self) -> bool:
        """Whether this process only oversees the workers."""
        return (self.workers or 1) > 1

    def of_one_worker(self) -> "ShardOptions":
        """Options that each of the workers gets."""
        return replace(self, workers=None, rows_per_shard=0)
