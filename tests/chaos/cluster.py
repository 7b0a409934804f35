"""A Ray cluster of two nodes in a process of its own: SIGUSR1 kills its second node and adds another one.

A node is a raylet with its worker processes; the head stays. Ends with its parent, if nobody ends it before.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent.parent))

from rays import start_cluster

os.environ.setdefault("RAY_AUTH_MODE", "disabled")

CPUS: Final = 2
PR_SET_PDEATHSIG: Final = 1


def main() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    wanted, ending = threading.Event(), threading.Event()

    def stop(_number: int, _frame: Any) -> None:
        ending.set()
        wanted.set()

    signal.signal(signal.SIGUSR1, lambda _number, _frame: wanted.set())
    signal.signal(signal.SIGTERM, stop)
    cluster = start_cluster(num_cpus=CPUS)
    try:
        node = cluster.add_node(num_cpus=CPUS)
        print(f"cluster at {cluster.address}", flush=True)
        while True:
            while not wanted.wait(1.0):  # so that signals are dealt with
                pass
            wanted.clear()
            if ending.is_set():
                return
            cluster.remove_node(node, allow_graceful=False)
            node = cluster.add_node(num_cpus=CPUS)
            print("another node", flush=True)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    sys.exit(main())
