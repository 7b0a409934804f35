"""The command line. Each group of commands has a file; a command imports what it needs when it runs.

Exit codes: 0 success, 1 the run failed or was canceled or its value cannot be read here, 2 wrong usage or settings, 3
not found, 4 the service does not answer in time, 5 the service refused, 130 interrupted by Ctrl-C.
"""

from __future__ import annotations

import sys

from perdure.cli.exits import INTERRUPTED


def main() -> None:
    """The entry point of `perdure`."""
    try:
        import click  # noqa: F401
        import rich  # noqa: F401
    except ImportError:
        print("perdure: the command line needs click and rich: pip install 'perdure[cli]'", file=sys.stderr)
        sys.exit(2)
    try:
        from perdure.cli.root import run

        sys.exit(run())
    except KeyboardInterrupt:  # while modules are imported
        sys.exit(INTERRUPTED)
