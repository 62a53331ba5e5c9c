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

from cellscribe.atlas.claims import DONE, FREE, Claims, alive, claim_key, highest
from cellscribe.atlas.records import (
    Standing,
    as_record,
    read_failures,
    read_records,
    reopened_key,
    standing,
)
from cellscribe.atlas.stores import Folder, open_store
from cellscribe.buckets.bucket import Bucket
from cellscribe.cells.source_lists import Shard
from cellscribe.errors import InputError

STATE = ".cellscribe"
JOB, MANIFEST = "job.json", "manifest.json"
FORMAT = 1
OF_SHARD = ("name", "path", "status", "reason", "layer", "gene_key", "cut_from")
"""Fields of a shard in the manifest that are not from its record."""


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
        self.manifests = open_store(f"{self.state.name}/manifests")
        self.suffix = suffix
        if about is None:
            return
        self.about = json.loads(json.dumps(dict(about)))
        content = json.dumps({"format": FORMAT, "about": self.about}, indent=1).encode()
        if not self.state.create(JOB, content):
            self._compare(as_record(self.state.read(JOB)))
        elif isinstance(self.state, Bucket):
            self.state.check_shared(JOB, content)

    def _compare(self, record: Mapping[str, Any]) -> None:
        there, kind = record.get("about"), record.get("format")
        if not isinstance(there, dict) or not isinstance(kind, int):
            raise InputError(f"{self.state.name}/{JOB} is damaged; name another output folder")
        if kind != FORMAT:
            raise InputError(
                f"{self.state.name}/{JOB} is of another version of cellscribe (format {kind}, here "
                f"{FORMAT}); take that version, or name another folder"
            )
        for key in self.about | there:
            if self.about.get(key) != there.get(key):
                raise InputError(
                    f"{self.store.name} holds results made with another {key.replace('_', ' ')} "
                    f"({there.get(key)!r}, now {self.about.get(key)!r}); name another folder"
                )

    def refuse_results_of_others(self, shards: Sequence[Shard]) -> None:
        """Refuse a folder in which a result would replace what is no result of a job.

        Raises
        ------
        InputError
            There is no job in the folder, but a file under the name of a result.
        """
        if isinstance(self.store, Folder):
            there = set(os.listdir(self.store.path))
        else:
            there = {key.partition("/")[0] for key in self.store.keys("")}
        taken = [file for shard in shards if (file := self.file(shard.name)) in there]
        # asked last: a worker that comes at the same time makes the job before its first result
        if taken and self.state.read(JOB) is None:
            raise InputError(
                f"{self.store.name} holds {taken[0]} already, which is no result of a run over "
                "many sources and would be replaced; name another folder"
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
        stand = standing(self.state)
        records = self._records(shards, stand, self._manifest())
        for shard in shards:
            if shard.name not in stand.done:
                continue
            record = records.get(shard.name, {})  # none: it is damaged
            path = self.path(shard.name)
            lost = path is not None and not path.exists()
            try:
                other = record.get("source") != source_identity(shard)
            except InputError:
                other = True  # it is gone, which is told when it is tried again
            if (lost or other) and self.reopen(shard.name, record) and record:
                changed += [shard.name] if other else []
        return changed

    def reopen(self, shard: str, record: Mapping[str, Any]) -> bool:
        """Have a finished shard done again, unless another worker has seen to that already."""
        content = self.state.read(f"{DONE}/{shard}")
        if content is None or as_record(content) != record:
            return False
        self.state.create(reopened_key(shard, record), b"{}")
        self.state.write(claim_key(shard, highest(self.state, shard)), FREE)
        self.state.delete(f"{DONE}/{shard}")
        return True

    def _manifest(self) -> dict[str, Any]:
        return as_record(self.store.read(MANIFEST))

    def _records(
        self,
        shards: Sequence[Shard],
        stand: Standing,
        manifest: Mapping[str, Any],
        told: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> dict[str, dict[str, Any]]:
        entries = manifest.get("shards")
        known = {
            entry["name"]: {k: v for k, v in entry.items() if k not in OF_SHARD}
            for entry in (entries if isinstance(entries, list) else ())
            if isinstance(entry, dict) and isinstance(entry.get("name"), str)
        }
        names = [shard.name for shard in shards]
        return read_records(self.state, names, stand, {**known, **(told or {})})

    def write_manifest(
        self,
        shards: Sequence[Shard],
        claims: Claims,
        known: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> dict[str, Any]:
        """Write what became of every shard, in the order of the list.

        Of workers that end together one writes it, and the others wait for it and read it: many
        thousand records are read once, not by each of them.

        Parameters
        ----------
        shards
            All of the job.
        claims
            Of who writes.
        known
            Records that need not be read.

        Returns
        -------
        dict
            The manifest.
        """
        stand = standing(self.state)
        digest = stand.digest(shards)
        written = self._manifest()
        if written.get("digest") == digest:
            return written
        # claimed as a shard is
        for turn in Claims(self.manifests, [digest], claims.worker, patience=claims.patience):
            try:
                with alive(turn, claims.patience):
                    written = self._build(shards, stand, digest, known or {})
            except BaseException:
                turn.let_go()
                raise
            turn.done({})
            return written
        written = self._manifest()
        # another list of sources may have been written over it since
        return (
            written if written.get("digest") == digest else self._build(shards, stand, digest, {})
        )

    def _build(
        self,
        shards: Sequence[Shard],
        stand: Standing,
        digest: str,
        told: Mapping[str, Mapping[str, Any]],
    ) -> dict[str, Any]:
        failures = read_failures(self.state, [shard.name for shard in shards], stand)
        records = self._records(shards, stand, self._manifest(), told)
        entries = []
        for shard in shards:
            record = records.get(shard.name, {})
            status = "done" if record else "failed" if shard.name in failures else "open"
            entry: dict[str, Any] = {"name": shard.name, "path": shard.path, "status": status}
            own = {"layer": shard.layer, "gene_key": shard.gene_key, "cut_from": shard.cut_from}
            entry |= {key: value for key, value in own.items() if value is not None}
            if status == "failed":
                entry["reason"] = failures[shard.name]
            entries.append(entry | record)
        manifest = {
            "format": FORMAT,
            "about": as_record(self.state.read(JOB)).get("about"),
            "digest": digest,
            "shards": entries,
        }
        self.store.write(MANIFEST, _manifest_text(manifest).encode())
        return manifest


def _manifest_text(manifest: Mapping[str, Any]) -> str:
    """Write a manifest with a line for each shard, which is many times quicker than indented."""
    parts = {key: json.dumps(value) for key, value in manifest.items() if key != "shards"}
    shards = ",\n".join(json.dumps(shard) for shard in manifest["shards"])
    fields = [f'"{key}": {text}' for key, text in parts.items()]
    return "{" + ",\n".join([*fields, f'"shards": [\n{shards}\n]']) + "}\n"


def source_identity(shard: Shard) -> dict[str, Any]:
    """Tell a source from another under its name.

    Its rows, its layer and gene key if it has its own, its size, and a file's time or an object's
    tag.
    """
    about: dict[str, Any] = {"rows": list(shard.rows) if shard.rows else None}
    own = {"layer": shard.layer, "gene_key": shard.gene_key}
    about |= {key: value for key, value in own.items() if value is not None}
    if "://" in shard.path:
        about |= {"bytes": shard.size, "etag": shard.etag}
    else:
        path = Path(shard.path)
        try:
            files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
            stats = [os.stat(file) for file in files or [path]]
        except OSError as error:
            raise InputError(f"{shard.path}: {error.strerror}; check the path") from None
        about["bytes"] = sum(stat.st_size for stat in stats)
        about["modified_ns"] = max((stat.st_mtime_ns for stat in stats), default=0)
    return about
