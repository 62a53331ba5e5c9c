"""Options of the verb index."""

from dataclasses import dataclass
from typing import Literal

from cellscribe.config.annotate import Align
from cellscribe.config.finetune import CalibrationOptions
from cellscribe.config.shared_options import (
    CheckpointOptions,
    DeviceOptions,
    InputOptions,
    ModelOptions,
    OutputDtype,
    OutputOptions,
    check_positive,
)
from cellscribe.errors import InputError

SearchKind = Literal["auto", "exact", "approximate"]


@dataclass(frozen=True, kw_only=True)
class IndexOptions(
    OutputOptions, DeviceOptions, InputOptions, ModelOptions, CheckpointOptions, CalibrationOptions
):
    """How `cellscribe index build` works."""

    label: tuple[str, ...] = ()
    """Column of obs with labels; may be given several times, the first is what annotate gives."""
    obs: tuple[str, ...] = ()
    """Column of obs that is kept for each cell; may be given several times."""
    use_rep: str | None = None
    """Key of obsm with finished vectors of the model; without it counts are embedded."""
    n_neighbors: int = 15
    """Cells that vote on a label."""
    deduplicate: bool = False
    """Leave out cells that the model reads the same, or whose vectors are the same, as earlier."""
    dtype: OutputDtype = "float16"
    """Type of the stored vectors."""
    search: SearchKind = "auto"
    """exact compares with every cell; approximate needs faiss; auto takes it from 100,000 on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, ("n_neighbors",))
        names = (*self.label, *self.obs)
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"column {name!r} is named twice (--label, --obs); name it once")


@dataclass(frozen=True, kw_only=True)
class AddOptions(DeviceOptions, InputOptions):
    """How `cellscribe index add` works."""

    model: str | None = None
    """Where the index's model lies, if not where it lay when the index was built."""
    use_rep: str | None = None
    """Key of obsm with finished vectors of the model; without it counts are embedded."""
    deduplicate: bool = False
    """Leave out cells that the model reads the same, or whose vectors are the same, as earlier."""


@dataclass(frozen=True, kw_only=True)
class QueryOptions(OutputOptions, DeviceOptions, InputOptions):
    """How `cellscribe index query` works."""

    model: str | None = None
    """Where the index's model lies, if not where it lay when the index was built."""
    label: str | None = None
    """The only column of labels to give; all that the index has if not named."""
    use_rep: str | None = None
    """Key of obsm with finished vectors of the model; without it counts are embedded."""
    align: Align = "auto"
    """How vectors are brought to those of the index: none, center, scale, mnn (mutual nearest
    neighbours), or auto: mnn where cells lie farther than held-out ones, and it makes sense."""
