"""The Triton kernels' arithmetic, without a GPU."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_kernels_agree_with_the_reference_in_triton_interpreter():
    script = Path(__file__).with_name("kernels_in_interpreter.py")
    # Triton decides at import whether it interprets, so other tests of this process must not see it.
    run = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.stdout.endswith("kernels agree\n"), run.stderr[-3000:]
