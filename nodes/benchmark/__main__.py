"""`python -m nodes.benchmark` from a clone does what `fast-sprites` does once the pack is installed.

`python nodes/benchmark` does so too for a Python that looks for no modules in the current folder, as portable ComfyUI's.
"""

import runpy
import sys
from pathlib import Path

if __package__:
    from .cli import main

    sys.exit(main())
sys.path[0] = str(Path(__file__).resolve().parents[2])
runpy.run_module("nodes.benchmark", run_name="__main__")
