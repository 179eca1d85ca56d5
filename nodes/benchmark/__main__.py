"""`python -m nodes.benchmark` from a clone does what `fast-sprites` does once the pack is installed."""

import sys

from .cli import main

sys.exit(main())
