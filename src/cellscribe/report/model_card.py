"""The README of a finished model: shape, data, recipe, losses and limits.

Every figure is measured: by the run (``run.json``, ``metrics.jsonl``) or in the corpus. Sentences
on the corpus are those of its data card. Only label columns of the corpus are read, so that this
takes seconds where the data card takes minutes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from cellscribe.corpus.card import TRAIN, Card
from cellscribe.corpus.statistics import Repeats, SplitCounts, label_counts
from cellscribe.corpus.store import Corpus, open_corpus
from cellscribe.errors import InputError
from cellscribe.model.metadata import config_from_json, config_text
from cellscribe.report import data_card, data_card_tables, run_tables
from cellscribe.report.figures import write_whole
from cellscribe.report.numbers import decimals, hours, several, value_text
from cellscribe.report.tables import Table, plain, table_lines
from cellscribe.report.training_page import read_runs, render_picture
from cellscribe.training.runs import Run, best, read_run, summarise, warnings
from cellscribe.writing import writing

README, PICTURE = "README.md", "loss.png"
BIAS = ("assay", "sex", "self_reported_ethnicity", "development_stage", "tissue_general")
"""Columns that show for whom a model may work less well (as in NVIDIA's model cards)."""
FEW = 1_000_000
"""Number of training cells below which the card warns of few data."""
SIDES = {"holdout": "val and test", "test_unseen": "test_unseen"}


def write_card_and_curve(run_folder: Path, corpus_folder: Path, model_folder: Path) -> Path:
    """Draw the loss curve of a finished run, if matplotlib is installed, and write the card.

    Parameters, result and errors as in `write_card`.
    """
    if find_spec("matplotlib") is not None:
        write_whole(model_folder / PICTURE, render_picture(read_runs([run_folder])))
    return write_card(run_folder, corpus_folder, model_folder)


def write_card(
    run_folder: Path,
    corpus_folder: Path,
    model_folder: Path,
    *,
    benchmarks: Sequence[tuple[str, str]] = (),
) -> Path:
    """Write ``README.md`` of a finished model; the file appears only when complete.

    Parameters
    ----------
    run_folder, corpus_folder
        The run that made the model, and the corpus it was trained on.
    model_folder
        The model; a ``loss.png`` in it is shown.
    benchmarks
        As in `render`.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        There is no such run, corpus or model folder, the corpus is not that of the run, or the
        file cannot be written.
    """
    run, corpus = read_run(run_folder), open_corpus(corpus_folder)
    wanted = run.header["corpus"]["hash"]
    if corpus.hash != wanted:
        raise InputError(
            f"{corpus_folder} is corpus {corpus.hash}, but {run_folder} was trained on {wanted}; "
            "name that one"
        )
    folder = Path(model_folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name the finished model's")
    picture = (folder / PICTURE).is_file()
    text = render(
        run,
        count_labels(corpus),
        step=_step_of(folder),
        picture=picture,
        benchmarks=benchmarks,
    )
    with writing(folder / README) as partial:
        partial.write_text(text, encoding="utf-8")
    return folder / README


def _step_of(model_folder: Path) -> int | None:
    """Read the step of a model's weights from its ``config.json``."""
    path = model_folder / "config.json"
    if not path.is_file():
        return None
    _, provenance = config_from_json(config_text(model_folder), str(path))
    step = provenance.get("step")
    return step if isinstance(step, int) else None


def count_labels(corpus: Corpus) -> Card:
    """Count the labels of a corpus only; depths, genes and repeats stay empty."""
    columns = tuple(label for label in BIAS if label in corpus.labels)
    read = (*columns, "dataset_id", "source")
    splits = {}
    for name, size in corpus.splits.items():
        labels: dict[str, Counter[str]] = {column: Counter() for column in read}
        for table in corpus.cells(name, read):
            for column in read:
                labels[column].update(label_counts(table[column]))
        splits[name] = SplitCounts(
            cells=size["cells"],
            tokens=size["tokens"],
            labels=labels,
            depths={},
            gene_cells=np.array([], np.int64),
        )
    n_special = corpus.vocabulary.n_special
    return Card(
        name=corpus.path.resolve().name,
        hash=corpus.hash,
        manifest=corpus.manifest,
        columns=columns,
        context=corpus.context,
        medians=corpus.vocabulary.medians[n_special:],
        n_special=n_special,
        splits=splits,
        repeats=Repeats(within={}, across={}),
    )


def render(
    run: Run,
    corpus_card: Card,
    *,
    step: int | None = None,
    picture: bool = False,
    benchmarks: Sequence[tuple[str, str]] = (),
) -> str:
    """Render the README as Markdown with a YAML head; text from run and corpus is escaped.

    Parameters
    ----------
    run
        The run that made the model.
    corpus_card
        What it was trained on, from `count_labels` or `corpus.card.describe`.
    step
        Step of the weights, if known.
    picture
        Whether there is a ``loss.png`` next to the README.
    benchmarks
        Pairs of a measurement and its result.
    """
    is_bert = run.header["model"].get("norm") == "post"
    has_head = bool(run.header["model"].get("cell_vector_size"))
    views = ", and a vector that two views of a cell have in common" if has_head else ""
    parts = [
        _head(is_bert),
        f"# {plain(run.name)}",
        f"A BERT encoder of single cells ({plain(run.header['preset'])}): it reads a human cell "
        "as its genes ranked by expression and was trained to name masked genes"
        f"{views}. Made with cellscribe.",
        *_use(is_bert),
        *_shape(run),
        *_data(corpus_card),
        *_training(run, step, picture),
        *_benchmarks(benchmarks),
        "## Limits",
        "\n".join(f"- {text}" for text in _limits(run)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(is_bert: bool) -> str:
    library = "transformers" if is_bert else "cellscribe"
    tags = ("cellscribe", "single-cell", "transcriptomics", "gene-expression", "masked-genes")
    lines = ["---", "license: apache-2.0", f"library_name: {library}", "tags:"]
    return "\n".join([*lines, *(f"- {tag}" for tag in tags), "---"])


def _use(is_bert: bool) -> Iterator[str]:
    yield "## Use"
    yield (
        "```python\n"
        "import cellscribe\n"
        "\n"
        "# raw counts in, adata.obsm out\n"
        'cellscribe.embed(adata, model="path/to/this/folder")\n'
        "```"
    )
    if is_bert:
        yield "The masked-gene model itself, of tokens that `cellscribe tokenize` makes:"
        yield (
            "```python\n"
            "from transformers import AutoModelForMaskedLM\n"
            "\n"
            'model = AutoModelForMaskedLM.from_pretrained("path/to/this/folder")\n'
            "```"
        )


def _shape(run: Run) -> Iterator[str]:
    model = run.header["model"]
    shape = {
        "parameters": run.header["parameters"],
        "layers": model.get("num_hidden_layers"),
        "width": model.get("hidden_size"),
        "attention heads": model.get("num_attention_heads"),
        "feed-forward width": model.get("intermediate_size"),
        "context, genes": model.get("context"),
        "genes of the vocabulary": run.genes,
    }
    rows = tuple((name, value_text(value)) for name, value in shape.items())
    yield "## Shape"
    yield table_lines(Table(("What", "Value"), rows))


def _data(card: Card) -> Iterator[str]:
    yield "## Data"
    yield plain(f"Corpus {card.name}, hash {card.hash}. {data_card.about(card)}")
    yield plain(data_card.split_note(card))
    yield table_lines(data_card_tables.of_splits(card))
    sources = data_card_tables.of_origin(card).get("Sources")
    if sources is not None:
        yield "### Sources"
        yield table_lines(sources)
    yield from _datasets(card)
    yield "## Who and what the cells are"
    yield (
        "Cells with each label, and their share of the split. Where a label has few training "
        "cells, expect the model to work less well."
    )
    for column in card.columns:
        yield f"### {plain(column)}"
        yield plain(data_card.about_labels(card, column))
        yield table_lines(data_card_tables.of_labels(card, column))


def _datasets(card: Card) -> Iterator[str]:
    datasets = card.manifest.get("datasets", {})
    trained = [(name, f"{d['cells']:,}") for name, d in datasets.items() if d["side"] == TRAIN]
    others = [
        (name, SIDES.get(d["side"], d["side"]), f"{d['cells']:,}")
        for name, d in datasets.items()
        if d["side"] != TRAIN
    ]
    if trained:
        yield "### Datasets trained on"
        yield table_lines(Table(("Dataset", "Cells"), tuple(trained)))
    yield "### Datasets never trained on"
    if others:
        yield "For evaluation, and val to choose the step whose weights are kept."
        yield table_lines(Table(("Dataset", "Split", "Cells"), tuple(others), n_text=2))
    else:
        yield "None: every dataset of the corpus was trained on."


def _training(run: Run, step: int | None, picture: bool) -> Iterator[str]:
    summary, lowest, named = summarise(run), best(run), {run.name: run}
    yield "## Recipe"
    start = run.header.get("init_from")
    if start:
        yield plain(f"Training went on from {value_text(start)}.")
    yield table_lines(run_tables.of_recipe(named)[1])
    yield "## Losses"
    text = "Cross-entropy of the masked genes, natural logarithm; lower is better. "
    if run.window > 1:
        text += f"Of train, the mean over the {run.window:,} steps around that step. "
    text += f"Guessing among {run.genes:,} genes: {run.guessing:.2f}."
    if step is not None:
        is_best = lowest is not None and lowest[0] == step
        text += f" The weights are those of step {step:,}{', the best on val' * is_best}."
    yield text
    yield table_lines(run_tables.of_losses(named))
    if picture:
        yield f"![Loss on train and validation over steps]({PICTURE})"
    yield "## Hardware and time"
    text = f"{hours(summary.hours)} hours of training (validating and saving not "
    text += f"counted): {several(summary.steps, 'step')}, {summary.cells:,} cells seen"
    if epochs := decimals(summary.epochs, 2):
        text += f" ({epochs} passes)"
    text += f", {summary.tokens:,} tokens"
    if rate := decimals(summary.tokens_per_second, 0):
        text += f"; {rate} tokens/s in the median step"
    yield text + "."
    yield table_lines(run_tables.of_sessions(named))


def _benchmarks(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    yield "## Benchmarks"
    if rows:
        yield table_lines(Table(("Measured", "Result"), tuple(rows), n_text=2))
    else:
        yield (
            "None was measured for this card. `cellscribe evaluate` measures what the vectors are "
            "good for, and how fast the model is."
        )


def _limits(run: Run) -> Iterator[str]:
    if run.train_cells < FEW:
        yield (
            f"Few data: {several(run.train_cells, 'training cell')}, less than a million. What "
            "these cells do not show, the model cannot know."
        )
    yield (
        "Human cells, raw counts. Genes outside the vocabulary are passed over, and of a cell with "
        "more genes than the context the lowest ranked are cut."
    )
    yield "For research; neither made nor tested for decisions on patients."
    yield from (plain(text) for text in warnings(run))
