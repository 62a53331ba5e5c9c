"""Options of the verb annotate."""

from dataclasses import dataclass, fields
from typing import Literal

from cellscribe.config.finetune import CalibrationOptions
from cellscribe.config.renamed import accept_former_names
from cellscribe.config.shared_options import (
    DeviceOptions,
    InputOptions,
    ModelOptions,
    OutputOptions,
    Species,
    check_positive,
)
from cellscribe.errors import InputError

Align = Literal["auto", "none", "center", "scale", "mnn"]


@accept_former_names
@dataclass(frozen=True, kw_only=True)
class AnnotateOptions(OutputOptions, DeviceOptions, InputOptions, ModelOptions, CalibrationOptions):
    """How `cellscribe annotate` works."""

    model: str = "mini"
    """A fine-tuned model's directory; with --reference, the model whose vectors are compared."""
    reference: str | None = None
    """Labelled cells, whose nearest give the label; nothing is trained."""
    index: str | None = None
    """An index of labelled cells (cellscribe index build), whose nearest give the label."""
    label: str | None = None
    """Column of the reference's obs with the labels, or one of the index's; else its first."""
    n_neighbors: int = 15
    """Nearest reference cells that vote on a label, next to a classifier of all of them."""
    reference_layer: str | None = None
    """Where the reference's raw counts are: X (default), raw, or a layer's name."""
    reference_species: Species | None = None
    """Whose genes the reference has, if not the same as the input's (--species)."""
    align: Align = "auto"
    """How vectors are brought to those of the reference or index: none, center, scale, mnn (mutual
    nearest neighbours), or auto: mnn where cells are shifted, and it makes sense."""
    probabilities: bool = False
    """Give the probabilities of all labels too."""
    key_added: str = "cellscribe"
    """Start of the names of the columns that are added to obs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, ("n_neighbors",))
        if self.reference is not None and self.label is None:
            raise InputError("say which column of the reference's obs holds the labels: --label")
        if self.index is not None:
            self._check_index()
        elif self.reference is None:
            for name in ("label", "group", "reference_layer", "reference_species"):
                if getattr(self, name) is not None:
                    raise InputError(
                        f"--{name.replace('_', '-')} is the reference's; give --reference too"
                    )

    def _check_index(self) -> None:
        """Refuse what was settled when an index was built."""
        if self.reference is not None:
            raise InputError("an index and a reference are given; leave --index or --reference out")
        for name in ("probabilities", "reference_species"):
            if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise InputError(
                    f"--{name.replace('_', '-')} is not for an index; leave it out, or give "
                    "--reference"
                )
        settled = ("pool", "hidden_layer", "target_depth", "n_neighbors", "reference_layer")
        for field in fields(self):
            of_calibration = field.name in {each.name for each in fields(CalibrationOptions)}
            if (of_calibration or field.name in settled) and (
                getattr(self, field.name) != field.default
            ):
                raise InputError(
                    f"--{field.name.replace('_', '-')} is settled when an index is built; leave "
                    "it out, or build the index with it"
                )
