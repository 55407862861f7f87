"""`python -m greenfleet`: the same as the command `greenfleet`."""

import sys

from greenfleet.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
