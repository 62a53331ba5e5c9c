"""Options that verbs share, each with one meaning; the options of a verb inherit them."""

from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from cellscribe.config.checked import check_fields, from_mapping
from cellscribe.errors import InputError

Precision = Literal["auto", "float32", "bf16", "fp16"]
Species = Literal["human", "mouse"]
OutputDtype = Literal["float32", "float16"]
CountsKind = Literal["raw", "fractional", "tpm"]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a verb; each part checks its own fields."""

    def __post_init__(self) -> None:
        """Refuse values that no verb can work with."""
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions(Options):
    """Which model."""

    model: str = "mini"
    """A bundled model, a checkpoint directory, or OWNER/NAME[@REV][:FOLDER] of Hugging Face."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Options):
    """How a model makes vectors; None is the way that its family publishes."""

    pool: str | None = None
    """How a cell's vector is made of its genes' (genes, cls, ...; cellscribe info names them)."""
    hidden_layer: int | None = None
    """Layer that vectors are read from, counted from the end: -1 is the last."""
    target_depth: str | None = None
    """Read depth that scFoundation aims at: t4 (10^4 counts), f2 (twofold), a1 (+1)."""


@dataclass(frozen=True, kw_only=True)
class InputOptions(Options):
    """Where the counts and the genes are in the input."""

    layer: str | None = None
    """Where the raw counts are: X (default), raw, or a layer's name."""
    gene_key: str | None = None
    """Column of var with Ensembl ids or symbols; found by its values if not given."""
    species: Species = "human"
    """Whose genes the file has; mouse genes are read as their one-to-one human orthologues."""
    modality: str | None = None
    """Modality of a MuData, or measurement of a SOMA experiment; found by its name if not given."""
    table: str | None = None
    """Table of a SpatialData; the one that it has if not given."""
    counts: CountsKind = "raw"
    """What the values are: raw counts, fractional ones (corrected or estimated), or tpm (bulk)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.species not in (known := get_args(Species)):
            raise InputError(f"species {self.species!r} is unknown; there are {', '.join(known)}")


@dataclass(frozen=True, kw_only=True)
class DeviceOptions(Options):
    """Where a model computes, and how exactly."""

    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda or cuda:N."""
    precision: Precision = "auto"
    """Precision of matrix products; auto takes bf16 where the hardware has it."""
    threads: int | None = None
    """CPU workers; all usable cores if not given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threads is not None and self.threads < 1:
            raise InputError(f"threads must be 1 or more, not {self.threads}")


@dataclass(frozen=True, kw_only=True)
class OutputOptions(Options):
    """What happens to an output that is there already."""

    overwrite: bool = False
    """Replace an output that exists."""


@dataclass(frozen=True, kw_only=True)
class SeedOptions(Options):
    """Random draws."""

    seed: int = 0
    """Seed of all random draws."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_seed(self.seed)


def check_seed(seed: int, bits: int = 32) -> None:
    """Refuse a seed that the generators do not take."""
    if not 0 <= seed < 1 << bits:
        raise InputError(f"seed {seed} is no seed; give 0 or more, less than 2**{bits}")


def check_positive(options: Any, names: tuple[str, ...]) -> None:
    """Refuse a setting that is given and not above zero."""
    for name in names:
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise InputError(f"{name} must be positive, not {value}")


def choose_options(kind: type[T], options: T | None, verb: str, given: dict[str, Any]) -> T:
    """Options of a call: `options` as they are, or made of the keywords that were given.

    Parameters
    ----------
    kind
        The verb's class of options.
    options
        What the caller gave as ``options=``.
    verb
        Name of the function, for messages.
    given
        Keywords of the call by field name; one that is None was not given.

    Raises
    ------
    InputError
        Both are given, `options` are of another class, or a value is refused.
    """
    named = {name: value for name, value in given.items() if value is not None}
    if options is None:
        return from_mapping(kind, named, verb)
    if not isinstance(options, kind):
        raise InputError(
            f"{verb}: options must be {kind.__name__}, not {type(options).__name__}; "
            f"make them with cellscribe.{kind.__name__}(...)"
        )
    if named:
        raise InputError(
            f"{verb}: {', '.join(named)} given together with options; put everything into "
            f"{kind.__name__}(...), or leave options out"
        )
    return options
