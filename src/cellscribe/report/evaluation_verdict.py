"""The verdict of an evaluation: are a model's vectors better than PCA-50 of the same cells, here?

PCA of log-normalised counts takes seconds and no model, so this is the first question of whoever
chooses vectors. It is answered by the headlines of the tasks that use vectors as they come: a probe
for cell types, their neighbours, clusters. A difference counts where its interval, of resamples
that both methods share, leaves out 0. Figures of depth stand next to them but do not count:
random weights do well in some.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from cellscribe.evaluation.models import RANDOM
from cellscribe.evaluation.scores import Estimate, Metric
from cellscribe.evaluation.stats.estimates import difference
from cellscribe.report import evaluation_grids as grids
from cellscribe.report.evaluation_grids import MARK, NOTHING, Cell, Grid
from cellscribe.report.evaluation_tables import DataTable, Row, TaskTables
from cellscribe.report.numbers import decimals, several

TITLE = "Better than PCA-50 here?"
COUNTED = ("celltype", "integration")
"""Tasks whose headlines decide."""
SHOWN = (*COUNTED, "confounding")
NOT_RUN = (
    "Not known: PCA-50 was not run. The tasks celltype and integration run it; they need labels "
    "(--label)."
)
NO_INTERVAL = (
    "Not judged: the results are of an older cellscribe and give a difference no interval; run "
    "cellscribe evaluate again."
)
ALL_SEEN = f"Not known: it may have been trained on every file ({MARK})."
NOTE = (
    "Difference: the model less PCA-50, mean over the seeds; in brackets its 95 % interval, of "
    "resamples that both share. Where the interval holds 0, no difference is seen; a difference "
    "without an interval is not judged. The answer counts figures of cell types and clusters. "
    "Those of depth stand next to them and are not counted, for random weights do well in some; "
    f"neither are files that the model may have been trained on ({MARK})."
)

Finding = Literal["better", "worse", "no difference seen", "not judged"]
FINDINGS: tuple[Finding, ...] = get_args(Finding)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A headline of a model and of PCA-50 on one file."""

    data: str
    metric: Metric
    decides: bool
    """Whether the task is one of `COUNTED`."""
    seen: bool
    """Whether the model may have been trained on the file."""
    model: Estimate
    random: Estimate | None
    pca: Estimate
    difference: Estimate

    @property
    def counts(self) -> bool:
        """Whether the answer counts it."""
        return self.decides and not self.seen

    @property
    def finding(self) -> Finding:
        """What the interval of the difference says."""
        low, high = self.difference.low, self.difference.high
        if not (math.isfinite(low) and math.isfinite(high)):
            return "not judged"
        if low <= 0 <= high:
            return "no difference seen"
        return "better" if (low > 0) == (self.metric.better == "higher") else "worse"

    @property
    def words(self) -> str:
        """Figure, file and difference, for a sentence."""
        by = decimals(abs(self.difference.value), self.metric.digits)
        return f"{self.metric.title} on {self.data} by {by}"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The comparisons of a model with PCA-50."""

    model: str
    comparisons: tuple[Comparison, ...]

    @property
    def sentence(self) -> str:
        """The answer, and by how much."""
        return f"Is {self.model} better than PCA-50 here? {_answer(self.comparisons)}"

    @property
    def grid(self) -> Grid:
        """The figures, files in turn."""
        header = ("Data and figure", self.model, RANDOM, "PCA-50", "Difference", "The model is")
        return Grid(header, tuple(map(_line, self.comparisons)))


def verdicts(parts: Sequence[TaskTables]) -> list[Verdict]:
    """Compare each model with PCA-50, on every file on which both have vectors judged."""
    models = [name for part in parts for name, kind in part.kinds.items() if kind == "model"]
    return [
        Verdict(model=model, comparisons=tuple(_comparisons(parts, model)))
        for model in dict.fromkeys(models)
    ]


def _comparisons(parts: Sequence[TaskTables], model: str) -> Iterator[Comparison]:
    shown = [part for part in parts if part.task.NAME in SHOWN]
    for data in dict.fromkeys(table.data for part in shown for table in part.tables):
        for part in shown:
            for table in part.tables:
                if table.data == data:
                    yield from _of_table(part, table, model)


def _of_table(part: TaskTables, table: DataTable, model: str) -> Iterator[Comparison]:
    rows: dict[str, Row] = {row.method: row for row in table.rows}
    ours, pca = rows.get(model), rows.get(part.task.PCA_BASELINE or "")
    if ours is None or pca is None:
        return
    twin = rows.get(f"{model}, {RANDOM}")
    for name in part.task.HEADLINES:
        if name in ours.estimates and name in pca.estimates:
            one, other = ours.estimates[name], pca.estimates[name]
            yield Comparison(
                data=table.data,
                metric=part.task.METRICS[name],
                decides=part.task.NAME in COUNTED,
                seen=bool(ours.seen),
                model=one,
                random=None if twin is None else twin.estimates.get(name),
                pca=other,
                difference=difference(one, other, len(table.seeds)),
            )


def _answer(comparisons: Sequence[Comparison]) -> str:
    """Answer yes, no or in part, and name the figures in which there is a difference."""
    counted = [each for each in comparisons if each.counts]
    if not counted:
        seen = any(each.decides and each.seen for each in comparisons)
        return ALL_SEEN if seen else NOT_RUN
    found: dict[Finding, list[Comparison]] = {finding: [] for finding in FINDINGS}
    for each in counted:
        found[each.finding].append(each)
    if len(found["not judged"]) == len(counted):
        return NO_INTERVAL
    parts = []
    for finding, some in found.items():
        named = "; ".join(each.words for each in some) if finding in ("better", "worse") else ""
        parts += [f"{finding} in {len(some)}{f' ({named})' if named else ''}"] if some else []
    word = _word({finding: len(some) for finding, some in found.items()})
    return f"{word}: of {several(len(counted), 'comparison')}, {', '.join(parts)}."


def _word(counts: Mapping[Finding, int]) -> str:
    if counts["better"]:
        return "Yes" if counts["better"] == sum(counts.values()) else "In part"
    return "No" if counts["worse"] else "No difference seen"


def _line(each: Comparison) -> tuple[Cell, ...]:
    digits, gap = each.metric.digits, each.difference
    values = (each.model, each.random, each.pca)
    interval = "" if each.finding == "not judged" else grids.figure(gap, digits).interval
    return (
        Cell(f"{grids.marked(each.data, each.seen)}: {grids.title(each.metric)}"),
        *(Cell(NOTHING if of is None else decimals(of.value, digits)) for of in values),
        Cell(f"{gap.value:+z,.{digits}f}", interval),
        Cell(each.finding),
    )
