"""`python -m fxprune.cli`, for where the `fxprune` script is not on the path."""

import sys

from fxprune.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
