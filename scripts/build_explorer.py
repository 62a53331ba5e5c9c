"""Bundle the script of `cellscribe explore`: ``python scripts/build_explorer.py``.

Installs what ``web/package-lock.json`` pins (npm and node are needed), bundles ``web/src`` with it
into one file, and writes next to it which lock and which sources it was made of: a test holds the
committed bundle against that. The licences of what is bundled stand in ``NOTICE``.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
WEB = ROOT / "web"
BUNDLE = ROOT / "src" / "cellscribe" / "explorer" / "explore.js"
NOTICE = ROOT / "NOTICE"
RECORD = BUNDLE.with_suffix(".json")


def sha256(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def made_of() -> dict[str, str]:
    """Hashes of what the bundle depends on."""
    return {
        "lock": sha256(WEB / "package-lock.json"),
        "sources": sha256(*sorted((WEB / "src").glob("*.js"))),
    }


def bundled() -> dict[str, str]:
    """Versions of the packages that are in the bundle, by the lock."""
    lock = json.loads((WEB / "package-lock.json").read_text())["packages"]
    found = {
        path.removeprefix("node_modules/"): entry
        for path, entry in lock.items()
        if path and not entry.get("dev")
    }
    return {name: f"{entry['version']} {entry['license']}" for name, entry in found.items()}


def licences() -> str:
    """The part of NOTICE on the bundle, which every page carries in front of it."""
    _, heading, text = NOTICE.read_text(encoding="utf-8").partition(
        "src/cellscribe/explorer/explore.js\n"
    )
    assert heading
    return text.rstrip()


def main() -> None:
    subprocess.run(
        ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=WEB, check=True
    )
    subprocess.run(
        [
            "node_modules/.bin/esbuild", "src/main.js", "--bundle", "--minify", "--format=iife",
            "--target=es2022", "--legal-comments=none", "--charset=ascii", f"--outfile={BUNDLE}",
        ],
        cwd=WEB, check=True,
    )  # fmt: skip
    # a page ends its script where it reads this
    text = BUNDLE.read_text(encoding="utf-8").replace("</script", "<\\/script")
    BUNDLE.write_text(f"/*\n{licences()}\n*/\n{text}", encoding="utf-8")
    record = {"bundle": sha256(BUNDLE), "bytes": BUNDLE.stat().st_size, **made_of()}
    RECORD.write_text(json.dumps(record | {"packages": bundled()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
