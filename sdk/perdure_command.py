"""The entry point of the `perdure` command, beside the package: importing the package takes half a second, and Ctrl-C
in that time ends the command without a traceback."""

import sys


def main() -> None:
    """Run the command line, see `perdure.cli`."""
    try:
        from perdure.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)
