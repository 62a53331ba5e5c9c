"""Options of the verb perturb."""

from dataclasses import dataclass
from typing import Literal

from cellscribe.config.renamed import accept_former_names
from cellscribe.config.shared_options import (
    CheckpointOptions,
    DeviceOptions,
    InputOptions,
    ModelOptions,
    OutputOptions,
    SeedOptions,
)
from cellscribe.errors import InputError


@accept_former_names
@dataclass(frozen=True, kw_only=True)
class PerturbOptions(
    OutputOptions, DeviceOptions, InputOptions, ModelOptions, SeedOptions, CheckpointOptions
):
    """How `cellscribe perturb` works."""

    mode: Literal["delete", "promote"] = "delete"
    """Take the genes out of every cell, or put them in front."""
    genes: tuple[str, ...] = ()
    """Genes to perturb, by Ensembl id or symbol."""
    top: int | None = None
    """Perturb so many of the genes that most cells show, one by one; named ones come on top."""
    combine: bool = False
    """Perturb all named genes together, instead of one by one."""
    group_by: str | None = None
    """Column of obs; figures are given for each of its values."""
    start: str | None = None
    """Value of group_by whose cells are perturbed."""
    goal: str | None = None
    """Value of group_by towards whose centre a move counts."""
    max_cells: int = 1_000
    """Most cells that are perturbed, and most that make a goal, drawn at random with the seed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_cells", "top"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be 1 or more, not {value}")
