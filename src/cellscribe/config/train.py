"""Options of pre-training. Defaults are BioNeMo's for geneformer-10M-240530, where published.

Optimiser, schedule and batch: ``bionemo-geneformer``'s training script and Megatron's defaults
(Adam 0.9/0.999, decay 0.01, clipping at 1, cosine to a hundredth); steps, micro batch and global
batch: NVIDIA's sc-FM model card.
"""

from dataclasses import dataclass
from typing import Literal

from cellscribe.config.checked import check_fields
from cellscribe.config.renamed import accept_former_names
from cellscribe.config.shared_options import Precision, check_seed
from cellscribe.errors import InputError


@accept_former_names
@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """One pre-training run."""

    steps: int | None = None
    """End after this many steps, the schedule being what it is; all of it if not given."""
    schedule_steps: int = 115_430
    """Steps of the learning-rate schedule."""
    global_batch: int = 2_048
    """Cells a step, over all ranks."""
    micro_batch: int = 32
    """Cells that a rank takes through the network at a time; lower it if memory runs out."""
    genes_per_cell: int | None = None
    """Genes of a cell that a step looks at, drawn at random, with their true ranks; else all."""
    min_genes_per_cell: int | None = None
    """Draw the number of genes too, from here to genes_per_cell (only for two views)."""
    full_length_steps: int = 0
    """Last steps of the schedule, which look at whole cells whatever genes_per_cell."""
    mlm_probability: float = 0.15
    """Share of a cell's genes that are chosen for prediction, at least one."""
    masked_share: float = 0.80
    """Share of the chosen that become [MASK]."""
    random_share: float = 0.10
    """Share of the chosen that become a random gene; the rest stay as they are."""
    mlm_weight: float = 1.0
    """Weight of the masked-gene loss."""
    regression_weight: float = 0.0
    """Weight of the second objective's regression: scores of the whole cell from each view."""
    contrast_weight: float = 0.0
    """Weight of the second objective's contrast (InfoNCE): which two views are of one cell."""
    temperature: float = 0.1
    """The contrast's cosines are divided by it."""
    least_share: float = 0.1
    """Smallest share of its counts that a view keeps; drawn log-uniformly from here to 1."""
    least_counts: int = 150
    """Counts that a view keeps at least, on average."""
    shared_genes: float = 1.0
    """Share of genes that both views of a cell may show; each other gene only one may."""
    learning_rate: float = 1e-3
    """Peak of the schedule."""
    warmup_steps: int = 1_154
    """Steps of linear warm-up to the peak."""
    decay: Literal["cosine", "linear"] = "cosine"
    """How the rate falls after the warm-up."""
    last_rate: float = 0.01
    """Rate at the end of the schedule, as a share of the peak."""
    weight_decay: float = 0.01
    """AdamW's decay; none on norms, biases and embeddings."""
    beta1: float = 0.9
    """Memory of AdamW's mean gradient."""
    beta2: float = 0.999
    """Memory of AdamW's mean squared gradient."""
    epsilon: float = 1e-8
    """Added to AdamW's denominator."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    precision: Precision = "auto"
    """Of matrix products; auto: bf16 where the hardware has it, else fp16, or float32 on a CPU."""
    lanes: int = 64
    """Places of the corpus that are read side by side, a multiple of the ranks."""
    seed: int = 0
    """Seed of weights, order of cells, masks and dropout."""
    start_from_cells: bool = False
    """Start gene vectors and head from what can be counted in the training cells."""
    downsample: float = 0.0
    """Share of the training cells whose counts are downsampled at random each time."""
    validate_every: int = 1_000
    """Steps between validations; the last step always has one."""
    validation_cells: int = 2_048
    """Most cells of each held-out split that a validation reads, always the same."""
    patience: int | None = None
    """End when the loss on val has not fallen for so many validations."""
    checkpoint_every: int = 1_000
    """Steps between checkpoints; the last step always has one."""
    checkpoint_minutes: float = 15.0
    """Longest time between checkpoints."""
    keep: int = 3
    """Newest checkpoints that are kept, besides the best on val."""
    bad_steps: int = 10
    """Steps in a row without a finite loss and gradient after which the run stops."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda or cuda:N."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """How ranks share the work: whole copies, or parameters in shards (FSDP2)."""
    tensorboard: bool = False
    """Write metrics for TensorBoard too."""

    def __post_init__(self) -> None:
        check_fields(self)
        positive = ("schedule_steps", "global_batch", "micro_batch", "validate_every", "keep")
        more = ("checkpoint_every", "bad_steps", "validation_cells", "lanes")
        sizes = ("genes_per_cell", "min_genes_per_cell", "least_counts")
        for name in (*positive, *more, *sizes, "steps", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be positive, not {value}")
        above = ("learning_rate", "clip", "checkpoint_minutes", "epsilon", "temperature")
        for name in (*above, "least_share"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be positive, not {getattr(self, name)}")
        weights = ("mlm_weight", "regression_weight", "contrast_weight")
        for name in ("warmup_steps", "full_length_steps", "weight_decay", *weights):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} must not be negative, as {getattr(self, name)} is")
        shares = ("mlm_probability", "masked_share", "random_share", "last_rate", "downsample")
        for name in (*shares, "beta1", "beta2", "least_share", "shared_genes"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} {getattr(self, name)} is not a share; give 0 to 1")
        if self.masked_share + self.random_share > 1:
            raise InputError(
                f"masked_share {self.masked_share} and random_share {self.random_share} are more "
                "than all of the chosen genes; lower one"
            )
        if self.steps is not None and self.steps > self.schedule_steps:
            raise InputError(
                f"steps {self.steps:,} lie beyond schedule_steps {self.schedule_steps:,}; raise "
                "schedule_steps too"
            )
        check_seed(self.seed)
        self._check_views()

    def _check_views(self) -> None:
        """Refuse settings that exclude each other where the second objective is on, or off."""
        if not self.two_views:
            if not self.mlm_weight:
                raise InputError("all weights of the loss are 0; give one of them")
            return
        if self.downsample:
            raise InputError(
                "downsample is for masked genes alone, and two views of a cell are downsampled "
                "anyway (least_share); set downsample 0"
            )
        if self.patience is not None:
            raise InputError(
                "patience follows the masked-gene loss on val, which is not all that is trained "
                "here; leave it out"
            )

    @property
    def two_views(self) -> bool:
        """Whether the second objective is on, which reads two views of each cell."""
        return self.regression_weight > 0 or self.contrast_weight > 0

    @property
    def last_step(self) -> int:
        """Steps of the whole run."""
        return self.schedule_steps if self.steps is None else self.steps

    def accumulation(self, ranks: int) -> int:
        """Micro batches of a rank that make up its part of a step.

        Raises
        ------
        InputError
            The global batch is not a multiple of micro batch times ranks.
        """
        together = self.micro_batch * ranks
        if self.global_batch % together:
            nearest = max(1, round(self.global_batch / together)) * together
            raise InputError(
                f"global_batch {self.global_batch:,} is not a multiple of micro_batch "
                f"{self.micro_batch:,} x {ranks:,} {'rank' if ranks == 1 else 'ranks'}; "
                f"set global_batch {nearest:,} or another micro_batch"
            )
        return self.global_batch // together
