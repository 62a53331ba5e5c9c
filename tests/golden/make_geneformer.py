"""Write ``geneformer.json``: what Geneformer's own tools make of checkpoints of formula weights.

    git clone https://github.com/explorerwjy/Geneformer && git -C Geneformer checkout dff467c
    PYTHONPATH=src:tests python tests/golden/make_geneformer.py Geneformer [--full]

That is a copy of huggingface.co/ctheodoris/Geneformer (Apache-2.0) with V1 and V2. Needs scanpy,
loompy, datasets, tdigest, seaborn, peft and transformers, the real cells and the published
dictionaries of ``../shared``. Tokenizer and embedding extractor are imported past the package's own
``__init__`` and told "cpu" where they say "cuda". V1's dictionary of retired ids is not at hand:
its tokeniser gets none. V2's dictionaries have the SHA-256 of that copy's ``_gc104M`` pointers.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import types
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import anndata
import numpy as np
from families.published_geneformer import write_published

SHARED = Path(__file__).resolve().parents[3] / "shared"
CELLS = {
    "pbmc3k_10x.h5ad": [0, 1, 2, 700, 1500, 2699],
    "hek293t_hgmm1k_human.h5ad": [0, 7, 100, 301],
    "pancreas_baron_human_came.h5ad": [3, 1000],
    "lung_hlca_query_delorey.h5ad": [10, 11],
}
EMBEDDED = [
    "pbmc3k_10x.h5ad 0",
    "pbmc3k_10x.h5ad 1500",
    "hek293t_hgmm1k_human.h5ad 100",
    "pancreas_baron_human_came.h5ad 3",
    "lung_hlca_query_delorey.h5ad 10",
]
MODES = {"V1": [("cell", -1), ("cell", 0)], "V2": [("cls", -1), ("cls", 0), ("cell", -1)]}
FULL_CELLS = EMBEDDED[:3]
FULL_VALUES = 24
SHOWN = 60
ABOUT = {
    "made by": "tests/golden/make_geneformer.py",
    "reference": "https://github.com/explorerwjy/Geneformer at "
    "dff467cb1535ec4a9bae4cfbd2502a877863382f (copy of huggingface.co/ctheodoris/Geneformer)",
    "versions": {name: metadata.version(name) for name in ("torch", "transformers", "numpy")},
    "steps": [
        "write the checkpoint of tests/families/published_geneformer.py with the published "
        "dictionaries",
        "cut the cells out of their files, give them to TranscriptomeTokenizer as .h5ad",
        f"tokens: the first {SHOWN}, how many, and the SHA-256 of all as little-endian uint16",
        "give these tokens to EmbExtractor(emb_mode, emb_layer, forward_batch_size=4)",
        f"full size: the first {FULL_VALUES} values of a cell",
    ],
}


def import_reference(clone: Path) -> types.ModuleType:
    """The package with the modules that are used, on the CPU."""
    package = types.ModuleType("geneformer")
    package.__path__ = [str(clone / "geneformer")]
    sys.modules["geneformer"] = package
    genes = SHARED / "genes"
    for kind, name in {
        "GENE_MEDIAN": "gene_median_dictionary",
        "TOKEN_DICTIONARY": "token_dictionary",
    }.items():
        setattr(package, f"{kind}_FILE", genes / f"{name}_gc95M.pkl")
        setattr(package, f"{kind}_FILE_30M", genes / f"{name}_gc30M.pkl")
    package.ENSEMBL_MAPPING_FILE = genes / "ensembl_mapping_dict_gc95M.pkl"
    for name in ("perturber_utils", "emb_extractor", "tokenizer"):
        text = (clone / "geneformer" / f"{name}.py").read_text().replace('"cuda"', '"cpu"')
        module = types.ModuleType(f"geneformer.{name}")
        module.__package__ = "geneformer"
        sys.modules[f"geneformer.{name}"] = module
        setattr(package, name, module)
        exec(compile(text, f"{name}.py", "exec"), module.__dict__)
    return package


def tokens_of(package: Any, version: str) -> dict[str, list[int]]:
    """Reference tokens by "file row"."""
    import datasets

    if version == "V2":
        tokenizer = package.tokenizer.TranscriptomeTokenizer({"row": "row"})
    else:
        tokenizer = package.tokenizer.TranscriptomeTokenizer(
            {"row": "row"},
            model_input_size=2048,
            special_token=False,
            gene_median_file=package.GENE_MEDIAN_FILE_30M,
            token_dictionary_file=package.TOKEN_DICTIONARY_FILE_30M,
            gene_mapping_file=None,
        )
    found = {}
    for file, rows in CELLS.items():
        with tempfile.TemporaryDirectory() as folder:
            cells = anndata.read_h5ad(SHARED / "data" / file)[rows].copy()
            cells.obs["row"] = rows
            cells.write_h5ad(Path(folder) / "cells.h5ad")
            tokenizer.tokenize_data(folder, folder, "out", file_format="h5ad")
            for cell in datasets.load_from_disk(f"{folder}/out.dataset").to_list():
                found[f"{file} {cell['row']}"] = cell["input_ids"]
    return found


def embeddings_of(
    package: Any, version: str, model: Path, cells: dict[str, list[int]]
) -> dict[str, dict[str, list[float]]]:
    """Reference vectors by mode, then by cell."""
    import datasets

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        table = {
            "input_ids": list(cells.values()),
            "length": [len(tokens) for tokens in cells.values()],
            "cell": list(cells),
        }
        datasets.Dataset.from_dict(table).save_to_disk(f"{folder}/in.dataset")
        for mode, layer in MODES[version]:
            extractor = package.emb_extractor.EmbExtractor(
                emb_mode=mode,
                emb_layer=layer,
                emb_label=["cell"],
                forward_batch_size=4,
                max_ncells=None,
                model_version=version,
                nproc=1,
            )
            frame = extractor.extract_embs(str(model), f"{folder}/in.dataset", folder, "out")
            values = frame.drop(columns="cell").to_numpy(np.float32)
            rows = dict(zip(frame["cell"], values, strict=True))
            found[f"{mode} {layer}"] = {cell: [float(x) for x in rows[cell]] for cell in cells}
    return found


def shown(tokens: list[int]) -> dict[str, Any]:
    """What is recorded of a cell's tokens."""
    digest = hashlib.sha256(np.array(tokens, "<u2").tobytes()).hexdigest()
    return {"first": tokens[:SHOWN], "n": len(tokens), "sha256": digest}


def main(clone: Path, *, full: bool) -> None:
    """Write the golden file; `full` also runs the models at their own size."""
    warnings.simplefilter("ignore")
    package = import_reference(clone)
    out = Path(__file__).with_name("geneformer.json")
    before = json.loads(out.read_text()) if out.exists() else {}
    golden: dict[str, Any] = {"about": ABOUT}
    for version in ("V1", "V2"):
        tokens = tokens_of(package, version)
        part = {"tokens": {cell: shown(ids) for cell, ids in tokens.items()}}
        with tempfile.TemporaryDirectory() as folder:
            model = write_published(Path(folder), version, dictionaries=SHARED / "genes")
            cells = {cell: tokens[cell] for cell in EMBEDDED}
            part["small"] = embeddings_of(package, version, model, cells)
        part["full"] = before.get(version, {}).get("full", {})
        if full:
            with tempfile.TemporaryDirectory() as folder:
                model = write_published(
                    Path(folder), version, size="full", dictionaries=SHARED / "genes"
                )
                cells = {cell: tokens[cell] for cell in FULL_CELLS}
                found = embeddings_of(package, version, model, cells)
                part["full"] = {
                    mode: {cell: values[:FULL_VALUES] for cell, values in rows.items()}
                    for mode, rows in found.items()
                }
        golden[version] = part
    out.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), full="--full" in sys.argv)
