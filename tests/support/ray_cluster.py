"""A Ray cluster of some nodes on this machine, in a process of its own: pytest sees nothing of Ray.

``python -m support.ray_cluster``: prints the head's address, then obeys a word a line (`kill` a
node without notice, `add` one, `free` tells the free CPUs) until its input ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
from types import TracebackType

SMALL = {"num_cpus": 1, "object_store_memory": 80 << 20}


class RayCluster:
    """A head and other nodes, of one (logical) CPU each."""

    def __init__(self, nodes: int, client_port: int = 0) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.ray_cluster", str(nodes), str(client_port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.address = self._answer()

    def __enter__(self) -> RayCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType
    ) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()

    def ask(self, word: str) -> str:
        """Have a word obeyed; returns the answer when that is done."""
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def main(nodes: int, client_port: int) -> None:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    import ray
    from ray.cluster_utils import Cluster

    head = {**SMALL, "include_dashboard": False}
    if client_port:
        head["ray_client_server_port"] = client_port
    cluster = Cluster(initialize_head=True, head_node_args=head)
    others = [cluster.add_node(wait=False, **SMALL) for _ in range(nodes - 1)]
    cluster.wait_for_nodes()
    print(cluster.address, file=answers, flush=True)
    for word in sys.stdin:
        answer = "done"
        if word == "kill\n":
            cluster.remove_node(others.pop(), allow_graceful=False)
        elif word == "add\n":
            others.append(cluster.add_node(**SMALL))
            cluster.wait_for_nodes()  # a node that was killed counts until the head misses it
        else:
            ray.init(address=cluster.address, log_to_driver=False)
            answer = f"{ray.available_resources().get('CPU', 0):g}"
            ray.shutdown()
        print(answer, file=answers, flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
