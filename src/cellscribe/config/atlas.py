"""Options of a run over many sources."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from cellscribe.config.shared_options import Options, check_positive
from cellscribe.errors import InputError

Form = Literal["parquet", "h5ad", "zarr", "npy"]
Engine = Literal["local", "ray"]
OF_RAY = ("address", "cpus_per_worker", "gpus_per_worker", "deadline")


@dataclass(frozen=True, kw_only=True)
class ShardOptions(Options):
    """How many sources are shared out."""

    form: Form = "parquet"
    """Form of the results where the output is a folder."""
    workers: int | None = None
    """Processes on this machine (1): each takes its part of the cores, and a GPU; see --engine."""
    engine: Engine = "local"
    """Where the workers are: on this machine, or on a Ray cluster, as many as its CPUs less one."""
    address: str | None = None
    """With ray: HOST:PORT of the head, ray://HOST:PORT, or auto (the cluster of this machine)."""
    cpus_per_worker: int | None = None
    """With ray: CPUs, and so threads, of each worker (1)."""
    gpus_per_worker: float | None = None
    """With ray: GPUs of each worker (0); 0.5 lets two share one."""
    deadline: float | None = None
    """With ray: seconds in which a first worker has to start (120)."""
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
        check_positive(self, ("workers", "patience", "spool_gb", "cpus_per_worker", "deadline"))
        given = [name for name in OF_RAY if getattr(self, name) is not None]
        if given and self.engine != "ray":
            flag = given[0].replace("_", "-")
            raise InputError(f"--{flag} is for --engine ray; add that, or leave it out")
        gpus = self.gpus_per_worker or 0
        if gpus < 0 or (gpus > 1 and gpus != int(gpus)):
            raise InputError(
                f"--gpus-per-worker must be a part of one GPU or a whole number, not {gpus:g}"
            )
        if self.rows_per_shard < 0:
            raise InputError(f"rows_per_shard is {self.rows_per_shard}; give 0 (none) or more")

    @property
    def in_other_processes(self) -> bool:
        """Whether this process only oversees the workers."""
        return self.engine != "local" or (self.workers or 1) > 1

    def of_one_worker(self) -> "ShardOptions":
        """Options that each of the workers gets."""
        none: dict[str, Any] = dict.fromkeys(("workers", *OF_RAY))
        return replace(self, engine="local", rows_per_shard=0, **none)
