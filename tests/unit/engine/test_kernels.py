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


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_kernels_compile_for_cards_that_are_not_here_and_for_new_shapes_not_again(tmp_path: Path):
    """The oldest card that has them and GB10; FAST_SPRITES_EVERY_CARD=1 adds those between."""
    cards = ["80", "121"] + ["86", "89", "90", "120"] * bool(os.environ.get("FAST_SPRITES_EVERY_CARD"))
    run = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("kernels_for_cards.py")), *cards],
        env={**os.environ, "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    lines = [line.split() for line in run.stdout.splitlines()]
    assert [card for card, *_ in lines] == [*cards, "shapes"], run.stderr[-3000:]
    *_, (_, for_one_shape, for_others) = lines
    assert int(for_one_shape) >= 10
    assert for_others == "0", "kernels were compiled again for another batch or size"
    for card, *kernels in lines[:-1]:
        assert len(kernels) == (9 if int(card) >= 89 else 7), kernels
