#!/usr/bin/env python3
"""Fast Sprites from one command: `python3 dev.py demo`, `python3 dev.py test`, `python3 dev.py serve`."""

import os
import sys

# This file alone keeps to syntax that old Pythons parse, so that they reach the sentence below.
if sys.version_info < (3, 10):  # noqa: UP036
    sys.exit(
        "dev.py needs Python 3.10 or newer, this is "
        + sys.version.split()[0]
        + " ("
        + sys.executable
        + "): run it with a newer one."
    )

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".ci"))

from dev_tools.command_line import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
