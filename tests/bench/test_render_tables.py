"""README's figures are those of benchmarks/results, and of nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks import render_tables as script

from cellscribe.errors import InputError

MACHINE = {
    "cpu": {"model": "Some CPU", "features": ["avx512_bf16"]},
    "cores": 2,
    "memory_gb": 24.7,
    "packages": {"torch": "2.9"},
}
COMMON = {
    "date": "2026-01-02",
    "commit": {"hash": "0123456789", "dirty": False},
    "machine": MACHINE,
}


def result(folder: Path, name: str, bench: str, **figures: object) -> None:
    (folder / f"{name}.json").write_text(
        json.dumps({"bench": bench, "name": name, **COMMON, **figures})
    )


@pytest.fixture
def results(tmp_path: Path) -> Path:
    rates = {"cells_per_second": {"cellscribe": 31234.5, "peer": 1500}, "ratio_of_medians": 20.82}
    result(
        *(tmp_path, "tokenize", "tokenize"),
        settings={"cells": 12_000},
        genes_per_cell={"p50": 1_050},
        seconds={"cellscribe": [0.25, 0.5, 0.75]},
        seconds_of_parts={"read": 0.125},
        seconds_without_loss=0.375,
        note="The machine was busy.",
        **rates,
    )
    result(
        *(tmp_path, "embed-x-cpu", "embed"),
        settings={"model": "x"},
        tokens_per_cell={"p50": 900},
        lowest_cosine=0.99991,
        share_of_peak={"cellscribe": 0.41, "peer": 0.2},
        **rates,
    )
    result(
        *(tmp_path, "memory-x", "memory"),
        settings={"cells": 1_000_000, "model": "x", "context": 64},
        counts_in_memory_mb=8_123,
        peak_mb=1_234,
        growth_mb=11,
        cells_per_second=1_999.6,
    )
    for device, ratios in (("cpu", {"transformers_keeping_memory": 2.614}), ("cuda", {})):
        result(
            *(tmp_path, f"train-x-{device}", "train"),
            settings={"preset": "x", "cells": 8},
            tokens_per_cell=894.25,
            tokens_per_second={"cellscribe": 3456.7, "transformers": 1001.2},
            ratio_of_medians={"transformers": 3.4526, **ratios},
            share_of_peak={"cellscribe": 0.553, "transformers": 0.16},
        )
    result(tmp_path, "probe", "quality", table={"columns": ["task", "F1"], "rows": [["a", 0.5]]})
    return tmp_path


def test_every_table_holds_the_figures_of_its_result(results: Path) -> None:
    text = "\n".join(
        f"before {name}\n<!-- bench:{name} -->\nold\n<!-- /bench:{name} -->\nafter"
        for name in ("tokenize", "embed", "memory", "train", "quality")
    )
    rendered = script.render(text, results)
    for figure in ("12,000 cells", "31,234 cells/s", "20.8×", "0.99991", "41%", "1,000,000 cells"):
        assert figure in rendered
    for figure in ("| read | 125 ms | 25% |", "375 ms | 75%", "0123456. The machine was busy."):
        assert figure in rendered
    for figure in ("first 64", "8.1 GB", "1.23 GB", "0.01 GB", "| a | 0.5 |"):
        assert figure in rendered
    row = "| x, CPU | 8 | 894 | 3,457 tokens/s | 1,001 tokens/s | 3.45× |"
    assert f"{row} 2.61× | 55% |" in rendered
    # on a GPU the host's allocator is beside the point
    assert f"{row} – | 55% |" in rendered
    assert "2 cores of Some CPU with AVX512-BF16, 25 GB; torch 2.9; 2026-01-02; commit 0123456" in (
        rendered
    )
    assert "old" not in rendered
    assert rendered.count("before") == rendered.count("after") == 5
    assert script.render(rendered, results) == rendered


@pytest.mark.parametrize("beside", [True, False])
def test_published_models_with_and_without_their_own_code(tmp_path: Path, beside: bool) -> None:
    figures: dict[str, dict[str, float]] = {
        "median_seconds_to_load": {"cellscribe": 0.512, "published": 4.0},
        "highest_peak_gb": {"cellscribe": 1.234, "published": 5.678},
        "cells_per_second": {"cellscribe": 12.34, "cellscribe_float32": 7.5, "published": 3.21},
    }
    if not beside:
        for each in figures.values():
            del each["published"]
    else:
        figures["ratio_of_medians"] = {"cellscribe": 3.844, "cellscribe_float32": 2.336}
    result(
        *(tmp_path, "embed-x-cpu", "families"),
        settings={"model": "X, 12 layers", "cells": 100},
        parameters=51_300_000,
        largest_difference=4.6e-7 if beside else None,
        **figures,
    )
    rendered = script.render("<!-- bench:families -->\n<!-- /bench:families -->", tmp_path)
    others = ["4 s", "3.21 cells/s", "3.84× (2.34×)", "5.68 GB", "4.6e-07"]
    load, rate, ratio, peak, difference = others if beside else "–" * 5
    row = f"| X, 12 layers | 51 M | 100 | 0.512 s | {load} | 12.3 cells/s | 7.5 cells/s | {rate} "
    assert f"{row}| {ratio} | 1.23 GB | {peak} | {difference} |" in rendered


def test_check_fails_on_a_stale_readme_and_leaves_it(results: Path) -> None:
    readme = results / "README.md"
    stale = "<!-- bench:quality -->\n<!-- /bench:quality -->\n"
    readme.write_text(stale)
    arguments = ["--page", str(readme), "--results", str(results)]
    assert script.main([*arguments, "--check"]) == 1
    assert readme.read_text() == stale
    assert script.main(arguments) == 0
    assert script.main([*arguments, "--check"]) == 0
    result(results, "probe", "quality", table={"columns": ["task", "F1"], "rows": [["a", 0.6]]})
    assert script.main([*arguments, "--check"]) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- bench:none -->\n<!-- /bench:none -->", "no result"),
        ("<!-- bench:quality -->\n", "not closed"),
        ("<!-- bench:quality -->\n<!-- /bench:embed -->", "not closed"),
    ],
)
def test_markers_that_lead_nowhere(results: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        script.render(text, results)


def test_the_readme_is_not_stale() -> None:
    assert script.main(["--check"]) == 0
