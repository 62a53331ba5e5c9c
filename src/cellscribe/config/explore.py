"""Options of the verb explore."""

from dataclasses import dataclass

from cellscribe.config.shared_options import OutputOptions, SeedOptions, check_positive
from cellscribe.errors import InputError

COUNTS_PCA = "pca"
"""Word among `ExploreOptions.basis` for principal components of the counts."""


@dataclass(frozen=True, kw_only=True)
class ExploreOptions(OutputOptions, SeedOptions):
    """How `cellscribe explore` works."""

    color: tuple[str, ...] = ()
    """Column of obs to colour by; may be given several times. The first is shown first; all columns
    if not given."""
    gene: tuple[str, ...] = ()
    """Gene to colour by, name or Ensembl id; may be given several times."""
    basis: tuple[str, ...] = ()
    """Map to draw: a key of obsm, or pca (of the counts); one or two. Two columns are drawn as they
    are, more are laid out by UMAP. The model's vectors next to a PCA if not given."""
    use_rep: str | None = None
    """Key of obsm with the vectors that neighbors are found in; those of cellscribe if not
    given."""
    layer: str | None = None
    """Where the raw counts are: X (default), raw, or a layer's name."""
    max_cells: int = 200_000
    """Most cells of the page; of more, so many are drawn at random."""
    title: str | None = None
    """Title of the page."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, ("max_cells",))
        if len(self.basis) > 2:
            raise InputError(
                f"--basis names {len(self.basis)} maps; two at most stand next to each other"
            )
        for field, names in (("color", self.color), ("gene", self.gene), ("basis", self.basis)):
            for name in names:
                if names.count(name) > 1:
                    raise InputError(f"--{field} {name!r} is named twice; name it once")
