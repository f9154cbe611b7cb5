"""`python -m cm`, and the program `cm`."""

import sys


def run() -> int:
    """Run a command and return the exit status; Ctrl-C ends it in one line, also while its modules are imported."""
    try:
        from cm.cli import main

        return main()
    except KeyboardInterrupt:
        print("cm: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(run())
