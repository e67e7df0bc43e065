"""`python -m minillm`, the same as the `minillm` command."""

import sys

from minillm.cli import main

if __name__ == "__main__":
    sys.exit(main())
