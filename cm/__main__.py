"""`python -m cm`, and the program `cm`."""

import gc
import sys

# With Python's 700, the garbage collections while torch is imported take a tenth of the time of that.
NEW_OBJECTS_UNTIL_COLLECTION = 10_000


def run() -> int:
    """Run a command and return the exit status; Ctrl-C ends it in one line, also while its modules are imported."""
    gc.set_threshold(NEW_OBJECTS_UNTIL_COLLECTION)
    try:
        from cm.cli import main

        return main()
    except KeyboardInterrupt:
        print("cm: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(run())
