"""`python -m cm`."""

import sys

from cm.cli import main

if __name__ == "__main__":
    sys.exit(main())
