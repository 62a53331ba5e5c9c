"""Count the lines of Python in each room, at two commits, and print a table of both.

    python scripts/count_rooms.py d6f3a09 HEAD          # prints the table
    python scripts/count_rooms.py d6f3a09 HEAD --write  # puts it into docs/architecture.md

A room is a folder of ``src/cellscribe``; the modules next to the rooms count as one, and
``benchmarks``, ``scripts`` and ``tests`` as one each. Every line counts, comments and docstrings
too. A room that was renamed or divided has a row for each of its names.
"""

from __future__ import annotations

import argparse
import re
import subprocess
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
MARKED = re.compile(r"(<!-- rooms -->\n).*?(<!-- /rooms -->)", re.DOTALL)
PACKAGE = "src/cellscribe/"
OUTSIDE = ("benchmarks", "scripts", "tests")
Count = tuple[int, int]
"""Files and lines."""
NONE: Count = (0, 0)


def git(*words: str) -> str:
    return subprocess.run(
        ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True
    ).stdout


def room_of(path: str) -> str | None:
    """Name the room of a file; None for what is not counted."""
    if not path.endswith(".py"):
        return None
    first, *_ = path.split("/")
    if first in OUTSIDE:
        return f"{first}/"
    if not path.startswith(PACKAGE):
        return None
    room, *inside = path.removeprefix(PACKAGE).split("/")
    return f"{room}/" if inside else "modules next to the rooms"


def count(commit: str) -> dict[str, Count]:
    """Count files and lines by room at a commit."""
    found: dict[str, Count] = defaultdict(lambda: (0, 0))
    # "-" in the first two columns stands for a binary file, of which there is none with this suffix
    empty = git("hash-object", "-t", "tree", "/dev/null").strip()
    for line in git("diff", "--numstat", "--no-renames", empty, commit, "--", "*.py").splitlines():
        added, _, path = line.split("\t")
        room = room_of(path)
        if room is not None:
            files, lines = found[room]
            found[room] = files + 1, lines + int(added)
    return dict(found)


def order(room: str) -> tuple[bool, str]:
    return room.rstrip("/") in OUTSIDE, room


def table(before: str, after: str) -> str:
    """Render files and lines of both commits as Markdown, with the sum of the package."""
    counts = count(before), count(after)
    rooms = sorted({room for each in counts for room in each}, key=order)
    package = [room for room in rooms if room.rstrip("/") not in OUTSIDE]
    rows = [(room, *(each.get(room, NONE) for each in counts)) for room in rooms]
    sums = (tuple(sum(each.get(room, NONE)[i] for room in package) for i in (0, 1))
            for each in counts)  # fmt: skip
    rows.insert(len(package), ("**the package**", *sums))
    names = [git("rev-parse", "--short=7", commit).strip() for commit in (before, after)]
    head = f"| room | files at {names[0]} | lines | files at {names[1]} | lines |"
    lines = [head, "| :-- | --: | --: | --: | --: |"]
    for room, *both in rows:
        cells = [f"{n:,}" if n else "–" for each in both for n in each]
        name = f"`{room}`" if room.endswith("/") else room
        lines.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", help="the earlier commit")
    parser.add_argument("after", nargs="?", default="HEAD", help="the later commit")
    parser.add_argument("--write", action="store_true", help="put the table into the page")
    options = parser.parse_args()
    text = table(options.before, options.after)
    if not options.write:
        print(text)
        return
    page, filled = MARKED.subn(rf"\1\n{text}\n\n\2", PAGE.read_text(encoding="utf-8"))
    if filled != 1:
        raise SystemExit(f"{PAGE} has not one pair of markers <!-- rooms --> and <!-- /rooms -->")
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
