"""Generates sdk/perdure/v1 from the protos, or checks that it is up to date.

python tools/generate_stubs.py BIN SOURCE_ROOT [--check], with grpcio-tools and mypy-protobuf in BIN.
"""

from __future__ import annotations

import filecmp
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PROTOS = Path("protos")


def generate(bin_: Path, out: Path) -> None:
    files = sorted(str(path) for path in PROTOS.glob("perdure/v1/*.proto"))
    services = [file for file in files if file.endswith("_service.proto")]
    environment = {**os.environ, "PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}"}
    protoc = [str(bin_ / "python"), "-m", "grpc_tools.protoc", f"-I{PROTOS}"]
    for flags, sources in (
        ([f"--python_out={out}", f"--pyi_out={out}"], files),
        ([f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet:{out}"], services),
    ):
        subprocess.run([*protoc, *flags, *sources], check=True, env=environment)


def main() -> int:
    bin_, root = Path(sys.argv[1]).absolute(), Path(sys.argv[2])
    if "--check" not in sys.argv:
        generate(bin_, root)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        generate(bin_, Path(folder))
        fresh, committed = Path(folder, "perdure/v1"), root / "perdure/v1"
        names = {path.name for path in fresh.iterdir()}
        there = {path.name for path in committed.iterdir() if path.suffix in (".py", ".pyi")} - {"__init__.py"}
        _, different, missing = filecmp.cmpfiles(fresh, committed, sorted(names | there), shallow=False)
        if different or missing:
            print(f"run 'make proto': {', '.join(different + missing)} is not what the protos generate")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
