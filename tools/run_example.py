"""`make run`: start a service with a local Ray, run the example against it, stop everything."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

EXAMPLE = Path(__file__).parent.parent / "examples" / "trip.py"
READY = " serves on "
STOP_S = 60


def environment_of() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}


def main() -> int:
    environment = environment_of() | {"PYTHONUNBUFFERED": "1"}
    with tempfile.TemporaryDirectory(prefix="perdure-") as folder:
        command = [sys.executable, "-m", "perdure.cli", "serve", "--listen", "127.0.0.1:0", "--storage"]
        command += [folder, "--log-level", "warning"]
        print("starting the service and a local Ray ...", flush=True)
        service = subprocess.Popen(
            [*command], env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            assert service.stdout is not None
            for line in service.stdout:
                print(line, end="", flush=True)
                if READY in line:
                    address = line.partition(READY)[2].split(",")[0]
                    environment["PERDURE_ADDRESS"] = address
                    return subprocess.run([sys.executable, str(EXAMPLE)], env=environment, timeout=180).returncode
            print("the service did not start")
            return 1
        finally:
            print("stopping ...", flush=True)
            service.send_signal(signal.SIGTERM)
            try:
                service.wait(STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(service.pid, signal.SIGKILL)
                service.wait()


if __name__ == "__main__":
    sys.exit(main())
