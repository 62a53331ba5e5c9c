"""What is made of which shards, kept in the folder of the results so that workers agree on it.

``OUT/`` holds a file for each shard and ``manifest.json``; ``OUT/.cellscribe/`` holds ``job.json``
(what is being made) and the keys by which workers share the shards out (`claims`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cellscribe.atlas.claims import DONE, FREE, Claims, claim_key, highest
from cellscribe.atlas.stores import Folder, Store, open_store
from cellscribe.buckets.bucket import Bucket
from cellscribe.cells.source_lists import Shard
from cellscribe.errors import InputError

STATE = ".cellscribe"
JOB, MANIFEST = "job.json", "manifest.json"
FORMAT = 1


class Job:
    """The results of a list of shards, and who works on them.

    Parameters
    ----------
    out
        Folder or URL of the results.
    about
        What is being made: the verb, the model's identity, the options that change a result. The
        first worker writes it down, the others must have the same. None for one that only looks.
    suffix
        Ending of the results' names.

    Raises
    ------
    InputError
        The folder holds another job's results.
    """

    def __init__(self, out: str | Path, about: Mapping[str, Any] | None, suffix: str) -> None:
        self.store = open_store(out)
        self.state = open_store(f"{str(out).rstrip('/')}/{STATE}")
        self.suffix = suffix
        if about is None:
            return
        self.about = json.loads(json.dumps(dict(about)))
        content = json.dumps({"format": FORMAT, "about": self.about}, indent=1).encode()
        if not self.state.create(JOB, content):
            self._compare(self._about_there())
        elif isinstance(self.state, Bucket):
            self.state.check_shared(JOB, content)

    def _about_there(self) -> Any:
        return read_record(self.state, JOB).get("about")

    def _compare(self, there: Any) -> None:
        if not isinstance(there, dict):
            raise InputError(f"{self.state.name}/{JOB} is damaged; name another output folder")
        for key in self.about | there:
            if self.about.get(key) != there.get(key):
                raise InputError(
                    f"{self.store.name} holds results made with another {key.replace('_', ' ')} "
                    f"({there.get(key)!r}, now {self.about.get(key)!r}); name another folder"
                )

    def file(self, shard: str) -> str:
        """Name of a shard's result."""
        return f"{shard}{self.suffix}"

    def path(self, shard: str) -> Path | None:
        """Where a shard's result lies; None in a bucket."""
        return self.store.path / self.file(shard) if isinstance(self.store, Folder) else None

    def reopen_changed(self, shards: Sequence[Shard]) -> list[str]:
        """Open finished shards again whose result is gone, or whose source has changed since.

        Returns
        -------
        list of str
            Names of those whose source has changed.
        """
        changed = []
        for shard in shards:
            record = read_record(self.state, f"{DONE}/{shard.name}")
            if not record:
                continue
            path = self.path(shard.name)
            lost = path is not None and not path.exists()
            other = record.get("source") != source_identity(shard)
            if lost or other:
                self.state.write(claim_key(shard.name, highest(self.state, shard.name)), FREE)
                self.state.delete(f"{DONE}/{shard.name}")
            if other:
                changed.append(shard.name)
        return changed

    def write_manifest(self, shards: Sequence[Shard], claims: Claims) -> dict[str, Any]:
        """Write what became of every shard, in the order of the list.

        Returns
        -------
        dict
            The manifest.
        """
        failures = claims.failures()
        entries = []
        for shard in shards:
            record = read_record(self.state, f"{DONE}/{shard.name}")
            status = "done" if record else "failed" if shard.name in failures else "open"
            entry: dict[str, Any] = {"name": shard.name, "path": shard.path, "status": status}
            if status == "failed":
                entry["reason"] = failures[shard.name]
            entries.append(entry | record)
        manifest = {"format": FORMAT, "about": self._about_there(), "shards": entries}
        self.store.write(MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
        return manifest


def read_record(store: Store, key: str) -> dict[str, Any]:
    """Read a JSON object; {} if it is not there or not whole."""
    try:
        found = json.loads(store.read(key) or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def source_identity(shard: Shard) -> dict[str, Any]:
    """Tell a source from another under its name: rows, size, and a file's time or object's tag."""
    about: dict[str, Any] = {"rows": list(shard.rows) if shard.rows else None}
    if "://" in shard.path:
        about |= {"bytes": shard.size, "etag": shard.etag}
    else:
        path = Path(shard.path)
        files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
        stats = [os.stat(file) for file in files]
        about["bytes"] = sum(stat.st_size for stat in stats)
        about["modified_ns"] = max((stat.st_mtime_ns for stat in stats), default=0)
    return about
