"""A process that runs cases: ``python -m hostile.worker FARM SCRATCH``.

Cases come in by a pipe, a line each.
The parent process imports everything and forks a child, which works until a case ends it; then the
parent says so and forks the next. So a case costs milliseconds, and a crash costs a fork.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import sys
import traceback
from pathlib import Path

HEADROOM = 2 << 30
"""Address space that a case may take, above what is taken when it begins."""
TOO_MUCH = 1 << 30
"""Memory that no case may hold, above what the imports took: the inputs are of kilobytes."""
LARGEST_FILE = 256 << 20
MOST_CASES = 150
"""After so many a child makes way for a fresh one: libraries keep threads and maps."""
DONE, TIRED = 0, 75


def main(clean: Path, scratch: Path) -> None:
    """Fork children until there is nothing more to do."""
    warm_up(clean)
    while True:
        child = os.fork()
        if child == 0:
            try:
                os._exit(DONE if serve(clean, scratch) else TIRED)
            except BaseException:  # a fault of these tests: it must be seen
                traceback.print_exc()
                raise
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) in (DONE, TIRED):
            if os.WEXITSTATUS(status) == DONE:
                return
            continue
        code = os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)
        _say({"died": code})


def warm_up(clean: Path) -> None:
    """Import what cases need, with threads that a fork can do without."""
    import torch
    from hostile import farm

    import cellscribe.api.corpus
    import cellscribe.cells.pipeline
    import cellscribe.inference.outputs

    torch.set_num_threads(1)
    farm.build(clean)
    (clean / "clean").mkdir(exist_ok=True)
    for module in (cellscribe.cells.pipeline, cellscribe.inference.outputs):
        if hasattr(module, "BLOCK"):
            module.BLOCK = farm.BLOCK  # type: ignore[attr-defined]
    from hostile import judge

    for target in ("counts", "embed", "tokenize"):
        case = judge.Case("h5ad", target, "bytes", 0)
        judge.clean_result(case, clean)


def serve(clean: Path, scratch: Path) -> bool:
    """Run the cases that come in, one after the other; False when another child should go on."""
    from hostile import judge, kills

    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    scratch.mkdir(parents=True, exist_ok=True)
    os.chdir(scratch)
    _say({"ready": os.getpid()})
    for _ in range(MOST_CASES):
        line = _line()
        if not line:
            return True
        case = judge.Case(**json.loads(line))
        folder = scratch / f"{case.kind}-{os.getpid()}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        held = _reset_peak()
        _limit(_status("VmSize") + HEADROOM)
        killed = case.how == kills.KILL
        verdict = (kills if killed else judge).run(case, clean, folder)
        _limit(resource.RLIM_INFINITY)
        peak = _status("VmHWM")
        shutil.rmtree(folder, ignore_errors=True)
        if not verdict.fault and peak - held > TOO_MUCH:
            verdict = judge.Verdict("memory", verdict.told, f"{(peak - held) >> 20} MiB held")
        _say({"outcome": verdict.outcome, "told": verdict.told, "detail": verdict.detail})
        if killed:  # the next is to fork from a process in which nothing ran
            return False
    return False


def _limit(size: int) -> None:
    """Bound the address space."""
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))


def _reset_peak() -> int:
    """Begin the count of the highest memory anew; returns what is held now."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(key: str) -> int:
    """A figure of /proc/self/status, in bytes; 0 where there is no such file."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(key)), 0)


def _line() -> bytes:
    """The next line of standard input, unbuffered: what was read must not die with a child."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            return b""
        line += byte
    return line


def _say(value: object) -> None:
    os.write(PIPE, json.dumps(value).encode() + b"\n")


PIPE = 1

if __name__ == "__main__":
    # Whatever a library prints goes to standard error; the pipe is ours alone.
    PIPE = os.dup(1)
    os.dup2(2, 1)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
