"""Make bundled/cell_ontology.tsv.gz: terms of the Cell Ontology, with what each is a kind of.

    pip download --no-deps cellxgene-ontology-guide==1.11.1
    python scripts/make_cell_ontology.py cellxgene_ontology_guide-1.11.1-py3-none-any.whl

The wheel (MIT, Chan Zuckerberg Initiative) carries releases of the Cell Ontology (OBO Foundry,
CC BY 4.0) as JSON; the newest is taken. A term's parents there are its ancestors at distance
one, by is_a and other relations of the ontology; those that are no cells are left out.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
import zipfile
from pathlib import Path

import pyarrow as pa

OUT = Path(__file__).parents[1] / "src" / "cellscribe" / "bundled" / "cell_ontology.tsv.gz"


def main(wheel: str) -> None:
    with zipfile.ZipFile(wheel) as archive:
        newest = max(
            name for name in archive.namelist() if re.search(r"/CL-ontology-v.*zst$", name)
        )
        table = json.loads(pa.CompressedInputStream(archive.open(newest), "zstd").read())
    release = re.search(r"v(\d{4}-\d\d-\d\d)", newest)
    assert release is not None
    known = {key: term for key, term in table.items() if not term["deprecated"]}
    lines = [f"# Cell Ontology {release[1]}, https://obofoundry.org/ontology/cl, CC BY 4.0\n"]
    for key, term in sorted(known.items()):
        parents = [other for other, far in term["ancestors"].items() if far == 1 and other in known]
        synonyms = "|".join(
            word for word in term.get("synonyms", ()) if not set(word) & set("|\t\n")
        )
        lines.append(f"{key}\t{term['label']}\t{' '.join(sorted(parents))}\t{synonyms}\n")
    with OUT.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as file:
        file.write("".join(lines).encode())
    print(OUT, len(lines) - 1, "terms,", OUT.stat().st_size, "bytes")


if __name__ == "__main__":
    main(sys.argv[1])
