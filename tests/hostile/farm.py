"""Clean inputs of every kind that cellscribe reads: what mutators damage, made once into a folder.

`KINDS` gives for each kind a maker, which writes ``folder/NAME`` and returns it, and the targets
that read such a thing (`hostile.targets`). All are tiny: a case takes milliseconds.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from families import every
from support import formats
from support.tiny import N_GENES, real_genes, save_model, some_counts
from support.typed_cells import typed_cells

N_CELLS = 20
BLOCK = 8
"""Cells of a block in a worker, so that few cells are several."""
CELL_TARGETS = ("counts", "embed", "tokenize", "build", "embed_h5ad", "embed_zarr", "annotate")


@dataclass(frozen=True)
class Kind:
    """One kind of input."""

    make: Callable[[Path], Path]
    targets: tuple[str, ...]
    family: str
    """What kind of structure it has: hdf5, zarr, text, model, published, folder."""
    n_cells: int = N_CELLS


def counts() -> np.ndarray:
    """``[N_CELLS, N_GENES]`` int64."""
    return some_counts(N_CELLS)


def rich_h5ad(folder: Path) -> Path:
    """Compressed, with a layer, raw, categories, a sparse obsm and uns, as scanpy leaves files."""
    dense = counts()
    adata = formats.annotated(sp.csr_matrix(dense.astype(np.float32)), real_genes)
    adata.obs["cell_type"] = pd.Categorical(["b", "t"] * (N_CELLS // 2))
    adata.obs["n"] = np.arange(N_CELLS)
    adata.raw = adata
    adata.layers["counts"] = adata.X.copy()
    adata.obsm["X_pca"] = np.zeros((N_CELLS, 3), np.float32)
    adata.uns["log"] = {"base": 2.0}
    adata.write_h5ad(folder / "rich.h5ad", compression="gzip")
    return folder / "rich.h5ad"


def plain_h5ad(folder: Path) -> Path:
    """Uncompressed and contiguous: flipped bits meet nothing that notices them."""
    formats.annotated(sp.csr_matrix(counts()), real_genes).write_h5ad(folder / "plain.h5ad")
    return folder / "plain.h5ad"


def written(write: formats.Write) -> Callable[[Path], Path]:
    """Make a writer of `support.formats` a maker."""
    return lambda folder: write(counts(), folder, real_genes)


def frame() -> pd.DataFrame:
    """The cells as a table, a row a cell."""
    names = [f"cell{i}" for i in range(N_CELLS)]
    return pd.DataFrame(counts(), index=names, columns=real_genes(N_GENES)[1])


def csv(folder: Path) -> Path:
    """Cells x genes, commas between."""
    frame().to_csv(folder / "cells.csv")
    return folder / "cells.csv"


def csv_turned(folder: Path) -> Path:
    """Genes x cells, tabs between, compressed: as GEO has them."""
    frame().T.to_csv(folder / "cells.tsv.gz", sep="\t")
    return folder / "cells.tsv.gz"


def parquet_table(folder: Path) -> Path:
    """Cells x genes, as pandas writes a frame."""
    frame().to_parquet(folder / "cells.parquet")
    return folder / "cells.parquet"


def tokens(folder: Path) -> Path:
    """Our own token Parquet."""
    import cellscribe

    cellscribe.tokenize(
        plain_h5ad(folder),
        folder / "tokens.parquet",
        model=tiny(folder.parent),
        log=lambda line: None,
    )
    (folder / "plain.h5ad").unlink()
    return folder / "tokens.parquet"


def h5mu(folder: Path) -> Path:
    """MuData: genes, and twenty antibodies of the same cells."""
    import h5py
    from anndata.io import write_elem

    genes = formats.annotated(sp.csr_matrix(counts()), real_genes)
    proteins = ad.AnnData(
        sp.csr_matrix(np.ones((N_CELLS, 20), np.int64)),
        obs=genes.obs[[]],
        var=pd.DataFrame(
            {"feature_types": ["Antibody Capture"] * 20}, index=[f"CD{i}-prot" for i in range(20)]
        ),
    )
    genes.var["feature_types"] = "Gene Expression"
    with h5py.File(folder / "cells.h5mu", "w") as file:
        file.attrs["encoding-type"] = "MuData"
        file.attrs["encoding-version"] = "0.1.0"
        write_elem(file, "mod", {})
        write_elem(file, "mod/rna", genes)
        write_elem(file, "mod/prot", proteins)
        write_elem(file, "obs", genes.obs[[]])
        write_elem(file, "var", pd.concat([genes.var[[]], proteins.var[[]]]))
    return folder / "cells.h5mu"


def tiny(farm: Path) -> Path:
    """The model that cells are embedded with."""
    return farm / "checkpoint" / "model"


def checkpoint(folder: Path) -> Path:
    """A model directory with every part."""
    return save_model(folder / "model")


def corpus(folder: Path) -> Path:
    """A planted corpus, as `corpus build` lays one out."""
    from support.training import planted_corpus

    return planted_corpus(folder / "corpus", train=[24, 24], val=[16], test_unseen=[8])


def run(folder: Path) -> Path:
    """A training run that was stopped in the middle."""
    from support.training import run_training

    class Stop(Exception):
        pass

    def stop(line: dict[str, Any]) -> None:
        if line["step"] == 7:
            raise Stop

    with contextlib.suppress(Stop):
        run_training(
            folder.parent / "corpus" / "corpus",
            folder / "run",
            on_step=stop,
            validate_every=6,
            checkpoint_every=3,
        )
    return folder / "run"


def finetuned(folder: Path) -> Path:
    """A model with a head of labels."""
    import cellscribe

    cellscribe.finetune(
        tiny(folder.parent),
        typed_cells(90),
        folder / "model",
        label="cell_type",
        device="cpu",
        precision="float32",
        threads=1,
        log=lambda line: None,
    )
    return folder / "model"


def reference(folder: Path) -> Path:
    """Labelled cells, for annotation."""
    typed_cells(60).write_h5ad(folder / "reference.h5ad")
    return folder / "reference.h5ad"


def partial_run(folder: Path) -> Path:
    """An embedding run that was stopped half way: input, and ``out.npy.partial``."""
    import cellscribe
    from cellscribe.inference import resume

    root = folder / "stopped"
    root.mkdir()
    cells = plain_h5ad(root)
    before = resume.Partial.append

    def stop(self: Any, *rows: Any) -> None:
        before(self, *rows)
        raise KeyboardInterrupt

    resume.Partial.append = stop  # type: ignore[method-assign]
    try:
        cellscribe.embed_file(
            cells,
            root / "out.npy",
            model=tiny(folder.parent),
            device="cpu",
            precision="float32",
            threads=1,
            log=lambda line: None,
        )
    except KeyboardInterrupt:
        pass
    finally:
        resume.Partial.append = before  # type: ignore[method-assign]
    return root


def evaluation(folder: Path) -> Path:
    """Results that `cellscribe evaluate` left."""
    from support import evaluations

    results = folder / "evaluation" / "results"
    results.mkdir(parents=True)
    for method, kind in (("mini", "model"), ("counts + logistic regression", "baseline")):
        for seed in (0, 1):
            made = evaluations.result("celltype", "cells", method, kind, seed)  # type: ignore[arg-type]
            evaluations.write(results, made)
    return folder / "evaluation"


def published(family: str, folder: Path) -> Path:
    """A published checkpoint, with ``genes`` beside it where its family needs one."""
    root = folder / "published"
    root.mkdir()
    source, genes = every.write(family, root / "it")
    told = {
        "source": str(source.relative_to(root)),
        "genes": None if genes is None else str(genes.relative_to(root)),
    }
    (folder / "what.json").write_text(json.dumps(told))
    return root


def imported(family: str, folder: Path) -> Path:
    """The model that such a checkpoint becomes."""
    import cellscribe

    other = folder.parent / f"published_{family}"
    what = json.loads((other / "what.json").read_text())
    genes = None if what["genes"] is None else other / "published" / what["genes"]
    cellscribe.import_model(
        other / "published" / what["source"], folder / "model", genes=genes, log=lambda line: None
    )
    every.cells_of(folder / "model").write_h5ad(folder / "cells.h5ad")
    return folder / "model"


KINDS: dict[str, Kind] = {
    "checkpoint": Kind(checkpoint, ("embed_model", "info", "export", "tokenize_model"), "model"),
    "h5ad": Kind(plain_h5ad, CELL_TARGETS, "hdf5"),
    "h5ad_rich": Kind(rich_h5ad, CELL_TARGETS, "hdf5"),
    "h5ad_csc": Kind(written(formats.h5ad(sp.csc_matrix)), CELL_TARGETS[:4], "hdf5"),
    "h5ad_dense": Kind(written(formats.h5ad(formats.as_float)), CELL_TARGETS[:4], "hdf5"),
    "h5ad_06": Kind(written(formats.old_h5ad), CELL_TARGETS, "hdf5"),
    "zarr2": Kind(written(formats.zarr_store(sp.csr_matrix, 2)), CELL_TARGETS[:4], "zarr"),
    "zarr3": Kind(written(formats.zarr_store(sp.csr_matrix, 3)), CELL_TARGETS, "zarr"),
    "zarr3_dense": Kind(written(formats.zarr_store(formats.as_float, 3)), CELL_TARGETS[:4], "zarr"),
    "tenx_v3": Kind(written(formats.tenx_v3), CELL_TARGETS[:4], "hdf5"),
    "tenx_v2": Kind(written(formats.tenx_v2), CELL_TARGETS[:4], "hdf5"),
    "loom": Kind(written(formats.loom), CELL_TARGETS[:4], "hdf5"),
    "mtx": Kind(written(formats.mtx_folder), CELL_TARGETS[:4], "text"),
    "mtx_plain": Kind(
        written(partial(formats.mtx_folder, version=2, zipped=False)), CELL_TARGETS[:4], "text"
    ),
    "mtx_tar": Kind(written(formats.mtx_tar), CELL_TARGETS[:3], "text"),
    "h5mu": Kind(h5mu, CELL_TARGETS[:3], "hdf5"),
    "tokens": Kind(tokens, ("embed",), "parquet"),
    "csv": Kind(csv, CELL_TARGETS[:3], "text"),
    "csv_turned": Kind(csv_turned, CELL_TARGETS[:3], "text"),
    "parquet_table": Kind(parquet_table, CELL_TARGETS[:3], "parquet"),
    "corpus": Kind(corpus, ("read_corpus", "card", "train"), "corpus"),
    "run": Kind(run, ("resume", "report_run"), "run"),
    "finetuned": Kind(finetuned, ("annotate_with",), "model"),
    "reference": Kind(reference, ("annotate_by",), "hdf5"),
    "partial": Kind(partial_run, ("embed_resume",), "partial"),
    "evaluation": Kind(evaluation, ("report_evaluation",), "json"),
    **{
        f"published_{name}": Kind(partial(published, name), ("import",), "published")
        for name in every.FAMILIES
    },
    **{
        f"imported_{name}": Kind(partial(imported, name), ("embed_imported", "info"), "model")
        for name in every.FAMILIES
    },
}


def build(farm: Path, kinds: tuple[str, ...] = tuple(KINDS)) -> None:
    """Make what is missing; several processes may call this at once."""
    farm.mkdir(parents=True, exist_ok=True)
    with (farm / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name in kinds:
            stamp = farm / name / ".made"
            if stamp.exists():
                continue
            shutil.rmtree(farm / name, ignore_errors=True)
            (farm / name).mkdir()
            path = KINDS[name].make(farm / name)
            stamp.write_text(path.name)


def source_of(farm: Path, kind: str) -> Path:
    """The clean input of a kind."""
    return farm / kind / (farm / kind / ".made").read_text()


def genes() -> int:
    """Genes of the cells."""
    return N_GENES


def decoy(folder: Path) -> Path:
    """A file outside that links point to; nothing may change it."""
    path = folder / "decoy"
    if not path.exists():
        path.write_bytes(b"a decoy: nothing may write here\n")
        os.chmod(path, 0o644)
    return path


def as_anndata(dense: np.ndarray, obs: list[str], var: pd.DataFrame) -> ad.AnnData:
    """Cells from an independent reader as an AnnData."""
    return ad.AnnData(sp.csr_matrix(dense), obs=pd.DataFrame(index=obs), var=var)
