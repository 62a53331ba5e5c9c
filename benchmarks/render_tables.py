"""Render tables of README, docs and model cards from results, between markers that name them.

    <!-- bench:embed -->
    (everything here is rendered)
    <!-- /bench:embed -->

``bench:`` are benchmarks, of benchmarks/results/*.json: each has a function in `TABLES`; results of
any other one carry their own ``"table"``: ``{"columns": [...], "rows": [[...], ...]}``.
``evaluate:`` are what `cellscribe evaluate` left in benchmarks/evaluation: see `render_evaluation`.
With ``--check`` nothing is written, and a page that differs from what would be rendered is an
error.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import annotation_tables
from benchmarks.hostile import hostile_table, kills_table
from benchmarks.record import read_results
from benchmarks.render_evaluation import evaluated
from benchmarks.sharing import sharing_tables
from cellscribe.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
EVALUATION = ROOT / "benchmarks" / "evaluation"
MARKED = re.compile(r"(<!-- (bench|evaluate):([\w-]+) -->\n)(.*?)(<!-- /\2:\3 -->)", re.DOTALL)
Result = dict[str, Any]


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Markdown; the first column is text, the others are set to the right."""
    rule = [":--", *["--:"] * (len(columns) - 1)]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in [columns, rule, *rows])


def number(value: float) -> str:
    """Three figures, thousands grouped."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def tokenize_table(results: list[Result]) -> str:
    compared = table(
        [
            "tokenise, file to file",
            "genes a cell",
            "cellscribe",
            "NumPy loop to a Hugging Face dataset",
            "ratio",
        ],
        [
            [
                f"{r['settings']['cells']:,} cells",
                f"{r['genes_per_cell']['p50']:,.0f}",
                f"{number(r['cells_per_second']['cellscribe'])} cells/s",
                f"{number(r['cells_per_second']['peer'])} cells/s",
                f"{r['ratio_of_medians']:.1f}×",
            ]
            for r in results
        ],
    )
    parts = [parts_table(r) for r in results if "seconds_of_parts" in r]
    return "\n\n".join([compared, *parts])


def parts_table(result: Result) -> str:
    """What bounds tokenising."""
    parts, run = result["seconds_of_parts"], statistics.median(result["seconds"]["cellscribe"])
    rows = [[part, f"{1e3 * each:,.0f} ms", f"{each / run:.0%}"] for part, each in parts.items()]
    bound = result["seconds_without_loss"]
    name = f"a run, if the last three overlapped without loss on {result['machine']['cores']} cores"
    rows.append([name, f"{1e3 * bound:,.0f} ms", f"{bound / run:.0%}"])
    rows.append(["a run as measured", f"{1e3 * run:,.0f} ms", "100%"])
    return table(["parts of tokenising, each alone in one thread", "time", "of a run"], rows)


def embed_table(results: list[Result]) -> str:
    columns = [
        "embed",
        "tokens a cell",
        "cellscribe",
        "`transformers`, float32",
        "ratio",
        "lowest cosine",
        "share of peak",
    ]
    return table(
        columns,
        [
            [
                f"{r['settings']['model']}, {r['machine'].get('gpu', 'CPU')}",
                f"{r['tokens_per_cell']['p50']:,.0f}",
                f"{number(r['cells_per_second']['cellscribe'])} cells/s",
                f"{number(r['cells_per_second']['peer'])} cells/s",
                f"{r['ratio_of_medians']:.2f}×",
                f"{r['lowest_cosine']:.6f}",
                f"{r['share_of_peak']['cellscribe']:.0%}",
            ]
            for r in results
        ],
    )


def expect_table(results: list[Result]) -> str:
    """How long numbers of cells take, at the measured cells a second."""
    sizes = (10_000, 100_000, 1_000_000)
    rows = [
        [
            ", ".join(
                [r["settings"]["model"], r["machine"].get("gpu", f"{r['machine']['cores']} cores")]
            ),
            *(spell_time(size / r["cells_per_second"]["cellscribe"]) for size in sizes),
        ]
        for r in results
    ]
    return table(["embed", *(f"{size:,} cells" for size in sizes)], rows)


def spell_time(seconds: float) -> str:
    """Two figures in the unit that a reader would choose."""
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{float(f'{seconds / length:.2g}'):g} {unit}"
    return f"{float(f'{seconds:.2g}'):g} s"


def memory_table(results: list[Result]) -> str:
    columns = ["embed, memory", "genes read", "counts", "peak", "growth over the run"]
    return table(
        columns,
        [
            [
                f"{r['settings']['cells']:,} cells, {r['settings']['model']}",
                f"first {r['settings']['context']:,}",
                f"{r['counts_in_memory_mb'] / 1e3:.1f} GB",
                f"{r['peak_mb'] / 1e3:.2f} GB",
                f"{r['growth_mb'] / 1e3:.2f} GB",
            ]
            for r in results
        ],
    )


def train_table(results: list[Result]) -> str:
    columns = [
        "pre-train",
        "cells a step",
        "tokens a cell",
        "cellscribe",
        "`transformers`",
        "ratio",
        "ratio with our allocator settings",
        "share of peak",
    ]
    rows = []
    for r in results:
        rates, ratios = r["tokens_per_second"], r["ratio_of_medians"]
        kept = ratios.get("transformers_keeping_memory")
        rows.append(
            [
                f"{r['settings']['preset']}, {r['machine'].get('gpu', 'CPU')}",
                f"{r['settings']['cells']:,}",
                f"{r['tokens_per_cell']:,.0f}",
                f"{number(rates['cellscribe'])} tokens/s",
                f"{number(rates['transformers'])} tokens/s",
                f"{ratios['transformers']:.2f}×",
                "–" if kept is None else f"{kept:.2f}×",
                f"{r['share_of_peak']['cellscribe']:.0%}",
            ]
        )
    return table(columns, rows)


def families_table(results: list[Result]) -> str:
    columns = [
        "embed, published models",
        "parameters",
        "cells",
        "load, cellscribe",
        "load, published code",
        "embed, cellscribe",
        "embed, cellscribe in float32",
        "embed, published code in float32",
        "ratio (in float32)",
        "peak memory, cellscribe",
        "peak memory, published code",
        "largest difference in float32",
    ]
    ours, ours_float32, theirs = "cellscribe", "cellscribe_float32", "published"
    rows = []
    for r in results:
        load, peak = r["median_seconds_to_load"], r["highest_peak_gb"]
        rates, ratios = r["cells_per_second"], r.get("ratio_of_medians")
        compared = theirs in rates
        rows.append(
            [
                r["settings"]["model"],
                f"{r['parameters'] / 1e6:,.0f} M",
                f"{r['settings']['cells']:,}",
                f"{number(load[ours])} s",
                f"{number(load[theirs])} s" if compared else "–",
                f"{number(rates[ours])} cells/s",
                f"{number(rates[ours_float32])} cells/s",
                f"{number(rates[theirs])} cells/s" if compared else "–",
                f"{ratios[ours]:.2f}× ({ratios[ours_float32]:.2f}×)" if ratios else "–",
                f"{peak[ours]:.2f} GB",
                f"{peak[theirs]:.2f} GB" if compared else "–",
                f"{r['largest_difference']:.1e}" if compared else "–",
            ]
        )
    return table(columns, rows)


def damage_tables(results: list[Result]) -> str:
    made = [each(r) for r in results for each in (hostile_table, kills_table)]
    return "\n\n".join(table(columns, rows) for columns, rows in made)


def shared_tables(results: list[Result]) -> str:
    made = [each for r in results for each in sharing_tables(r)]
    return "\n\n".join(table(columns, rows) for columns, rows in made)


def annotation_table(results: list[Result]) -> str:
    made = [annotation_tables.TABLES[r["bench"]](r["figures"]) for r in results]
    return "\n\n".join(table(each["columns"], each["rows"]) for each in made)


def own_table(results: list[Result]) -> str:
    return "\n\n".join(table(r["table"]["columns"], r["table"]["rows"]) for r in results)


TABLES: dict[str, Callable[[list[Result]], str]] = {
    "tokenize": tokenize_table,
    "embed": embed_table,
    "expect": expect_table,
    "memory": memory_table,
    "train": train_table,
    "families": families_table,
    "hostile": damage_tables,
    **dict.fromkeys(annotation_tables.TABLES, annotation_table),
    "sharing": shared_tables,
}


RESULTS_OF = {"expect": "embed"}
"""Tables made from the results of a benchmark of another name."""


def benchmarked(name: str, folder: Path) -> str:
    """Fill a stretch from the results of a benchmark, with where and when they were made."""
    results = read_results(folder, RESULTS_OF.get(name, name))
    if not results:
        raise InputError(
            f"a page names bench:{name}, which has no result; measure it or remove the markers"
        )
    lines = dict.fromkeys(provenance(r) for r in results)
    notes = dict.fromkeys(f" {r['note']}" for r in results if "note" in r)
    text = TABLES.get(name, own_table)(results)
    return f"{text}\n\nMeasured on {'; and on '.join(lines)}.{''.join(notes)}"


def provenance(result: Result) -> str:
    """One line: on what, when, at which commit."""
    machine, commit = result["machine"], result["commit"]
    processor = machine["cpu"]["model"]
    if "avx512_bf16" in machine["cpu"]["features"]:
        processor += " with AVX512-BF16"
    where = f"{machine['cores']} cores of {processor}, {machine['memory_gb']:.0f} GB"
    if "gpu" in machine:
        where = f"{machine['gpu']}, {where}"
    state = (
        f"commit {commit['hash'][:7]}{' with changes' if commit['dirty'] else ''}"
        if commit["hash"]
        else "no commit"
    )
    return f"{where}; torch {machine['packages']['torch']}; {result['date']}; {state}"


def render(page: str, results_folder: Path, evaluation: Path = EVALUATION) -> str:
    """Fill every marked stretch of a text.

    Raises
    ------
    InputError
        A marker names what has no results, a table of an evaluation lacks its baselines, or a
        marker is not closed.
    """

    def fill(match: re.Match[str]) -> str:
        kind, name = match[2], match[3]
        text = benchmarked(name, results_folder) if kind == "bench" else evaluated(name, evaluation)
        return f"{match[1]}\n{text}\n\n{match[5]}"

    marks = (r"<!-- (?:bench|evaluate):", r"<!-- /(?:bench|evaluate):")
    opened, closed = (len(re.findall(mark, page)) for mark in marks)
    rendered, filled = MARKED.subn(fill, page)
    if not opened == closed == filled:
        raise InputError("a page has a marker that is not closed by its own name")
    return rendered


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Render tables from benchmarks.")
    parser.add_argument(
        "--check", action="store_true", help="fail where a page is stale; write nothing"
    )
    parser.add_argument(
        "--page", type=Path, action="append", help="README, docs and model cards if not given"
    )
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--evaluation", type=Path, default=EVALUATION)
    options = parser.parse_args(arguments)
    cards = sorted((ROOT / "src/cellscribe/bundled").glob("*/README.md"))
    pages = options.page or [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *cards]
    stale = {}
    try:
        for page in pages:
            before = page.read_text(encoding="utf-8")
            after = render(before, options.results, options.evaluation)
            if after != before:
                stale[page] = after
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    for page, text in stale.items():
        if options.check:
            print(f"{page.name} is stale: run python -m benchmarks.render_tables", file=sys.stderr)
        else:
            page.write_text(text, encoding="utf-8")
    return int(bool(stale) and options.check)


if __name__ == "__main__":
    sys.exit(main())
