"""What runs on a node of a Ray cluster: an actor that has the process of one worker.

The work is done in the worker's process, not in the actor. So it dies as it does without Ray, with
a signal and last words that can be told, and it ends when the actor goes, however that came about.
"""

from __future__ import annotations

import json
import os
import queue
import socket
from importlib import metadata
from pathlib import Path

from cellscribe.atlas.processes import End, WorkerProcess
from cellscribe.atlas.stores import Folder, Store, open_store


def marker(token: str) -> str:
    """Key, among those of the workers, by which a node sees that it has the output of the run."""
    return f"runs/{token}"


class NodeWorker:
    """One worker on a node.

    Parameters
    ----------
    task
        What the worker reads, as JSON.
    state
        Where the workers meet.
    token
        Of the run, whose `marker` has to be there.
    version
        Of the cellscribe that started the run.
    gpus
        Whether Ray gave GPUs to the actor.
    """

    def __init__(self, task: str, state: str, token: str, version: str, gpus: bool) -> None:
        self._heard: queue.Queue[str | End] = queue.Queue()
        self._worker: WorkerProcess | None = None
        refusal = _refusal(state, token, version)
        if refusal:
            self._heard.put(End("refused", f"{socket.gethostname()}: {refusal}"))
            return
        environment = dict(os.environ)
        if not gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ""
        self._worker = WorkerProcess(json.loads(task), environment, self._heard.put)

    def hear(self, seconds: float) -> list[str | dict[str, str]]:
        """Wait for what the worker tells, so many seconds at most; its end is a dict of `End`."""
        heard: list[str | dict[str, str]] = []
        try:
            first = self._heard.get(timeout=seconds) if seconds else self._heard.get_nowait()
            heard.append(_sendable(first))
            while True:
                heard.append(_sendable(self._heard.get_nowait()))
        except queue.Empty:
            return heard

    def stop(self) -> None:
        """Ask the worker to let go of its shard and end, which `hear` tells."""
        if self._worker is not None:
            self._worker.stop()


def _sendable(heard: str | End) -> str | dict[str, str]:
    return heard if isinstance(heard, str) else {"kind": heard.kind, "how": heard.how}


def _refusal(state: str, token: str, version: str) -> str:
    here = metadata.version("cellscribe")
    if here != version:
        return f"has cellscribe {here}, the run {version}; install one of them"
    # not `open_store`, which would make the folder
    store: Store = open_store(state) if "://" in state else Folder(Path(state))
    if store.read(marker(token)) is None:
        place = "the bucket" if "://" in state else "a folder that all nodes share, or a bucket"
        return f"does not see {os.path.dirname(state)} of the run; name {place}"
    return ""
