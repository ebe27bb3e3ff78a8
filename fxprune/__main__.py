"""`python -m fxprune`: the command line, where the environment's scripts are not on the path."""

import sys

from fxprune.cli import main

if __name__ == "__main__":
    sys.exit(main())
