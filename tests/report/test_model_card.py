"""The README of a finished model: its tables against the files, read by parsers not ours."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
import yaml
from markdown_it import MarkdownIt
from support.corpus import write_corpus
from support.markdown import count, tables
from support.training_runs import metrics, write_run

from cellscribe.corpus.store import Corpus, open_corpus
from cellscribe.errors import InputError
from cellscribe.report.model_card import count_labels, render, write_card
from cellscribe.training.runs import read_run

SIZES = {"train": [60, 45], "val": [20], "test": [15], "test_unseen": [10]}
HOSTILE = "</details><script>alert(1)</script> | *a* `b` [c](javascript:d)\n# f"


def by_side(table: pa.Table, split: str, place: int) -> pa.Table:
    side = {"val": "held", "test": "held"}.get(split, split)
    column = pa.array([f"{side}-{i % 3}" for i in range(table.num_rows)]).dictionary_encode()
    at = table.schema.get_field_index("dataset_id")
    return table.set_column(at, table.schema.field(at), column)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("card") / "some", SIZES, change=by_side)


def run_on(folder: Path, corpus: Path, lines: Any = None, **more: Any) -> Path:
    opened = open_corpus(corpus)
    splits = {
        name: {"cells": told["cells"], "tokens": told["tokens"]}
        for name, told in opened.splits.items()
    }
    about = {"name": corpus.name, "hash": opened.hash, "splits": splits}
    lines = lines or metrics(300, every=30, memorised=150, splits=("val", "test", "test_unseen"))
    return write_run(folder, lines, corpus=about, **more)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    return run_on(tmp_path_factory.mktemp("runs") / "small", corpus)


@pytest.fixture(scope="module")
def text(run: Path, corpus: Path) -> str:
    return write_card(run, corpus, run / "model").read_text()


def body(text: str) -> str:
    return text.split("---\n", 2)[2]


def tables_of(text: str) -> dict[str, list[list[str]]]:
    return tables(body(text))


def test_head_is_what_hugging_face_reads(text: str, tmp_path: Path, corpus: Path) -> None:
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["license"] == "apache-2.0"
    assert head["library_name"] == "transformers"
    assert "single-cell" in head["tags"]
    assert "AutoModelForMaskedLM.from_pretrained" in text
    # transformers' BERT cannot be pre-norm
    other = run_on(tmp_path / "pre", corpus, model={"norm": "pre"})
    text = write_card(other, corpus, other / "model").read_text()
    assert yaml.safe_load(text.split("---\n")[1])["library_name"] == "cellscribe"
    assert "AutoModel" not in text


def test_label_tables_are_the_value_counts(text: str, corpus: Path) -> None:
    parts = [
        pd.read_parquet(file).assign(split=file.parent.name)
        for file in sorted(corpus.glob("tokens/*/*.parquet"))
    ]
    columns = ("assay", "sex", "self_reported_ethnicity", "development_stage", "tissue_general")
    cells = pd.concat([part.astype(dict.fromkeys(columns, str)) for part in parts])
    found = tables_of(text)
    assert [name for name in found if name in columns] == list(columns)
    for column in columns:
        header, *rows = found[column]
        assert header == [column, "all", *SIZES]
        for place, split in enumerate(header[1:], start=1):
            there = cells if split == "all" else cells[cells["split"] == split]
            counted = {row[0]: count(row[place]) for row in rows[:-1] if count(row[place])}
            assert counted == there[column].value_counts().to_dict()


def test_datasets_stand_on_their_side(text: str, corpus: Path) -> None:
    datasets = json.loads((corpus / "manifest.json").read_text())["datasets"]
    found = tables_of(text)
    trained = {row[0]: int(row[1]) for row in found["Datasets trained on"][1:]}
    assert trained == {k: d["cells"] for k, d in datasets.items() if d["side"] == "train"}
    others = {row[0]: row[1] for row in found["Datasets never trained on"][1:]}
    assert others == {
        **{f"held-{i}": "val and test" for i in range(3)},
        **{f"test_unseen-{i}": "test_unseen" for i in range(3)},
    }
    assert [row[0] for row in found["Sources"][1:-1]] == [f"{split}.h5ad" for split in SIZES]
    assert [(row[0], count(row[1])) for row in found["Data"][1:-1]] == [
        (split, sum(sizes)) for split, sizes in SIZES.items()
    ]


def test_losses_are_those_of_the_lines(text: str, run: Path) -> None:
    lines = pd.read_json(run / "metrics.jsonl", lines=True).set_index("step")
    lowest = int(lines["loss_val"].idxmin())
    assert lowest < 300
    rows = {row[0]: row[1:] for row in tables_of(text)["Losses"][1:]}
    assert list(rows) == ["train", "val", "test", "test_unseen"]
    for split, (first, best, final, last) in rows.items():
        assert (int(first), int(final)) == (lowest, 300)
        values = lines["loss"] if split == "train" else lines[f"loss_{split}"]
        if split == "train":
            values = values.rolling(3, center=True, min_periods=1).mean()
        assert float(best) == pytest.approx(values.loc[lowest], abs=5e-5)
        assert float(last) == pytest.approx(values.loc[300], abs=5e-5)
    assert "Guessing among 25,424 genes: 10.14." in text
    assert "Overfitting: the loss on val was lowest" in text


@pytest.mark.parametrize("place", [0, 3])
def test_the_step_is_that_of_the_weights(
    tmp_path: Path, run: Path, corpus: Path, tiny_model: Path, place: int
) -> None:
    steps = pd.read_json(run / "metrics.jsonl", lines=True).set_index("step")["loss_val"].dropna()
    step = int(steps.sort_values().index[place])
    config = json.loads((tiny_model / "config.json").read_text())
    config["cellscribe"]["provenance"] = {"step": step}
    (tmp_path / "config.json").write_text(json.dumps(config))
    text = write_card(run, corpus, tmp_path).read_text()
    assert f"those of step {step}{', the best on val' if place == 0 else ''}." in text
    assert "those of step" not in render(read_run(run), count_labels(open_corpus(corpus)))


def test_recipe_and_hardware_are_those_of_the_header(text: str, run: Path) -> None:
    found = tables_of(text)
    recipe = dict(found["Recipe"][1:])
    header = json.loads((run / "run.json").read_text())
    assert recipe["corpus hash"] == header["corpus"]["hash"]
    assert float(recipe["learning rate"]) == header["training"]["learning_rate"]
    assert float(recipe["layer norm eps"]) == header["model"]["layer_norm_eps"]
    assert {key.replace("_", " ") for key in header["training"]} <= set(recipe)
    lines = pd.read_json(run / "metrics.jsonl", lines=True)
    assert f"{lines['cells'].sum():,} cells seen ({lines['cells'].sum() / 105:.2f} passes)" in text
    assert f"{lines['tokens'].sum():,} tokens" in text
    assert f"{lines['seconds'].iloc[-1] / 3600:.2f} hours of training" in text
    assert found["Hardware and time"][1][2] == "cpu: Some CPU"
    shape = dict(found["Shape"][1:])
    assert shape["parameters"] == "6,033,877"
    assert shape["genes of the vocabulary"] == "25,424"


def test_only_what_was_measured_is_told(run: Path, corpus: Path) -> None:
    told, card = read_run(run), count_labels(open_corpus(corpus))
    without = render(told, card)
    assert "None was measured for this card" in without
    assert "![" not in without
    assert "Few data: 105 training cells" in without
    rows = [("k-NN accuracy | on x", "0.91")]
    with_both = render(told, card, benchmarks=rows, picture=True)
    assert tables_of(with_both)["Benchmarks"][1:] == [list(rows[0])]
    assert "None was measured" not in with_both
    assert "(loss.png)" in with_both


def test_few_data_are_told_of_only_where_they_are_few(tmp_path: Path, corpus: Path) -> None:
    folder = write_run(
        tmp_path / "r", 5, corpus={"splits": {"train": {"cells": 1_000_000, "tokens": 1}}}
    )
    assert "Few data" not in render(read_run(folder), count_labels(open_corpus(corpus)))


def test_only_labels_are_read(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[str] = set()
    cells = Corpus.cells

    def spy(self: Corpus, split: str, columns: Sequence[str]) -> Any:
        asked.update(columns)
        return cells(self, split, columns)

    monkeypatch.setattr(Corpus, "cells", spy)
    count_labels(open_corpus(corpus))
    assert asked
    assert not asked & {"input_ids", "length", "n_counts", "n_genes", "cell_hash", "cell_id"}


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    source = {"name": HOSTILE, "cells": 150, "kept": 150}
    datasets = {HOSTILE: {"side": "train", "cells": 1}, f"{HOSTILE}2": {"side": "x", "cells": 1}}
    corpus = write_corpus(tmp_path / "c", SIZES, more={"sources": [source], "datasets": datasets})
    session = {"date": HOSTILE, "step": 0, "device": HOSTILE}
    run = run_on(tmp_path / "r", corpus, preset=HOSTILE, init_from=HOSTILE, sessions=[session])
    text = write_card(run, corpus, run / "model").read_text()
    tokens = MarkdownIt("commonmark").enable("table").parse(body(text))
    inline = [child for token in tokens for child in token.children or []]
    assert not {t.type for t in inline} & {"html_inline", "link_open", "em_open", "image"}
    raw = [t.content.strip() for t in tokens if t.type == "html_block"]
    assert all(re.fullmatch(r"<details><summary>\d+ rows</summary>|</details>", t) for t in raw)
    flat = " ".join(HOSTILE.split())
    assert {flat} <= {cell for rows in tables_of(text).values() for row in rows for cell in row}


def test_refusals_leave_the_readme_alone(tmp_path: Path, run: Path, corpus: Path) -> None:
    other = write_corpus(tmp_path / "other", SIZES, seed=1)
    model = tmp_path / "model"
    with pytest.raises(InputError, match="no such folder; name the finished model's"):
        write_card(run, corpus, model)
    model.mkdir()
    (model / "README.md").write_text("as it was")
    with pytest.raises(InputError, match=r"other is corpus \w+, but .* was trained on \w+"):
        write_card(run, other, model)
    with pytest.raises(InputError, match="holds no corpus"):
        write_card(run, tmp_path, model)
    with pytest.raises(InputError, match="is no training run"):
        write_card(tmp_path, corpus, model)
    assert (model / "README.md").read_text() == "as it was"
    assert write_card(run, corpus, model) == model / "README.md"
    assert [p.name for p in model.iterdir()] == ["README.md"]
    assert "as it was" not in (model / "README.md").read_text()
