"""The commands of ``python -m benchmarks``: measure cellscribe side by side with its peers."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cyclopts import App, Parameter

from benchmarks.atlas import atlas
from cellscribe.cli.app import run
from cellscribe.errors import InputError

bench = App(
    name="python -m benchmarks",
    help="Measure cellscribe on this machine, side by side with its peers.",
    help_format="plaintext",
    default_parameter=Parameter(negative=()),
    suppress_keyboard_interrupt=False,
)
bench.command(atlas)


@bench.command(name="tokenize")
def bench_tokenize(
    *, data: Path, cells: int = 12_000, repeats: int = 3, out: Path = Path("benchmarks/results")
) -> None:
    """Compare file to Parquet with a per-cell loop that builds a Hugging Face dataset.

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
    need("datasets", "transformers")
    from benchmarks import commands

    print(commands.bench_tokenize(data, cells, repeats, out=out))


@bench.command(name="sharing")
def bench_sharing(
    *,
    folder: Path,
    bucket: str | None = None,
    shards: int = 10_000,
    workers: int = 64,
    seconds: float = 0.7,
    out: Path = Path("benchmarks/results"),
) -> None:
    """Measure what it costs to share shards out among workers that sleep in place of embedding.

    Parameters
    ----------
    folder
        A folder that does not exist yet, for sources and results.
    bucket
        URL of a prefix on an S3 server whose address and keys the environment holds.
    shards
        Shards of 5,000 cells.
    workers
        Processes.
    seconds
        What a shard takes; see `embed` for cells a second of a model and a machine.
    out
        Folder of results.
    """
    from benchmarks import sharing

    print(sharing.bench_sharing(folder, bucket, shards, workers, seconds, out))


@bench.command(name="remote")
def bench_remote(
    *,
    data: Path,
    bucket: str,
    milliseconds: float = 20.0,
    rounds: int = 3,
    sources: int = 6,
    cells: int = 200,
    out: Path = Path("benchmarks/results"),
) -> None:
    """Compare obstore with s3fs, and embedding from a bucket with embedding local files.

    Parameters
    ----------
    data
        Folder of real h5ad files.
    bucket
        URL of a prefix on an S3 server whose address and keys the environment holds.
    milliseconds
        Added to each request, by a proxy.
    rounds
        Measurements of each side.
    sources
        Files that are embedded.
    cells
        First cells of each.
    out
        Folder of results.
    """
    need("obstore", "s3fs")
    from benchmarks import remote

    print(remote.bench_remote(data, bucket, milliseconds, rounds, sources, cells, out))


@bench.command(name="index")
def bench_index(
    *,
    vectors: Path,
    cells: int = 1_000_000,
    queries: int = 10_000,
    names: tuple[str, ...] | None = None,
    out: Path = Path("benchmarks/results"),
) -> None:
    """Compare libraries for an index of cells: time to build, size, time to search, recall.

    Parameters
    ----------
    vectors
        Folder of .npy: what `cellscribe embed DATA/*.h5ad --form npy` writes of real cells.
    cells
        Vectors that are derived of them.
    queries
        Vectors that are searched for, derived of other cells.
    names
        Only these libraries.
    out
        Folder of results.
    """
    need("faiss", "usearch")
    from benchmarks import index

    print(index.bench_index(vectors, cells, queries, list(names or index.SIDES), out))


@bench.command(name="annotate")
def bench_annotate(*, data: Path, out: Path = Path("benchmarks/results")) -> None:
    """Measure annotate without labelled cells: on donors, types and tissues that are left out.

    Parameters
    ----------
    data
        Folder of real h5ad files.
    out
        Folder of results.
    """
    from benchmarks import bundled_index

    for path in bundled_index.bench_bundled_index(data, out):
        print(path)


@bench.command(name="embed")
def bench_embed(
    *,
    data: Path,
    model: str = "geneformer-10m",
    source: Path | None = None,
    reference: Path | None = None,
    cells: int | None = None,
    repeats: int = 3,
    device: str = "auto",
    out: Path = Path("benchmarks/results"),
) -> None:
    """Compare file to vectors with transformers' BertModel in float32, or a model's own code.

    Parameters
    ----------
    data
        Folder of real h5ad files.
    model
        A preset (random weights), a bundled model or a checkpoint directory, imported or not.
    source
        The published checkpoint that an imported model comes from, for the published code to read.
    reference
        Clone of the repository that an imported model's family publishes; Geneformer needs none.
    cells
        Cells of the file that is embedded: 400, or 100 with an imported model.
    repeats
        Measurements of each side.
    device
        auto, cpu or a CUDA device; both sides use the same. Imported models: the CPU.
    out
        Folder of results.
    """
    from benchmarks.families import bench_family, imported_family

    if imported_family(model) is not None:
        if device not in ("auto", "cpu"):
            raise InputError(f"--device {device}: imported models are measured on the CPU")
        many = 100 if cells is None else cells
        print(bench_family(data, Path(model), source, reference, many, repeats, out))
        return
    if source is not None or reference is not None:
        raise InputError(f"--source and --reference go with an imported model; {model} is none")
    need("datasets", "transformers")
    from benchmarks import commands

    print(commands.bench_embed(data, model, 400 if cells is None else cells, repeats, device, out))


@bench.command(name="vectors")
def bench_vectors(
    *,
    data: Path,
    corpus: Path = Path("runs/corpus"),
    runs: Path = Path("runs/ablation"),
    steps: int = 200,
    preset: str = "mini",
    names: tuple[str, ...] | None = None,
    out: Path = Path("benchmarks/results"),
) -> None:
    """Compare short training runs that differ in one thing each, by their vectors of cells.

    Parameters
    ----------
    data
        Folder of real h5ad files.
    corpus
        Corpus to train on.
    runs
        Folder of the runs; finished ones are not trained again.
    steps
        Steps of each run.
    preset
        What the runs differ from.
    names
        Runs, of `benchmarks.ablation.VARIANTS`; all if not given.
    out
        Folder of results.
    """
    from benchmarks import ablation

    chosen = tuple(ablation.VARIANTS) if names is None else names
    print(ablation.bench_ablation(data, corpus, runs, steps, preset, chosen, out))


@bench.command(name="transfer")
def bench_transfer(
    *,
    data: Path,
    corpus: Path = Path("runs/corpus"),
    runs: Path = Path("runs/ablation"),
    steps: int = 200,
    preset: str = "mini",
    out: Path = Path("benchmarks/results"),
) -> None:
    """Train without one tissue after the other, and score vectors on the one left out.

    Parameters
    ----------
    data
        Folder of real h5ad files.
    corpus
        Corpus whose genes the runs have.
    runs
        Folder of the runs; finished ones are not trained again.
    steps
        Steps of each run.
    preset
        How they are trained.
    out
        Folder of results.
    """
    from benchmarks import ablation

    print(ablation.bench_transfer(data, corpus, runs, steps, preset, out))


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
    """Measure resident memory of embedding a large file, over the whole run.

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
    from benchmarks import commands

    print(commands.bench_memory(data, cells, model, device, context, scratch, out))


@bench.command(name="read")
def bench_read(
    *,
    corpus: Path | None = None,
    data: Path | None = None,
    cells: int = 1_000_000,
    repeats: int = 5,
    batch_cells: int = 256,
    annbatch_python: Path | None = None,
    out: Path = Path("benchmarks/results"),
) -> None:
    """Compare a corpus to padded batches with Hugging Face datasets and annbatch.

    Parameters
    ----------
    corpus
        Folder of a corpus; one is built from data if not given.
    data
        Folder of real h5ad files, whose cells are repeated.
    cells
        Cells of the corpus that is built.
    repeats
        Measurements of each side.
    batch_cells
        Cells of a batch.
    annbatch_python
        Interpreter with annbatch[zarrs]; without it that side is left out.
    out
        Folder of results.
    """
    need("datasets")
    from benchmarks.read import bench_read as measure

    print(measure(corpus, data, cells, repeats, batch_cells, annbatch_python, out))


@bench.command(name="build")
def bench_build(
    *,
    data: Path,
    cells: int = 1_000_000,
    compression: Literal["gzip", "lzf", "none"] = "gzip",
    scratch: Path | None = None,
    annbatch_python: Path | None = None,
    out: Path = Path("benchmarks/results"),
) -> None:
    """Measure one large h5ad to a corpus: cells/s and memory.

    Parameters
    ----------
    data
        Folder of real h5ad files, whose cells are repeated.
    cells
        Cells of the file; a million take 4 GB of disk, the build 12 GB more while it works.
    compression
        Of the h5ad.
    scratch
        Where to put it; the system's folder for temporary files if not given.
    annbatch_python
        Interpreter with annbatch[zarrs], whose own shuffle of the counts is timed as well.
    out
        Folder of results.
    """
    from benchmarks.build import bench_build as measure

    print(measure(data, cells, compression, scratch, annbatch_python, out))


@bench.command(name="train")
def bench_train(
    *,
    corpus: Path | None = None,
    data: Path | None = None,
    preset: str = "geneformer-10m",
    cells: int = 8,
    steps: int = 2,
    repeats: int = 7,
    device: str = "auto",
    out: Path = Path("benchmarks/results"),
) -> None:
    """Compare steps of pre-training with transformers' BertForMaskedLM and AdamW.

    Parameters
    ----------
    corpus
        Folder of a corpus; one is built from data if not given.
    data
        Folder of real h5ad files.
    preset
        Shape and recipe: a name, or a TOML file with [model] and [training].
    cells
        Cells of a step, which are one micro batch.
    steps
        Steps of a turn.
    repeats
        Turns of each side.
    device
        auto, cpu or a CUDA device; all sides use the same.
    out
        Folder of results.
    """
    need("transformers")
    from benchmarks.train import bench_train as measure

    print(measure(corpus, data, preset, cells, steps, repeats, device, out))


@bench.command(name="hostile")
def bench_hostile(
    *,
    files: int = 10_000,
    kills: int = 200,
    first_seed: int = 10_000,
    work: Path = Path("runs/hostile"),
    jobs: int = 2,
    out: Path = Path("benchmarks/results"),
) -> None:
    """Damage files of every kind and kill every verb; count what becomes of it.

    Parameters
    ----------
    files
        Damaged files, over all kinds.
    kills
        Runs that are killed at a random moment, over all verbs.
    first_seed
        Seeds begin here; those of the tests are smaller.
    work
        Folder of clean inputs, scratch and record; a run that was stopped goes on there.
    jobs
        Processes side by side.
    out
        Folder of results.
    """
    from benchmarks.hostile import bench_hostile as measure

    print(measure(files, kills, first_seed, work, jobs, out))


@bench.command(name="annotation")
def bench_annotation(
    *,
    data: Path,
    model: str = "mini",
    draws: int = 10,
    vectors: Path = Path("runs/annotation"),
    out: Path = Path("benchmarks/results"),
) -> None:
    """Measure labels of held-out donors and of other studies, next to a classifier on genes.

    Parameters
    ----------
    data
        Folder of real h5ad files.
    model
        A bundled model.
    draws
        References drawn of each file and size.
    vectors
        Folder where the vectors of the files are kept; those that are there are not made again.
    out
        Folder of results.
    """
    from benchmarks import annotation

    print(annotation.bench_annotation(data, model, draws, vectors, out))


@bench.command(name="explore")
def bench_explore(
    *,
    data: Path,
    cells: int = 200_000,
    folder: Path = Path("runs/explore"),
    out: Path = Path("benchmarks/results"),
) -> None:
    """Measure the page of `cellscribe explore`: its UMAPs, its size, and its frames in Chromium.

    Parameters
    ----------
    data
        Folder of real h5ad files.
    cells
        Cells of the page: real ones drawn again and again, with half of their counts.
    folder
        Where cells and page are kept; cells that are there are not made again.
    out
        Folder of results.
    """
    need("umap")
    from benchmarks import explore

    print(explore.bench_explore(data, cells, folder, out))


def need(*packages: str) -> None:
    """Refuse a comparison whose other side is not installed."""
    from importlib.util import find_spec

    for package in packages:
        if find_spec(package) is None:
            raise InputError(f"the peer needs {package}: pip install --group bench")


def main(arguments: list[str] | None = None) -> None:
    """Run the program; leaves by SystemExit, as `cellscribe.cli.main` does."""
    run(bench, arguments)


if __name__ == "__main__":
    main()
