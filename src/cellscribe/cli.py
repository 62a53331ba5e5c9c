"""The command line: parse, call one function, print.

Bad input and bad options leave one line on stderr and exit status 2; Ctrl-C leaves 130. torch is
imported by the verbs that need it, so ``--help`` is quick.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, CycloptsError, Group, Parameter
from cyclopts.config import Toml

from cellscribe.config import EmbedOptions
from cellscribe.errors import InputError

if TYPE_CHECKING:
    from rich.progress import Progress

app = App(
    name="cellscribe",
    help="Single cells to vectors: reads a cell as its genes ranked by expression.",
    help_format="plaintext",
    default_parameter=Parameter(negative=()),
    suppress_keyboard_interrupt=False,
)
bench = App(name="bench", help="Measure cellscribe on this machine, side by side with its peers.")
app.command(bench)
app.meta.group_parameters = Group("Everywhere", sort_key=9)
# It does not take this over from `app`, and Ctrl-C would end here without a word.
app.meta.suppress_keyboard_interrupt = False


@app.command
def embed(
    source: Path,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    options: Annotated[EmbedOptions | None, Parameter(name="*")] = None,
    report: Path | None = None,
    map_png: Annotated[Path | None, Parameter(name="--map")] = None,
    color_by: str | None = None,
) -> None:
    """Turn every cell of a file into a vector.

    Parameters
    ----------
    source
        Raw counts: .h5ad, .zarr, 10x .h5, 10x matrix folder (or .tar.gz of it), .loom.
    out
        .npy, .h5ad, .zarr or .parquet; appears when it is whole.
    report
        Write a self-contained HTML page on the run: map, coverage, lengths, warnings.
    map_png
        Draw the map (UMAP of the vectors) as a PNG.
    color_by
        Column of obs that colours the map.
    """
    from cellscribe import api
    from cellscribe.cells.counts import tell

    with progress_bar("Embedding") as progress:
        done = api.embed_file(
            source,
            out,
            options,
            report=report,
            map_png=map_png,
            color_by=color_by,
            progress=progress,
            say=tell,
        )
    provenance = done.provenance
    tell(done.genes.summary())
    tell(
        f"{done.n_cells:,} cells x {done.width} with {provenance['model']} on "
        f"{provenance['device']} ({provenance['precision']}), {done.cells_per_second:,.0f} cells/s"
    )
    for warning in done.warnings:
        tell(f"Warning: {warning}")
    for path in (out, report, map_png):
        if path is not None:
            print(path)


@app.command
def tokenize(
    source: Path,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    model: str = "mini",
    layer: str | None = None,
    gene_key: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write the ranked genes of every cell as tokens to a Parquet file.

    Parameters
    ----------
    source
        Raw counts: .h5ad, .zarr, 10x .h5, 10x matrix folder (or .tar.gz of it), .loom.
    out
        The .parquet file: cell_id, input_ids, length.
    model
        Whose gene table and context: a bundled model's name or a checkpoint directory.
    layer
        Where the raw counts are: X (default), raw, or a layer's name.
    gene_key
        Column of var with Ensembl ids or symbols; found by its values if not given.
    overwrite
        Replace an output that exists.
    """
    from cellscribe import api
    from cellscribe.cells.counts import tell

    with progress_bar("Tokenizing") as progress:
        done = api.tokenize(
            source,
            out,
            model=model,
            layer=layer,
            gene_key=gene_key,
            overwrite=overwrite,
            progress=progress,
        )
    tell(done.genes.summary())
    tell(f"{done.n_cells:,} cells, {done.n_tokens:,} genes")
    if done.n_empty:
        tell(f"Warning: {done.n_empty:,} cells have no count on a gene that the model knows.")
    print(out)


@app.command
def info(model: str = "mini", /) -> None:
    """Tell a model's size, cost, vocabulary, context and origin.

    Parameters
    ----------
    model
        A bundled model's name, a preset's, or a checkpoint directory.
    """
    from cellscribe import api

    facts = api.info(model)
    width = max(map(len, facts))
    for name, value in facts.items():
        lines = value if isinstance(value, list) else [value]
        for place, line in enumerate(lines):
            print(f"{name if place == 0 else '':<{width}}  {line}")


@bench.command(name="tokenize")
def bench_tokenize(
    *, data: Path, cells: int = 12_000, repeats: int = 3, out: Path = Path("benchmarks/results")
) -> None:
    """File to Parquet, beside a per-cell loop that builds a Hugging Face dataset.

    Parameters
    ----------
    data
        Folder of real h5ad files.
    cells
        Cells of the file that is tokenised.
    repeats
        Measurements of each side.
    out
        Folder of results.
    """
    need_peers()
    from cellscribe.bench import verbs

    print(verbs.bench_tokenize(data, cells, repeats, out=out))


@bench.command(name="embed")
def bench_embed(
    *,
    data: Path,
    model: str = "geneformer-10m",
    cells: int = 400,
    repeats: int = 3,
    device: str = "auto",
    out: Path = Path("benchmarks/results"),
) -> None:
    """File to vectors, beside transformers' BertModel in float32.

    Parameters
    ----------
    data
        Folder of real h5ad files.
    model
        A preset (random weights), a bundled model or a checkpoint directory.
    cells
        Cells of the file that is embedded.
    repeats
        Measurements of each side.
    device
        auto, cpu or a CUDA device; both sides use the same.
    out
        Folder of results.
    """
    need_peers()
    from cellscribe.bench import verbs

    print(verbs.bench_embed(data, model, cells, repeats, device, out))


@bench.command(name="memory")
def bench_memory(
    *,
    data: Path,
    cells: int = 1_000_000,
    model: str = "mini",
    device: str = "cpu",
    context: int | None = None,
    scratch: Path | None = None,
    out: Path = Path("benchmarks/results"),
) -> None:
    """Resident memory of embedding a large file, over the whole run.

    Parameters
    ----------
    data
        Folder of real h5ad files, whose cells are repeated.
    cells
        Cells of the file; a million take about 8 GB of disk.
    model
        A preset (random weights), a bundled model or a checkpoint directory.
    device
        auto, cpu or a CUDA device.
    context
        Most genes a cell; the model's own number if not given.
    scratch
        Where to put the file; the system's folder for temporary files if not given.
    out
        Folder of results.
    """
    from cellscribe.bench import verbs

    print(verbs.bench_memory(data, cells, model, device, context, scratch, out))


@bench.command(name="quality")
def bench_quality(
    *,
    data: Path,
    model: str = "mini",
    also: tuple[Path, ...] = (),
    out: Path = Path("benchmarks/results"),
) -> None:
    """Cell types by a linear probe, beside random weights and log-normalised PCA.

    Parameters
    ----------
    data
        Folder of labelled h5ad files that the model never saw.
    model
        A bundled model or a checkpoint directory.
    also
        Further checkpoint directories to measure beside it.
    out
        Folder of results.
    """
    from cellscribe.bench.quality import bench_quality as measure

    print(measure(data, model, also, out))


def need_peers() -> None:
    """Refuse a comparison whose other side is not installed."""
    from importlib.util import find_spec

    for package in ("datasets", "transformers"):
        if find_spec(package) is None:
            raise InputError(f'the peer needs {package}: pip install "cellscribe[bench]"')


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show cells done, cells/s and time left on a terminal; gives what to tell of progress."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("cells, {task.fields[rate]} cells/s"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
    )
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total: None
        return
    bar = Progress(*columns, console=console, transient=True)
    try:
        yield _Follow(bar, what)
    finally:
        if bar.tasks:
            bar.stop()


class _Follow:
    """Carries (done, total) to a bar, which appears with the first call."""

    def __init__(self, bar: Progress, what: str) -> None:
        self.bar, self.what = bar, what
        self.task: Any = None

    def __call__(self, done: int, total: int) -> None:
        if self.task is None:
            self.task = self.bar.add_task(self.what, total=total, completed=done, rate="…")
            self.bar.start()
            return
        speed = self.bar.tasks[0].speed
        rate = "…" if speed is None else f"{speed:,.0f}"
        self.bar.update(self.task, completed=done, rate=rate)


@app.meta.default
def launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Path | None = None,
) -> None:
    """Run one verb.

    Parameters
    ----------
    config
        TOML file that lies under the flags: a table for each verb, [embed] with model = "mini".
    """
    app.config = ()
    if config is not None:
        from cellscribe.config import read_toml

        verbs = [name for name in app if not name.startswith("-")]
        for table in read_toml(config):
            if table not in verbs:
                raise InputError(f"{config}: no verb {table!r}; tables are {', '.join(verbs)}")
        app.config = (Toml(config, must_exist=True, allow_unknown=False, search_parents=False),)
    app(tokens, exit_on_error=False, print_error=False)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; leaves by SystemExit with status 0, 2 or 130."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        app.meta(arguments, exit_on_error=False, print_error=False)
    except (InputError, CycloptsError) as error:
        fail(" ".join(str(error).split()), 2)
    except KeyboardInterrupt as interrupt:
        fail(str(interrupt) or "interrupted", 130)
    except BrokenPipeError:
        sys.exit(141)


def fail(line: str, status: int) -> None:
    """Print one line and leave."""
    print(f"cellscribe: {line}", file=sys.stderr)
    sys.exit(status)
