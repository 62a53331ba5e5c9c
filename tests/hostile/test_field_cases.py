"""Files as people have them, each with the value or the one line that it must give.

`../shared/field-cases` holds inputs of which public reports tell; where that folder does not lie
next to the checkout, the tests are skipped. What ships with the code is cut down, in
`test_odd_files.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from support.command import Cli, Ran

import cellscribe
from cellscribe import InputError

CASES = Path(__file__).resolve().parents[3] / "shared" / "field-cases"
pytestmark = [
    pytest.mark.skipif(not CASES.is_dir(), reason="needs ../shared/field-cases, which is not here"),
    pytest.mark.usefixtures("one_thread"),
]
CLEAN = "_base/base.h5ad"
"""Its vectors are what most cases must give; by the bundled model as it is, not as it was once."""


@dataclass(frozen=True)
class Expected:
    """What a case gives: the vectors of `value`, a line with `refusal` in it, or either."""

    source: str
    value: str | None = CLEAN
    """The clean file whose vectors they are."""
    refusal: str | None = None
    reverse: bool = False


EXPECTED: dict[str, Expected] = {
    "composite_ids": Expected("in.h5ad"),
    "dots_for_dashes": Expected("in.h5ad"),
    "feature_name_suffix": Expected("in.h5ad"),
    "feature_types_missing": Expected("in.h5ad", "feature_types_missing/clean.h5ad"),
    "features_quoted": Expected("quo"),
    "genome_prefix": Expected("in.h5ad"),
    "geo_tar_prefix": Expected("GSE1_RAW.tar"),
    "gex_adt_feature_types": Expected("in.h5ad", refusal="which features are genes"),
    "h5mu": Expected("in.h5mu", refusal="MuData"),
    "header_lines": Expected("hl", refusal="first line looks like a header"),
    "kb_folder": Expected("kb", refusal="kallisto|bustools"),
    "loom_scenic": Expected("scenic.loom"),
    "mtx_tabs": Expected("tabs"),
    "named_mtx_ignored": Expected("solo/UniqueAndMult-Uniform.mtx", reverse=True),
    "placeholder_x": Expected("in.h5ad", None, r"--layer counts\b"),
    "rds": Expected("seurat.rds", None, r"R (file|object).*\.h5ad"),
    "soupx": Expected("in.h5ad", None, r"(corrected|estimated).*--counts fractional"),
    "star_float_header": Expected("sf"),
    "star_velocyto_3col": Expected("velo", None, "spliced.*unspliced.*ambiguous"),
    "transposed": Expected("in.h5ad", None, "[Tt]ranspose"),
}
OTHERS = {"anndata06_labels", "raw_twice", "url"}
"""Cases with a test of their own."""


@pytest.fixture(scope="module")
def mini() -> cellscribe.Embedder:
    return cellscribe.load("mini", device="cpu", precision="float32", threads=1)


def vectors_of(path: Path, mini: cellscribe.Embedder) -> np.ndarray:
    made = cellscribe.embed(path, model=mini, log=lambda line: None)
    assert isinstance(made, np.ndarray)
    return made


def refused(run: Cli, source: object, tmp_path: Path, *words: object) -> str:
    """The one line of the command line."""
    ran: Ran = run("embed", source, "-o", tmp_path / "out.npy", "--precision", "float32", *words)
    assert ran.status == 2, ran
    line = ran.err.rstrip("\n")
    assert line.startswith("cellscribe: ") and "\n" not in line and len(line) < 620, line
    assert not re.search("[\x00-\x1f\x7f-\x9f]", line)
    assert not list(tmp_path.iterdir())
    return line


def test_every_folder_is_looked_at() -> None:
    there = {path.parent.name for path in CASES.glob("*/README")}
    assert there == set(EXPECTED) | OTHERS


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_the_expected_value_or_the_one_line(
    name: str, mini: cellscribe.Embedder, run: Cli, tmp_path: Path
) -> None:
    expected = EXPECTED[name]
    source = CASES / name / expected.source
    try:
        found = vectors_of(source, mini)
    except InputError:
        assert expected.refusal is not None, refused(run, source, tmp_path)
        line = refused(run, source, tmp_path).replace(str(source), "IT")
        assert re.search(expected.refusal, line), line
        return
    assert expected.value is not None, f"{name} is to be refused"
    wanted = vectors_of(CASES / expected.value, mini)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, wanted[::-1] if expected.reverse else wanted)


def test_soupx_has_a_way_on_that_works(mini: cellscribe.Embedder) -> None:
    path = CASES / "soupx/in.h5ad"
    with pytest.raises(InputError, match="fractional"):
        cellscribe.embed(path, model=mini)
    options = cellscribe.EmbedOptions(counts="fractional", device="cpu", precision="float32")
    found = cellscribe.embed(path, model="mini", options=options, log=lambda line: None)
    assert isinstance(found, np.ndarray)
    assert len(found) == 4
    assert np.isfinite(found).all()


def test_the_placeholder_is_read_by_the_word_that_is_advised(
    mini: cellscribe.Embedder, run: Cli, tmp_path: Path
) -> None:
    path = CASES / "placeholder_x/in.h5ad"
    advised = re.search(r"--layer (\S+)", refused(run, path, tmp_path))
    assert advised
    found = cellscribe.embed(
        path, model=mini, layer=advised[1].rstrip(".,;"), log=lambda line: None
    )
    np.testing.assert_array_equal(found, vectors_of(CASES / CLEAN, mini))


def test_the_layer_that_is_advised_works_at_once(
    mini: cellscribe.Embedder, run: Cli, tmp_path: Path
) -> None:
    path, clean = CASES / "raw_twice/in.h5ad", CASES / "raw_twice/clean.h5ad"
    for words in ((), ("--layer", "raw")):
        advised = re.search(r"--layer (\S+)", refused(run, path, tmp_path, *words))
        assert advised
        layer = advised[1].rstrip(".,;")
        found = cellscribe.embed(path, model=mini, layer=layer, log=lambda line: None)
        np.testing.assert_array_equal(found, vectors_of(clean, mini))


def test_a_url_is_named_whole(run: Cli, tmp_path: Path) -> None:
    line = refused(run, "ftp://host/cells.h5ad", tmp_path)
    assert line.startswith("cellscribe: ftp://host cannot be opened")


def test_old_labels_are_names(mini: cellscribe.Embedder) -> None:
    folder = CASES / "anndata06_labels"
    options = cellscribe.AnnotateOptions(
        reference=str(folder / "ref06.h5ad"), label="cell_type", accuracy=0.5,
        device="cpu", precision="float32",
    )  # fmt: skip
    table = cellscribe.annotate(
        folder / "query.h5ad", model="mini", options=options, log=lambda line: None
    )
    assert table is not None
    labels = set(table["best"])
    assert labels == {"B cells", "CD14+ Monocytes"}
