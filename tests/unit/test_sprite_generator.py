"""The procedural sprites that the tiny SDXL learns from: reproducible, few colours, hard pixels, captions that say what is shown."""

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

TINY_SDXL = Path(__file__).resolve().parent.parent / "tiny_sdxl"


@pytest.fixture(scope="module")
def sprites():
    sys.path.append(str(TINY_SDXL))
    try:
        yield importlib.import_module("sprites")
    finally:
        sys.path.remove(str(TINY_SDXL))


@pytest.fixture(scope="module")
def every_pair(sprites):
    pairs = [(subject, colour) for subject in sprites.SUBJECTS for colour in sprites.COLOUR_NAMES]
    return pairs, sprites.make_dataset(len(pairs), seed=3, pairs=pairs)


def test_has_enough_to_draw(sprites):
    assert len(sprites.SUBJECTS) >= 16
    assert len(sprites.COLOUR_NAMES) >= 8


def test_every_sprite_has_4_to_16_colours_and_a_subject(sprites, every_pair):
    _, data = every_pair
    assert data.pixels.shape[1:] == (32, 32, 3)
    assert data.pixels.dtype == np.uint8
    for pixels in data.pixels:
        colours, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
        assert 4 <= len(colours) <= 16
        background = counts.max() if (colours[counts.argmax()] == pixels[0, 0]).all() else 0
        assert background < 0.9 * 1024


def test_a_seed_names_a_sprite_whatever_the_number_of_processes(sprites):
    once, again, other = (sprites.make_dataset(12, seed, workers) for seed, workers in ((5, 1), (5, 2), (6, 1)))
    assert (once.pixels == again.pixels).all()
    assert (once.subjects == again.subjects).all()
    assert not (once.pixels == other.pixels).all()


def test_the_same_kind_is_drawn_in_many_ways(sprites):
    data = sprites.make_dataset(40, seed=1, pairs=[("slime", "red")])
    assert len({pixels.tobytes() for pixels in data.pixels}) == 40


def test_main_colour_is_on_the_sprite(sprites):
    def hue_of(pixels):
        spread = pixels.max(1).astype(int) - pixels.min(1)
        bright = pixels[spread > 90].astype(float)
        return bright.mean(0)

    red, green, blue = (
        hue_of(sprites.make_dataset(10, seed=2, pairs=[("heart", colour)]).pixels.reshape(-1, 3))
        for colour in ("red", "green", "blue")
    )
    assert red.argmax() == 0
    assert green.argmax() == 1
    assert blue.argmax() == 2


def test_held_out_pairs_are_never_trained_on(sprites):
    assert not sprites.HELD_OUT & set(sprites.TRAINED)
    assert len(sprites.HELD_OUT) + len(sprites.TRAINED) == len(sprites.SUBJECTS) * len(sprites.COLOUR_NAMES)
    data = sprites.make_dataset(2 * len(sprites.TRAINED), seed=0)
    drawn = {(sprites.SUBJECTS[s], sprites.COLOUR_NAMES[c]) for s, c in zip(data.subjects, data.colours, strict=True)}
    assert drawn == set(sprites.TRAINED)
    for part, names in ((0, sprites.SUBJECTS), (1, sprites.COLOUR_NAMES)):
        assert {pair[part] for pair in sprites.TRAINED} == set(names)  # each is seen, only not together


def test_captions_name_subject_and_colour(sprites):
    prompts = importlib.import_module("prompts")
    rng = np.random.default_rng(0)
    for subject in sprites.SUBJECTS:
        for colour in sprites.COLOUR_NAMES:
            text = prompts.caption(subject, colour, "white", rng)
            assert any(word in text for word in prompts.SUBJECT_WORDS[subject]), text
            assert any(word in text for word in prompts.COLOUR_WORDS[colour]), text
    assert len({prompts.caption("slime", "red", "dark", rng) for _ in range(200)}) > 150


def test_upscaled_pixels_are_hard(sprites):
    native = sprites.make_dataset(2, seed=0).pixels
    large = sprites.upscale(native)
    assert large.shape == (2, 256, 256, 3)
    assert (large[:, ::8, ::8] == native).all()
    assert (large[:, 7::8, 7::8] == native).all()


def test_parts_are_joined_only_if_they_are_the_right_ones(tmp_path):
    sys.path.append(str(TINY_SDXL))
    try:
        join = importlib.import_module("join")
    finally:
        sys.path.remove(str(TINY_SDXL))
    data = bytes(range(256)) * 130_000
    manifest = join.write_parts(data, tmp_path / "parts")
    assert len(manifest["parts"]) == 3
    assert all((tmp_path / "parts" / part).stat().st_size < 16_000_000 for part in manifest["parts"])
    assert join.join_parts(tmp_path / "parts", tmp_path / "whole").read_bytes() == data
    (tmp_path / "parts" / manifest["parts"][1]).write_bytes(b"torn")
    with pytest.raises(ValueError, match="SHA-256"):
        join.join_parts(tmp_path / "parts", tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["whole"]


def test_portable_comfyuis_python_makes_the_checkpoint():
    """It is isolated, as by -I, and looks for no modules beside a script."""
    script = [sys.executable, "-I", str(TINY_SDXL / "make_checkpoint.py"), "--help"]
    done = subprocess.run(script, capture_output=True, encoding="utf-8", timeout=120, check=False)
    assert done.returncode == 0, done.stderr
