"""Options of the verb evaluate."""

from dataclasses import dataclass
from pathlib import Path

from cellscribe.config.renamed import accept_former_names
from cellscribe.config.shared_options import DeviceOptions, InputOptions, ModelOptions, SeedOptions
from cellscribe.errors import InputError


@accept_former_names
@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(DeviceOptions, InputOptions, ModelOptions, SeedOptions):
    """How `cellscribe evaluate` works."""

    label: str = "cell_type"
    """Column of obs with cell types."""
    group: str | None = None
    """Column of obs that no fold splits (donor, batch); found by its name if not given."""
    batch: str | None = None
    """Column of obs with batches to be mixed; found by its name if not given."""
    condition: str | None = None
    """Column of obs with perturbations; found by its name if not given."""
    gene_list: Path | None = None
    """Genes and their labels (CSV or TSV with columns gene and label), for the task genes."""
    max_cells: int = 4_000
    """Most cells of a file that are looked at, drawn at random."""
    seeds: int = 3
    """Repetitions with other folds, masks and draws."""
    bootstrap: int = 200
    """Draws for the 95 % interval of a figure."""
    overwrite: bool = False
    """Measure anew what the folder of results already has."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("max_cells", 50), ("seeds", 1), ("bootstrap", 20)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be {least} or more, not {getattr(self, name)}")
