import io
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fast_sprites.nodes.engine.sprites.png import _in_strips, deflate, encode_png, filtered
from PIL import Image


def picture(kind: str, channels: int, shape=(33, 47)) -> np.ndarray:
    draw = np.random.default_rng(3)
    if kind == "noise":
        return draw.integers(0, 256, (*shape, channels), dtype=np.uint8)
    if kind == "flat":
        return np.full((*shape, channels), 200, dtype=np.uint8)
    ramp = np.add.outer(np.arange(shape[0]) * 5, np.arange(shape[1]) * 3) % 256
    return np.repeat(ramp[..., None], channels, axis=2).astype(np.uint8)


def encode(pixels: np.ndarray, texts: dict[str, str] | None = None) -> bytes:
    return encode_png(filtered(pixels), pixels.shape[2], texts or {})


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kind", ["noise", "flat", "ramp"])
@pytest.mark.parametrize("shape", [(33, 47), (1, 1), (3, 7), (1, 9), (9, 1)])
def test_pillow_reads_the_same_pixels(kind, channels, shape):
    pixels = picture(kind, channels, shape)
    decoded = Image.open(io.BytesIO(encode(pixels)))
    assert decoded.mode == {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    assert np.array_equal(np.asarray(decoded).reshape(pixels.shape), pixels)


def test_texts_come_back():
    decoded = Image.open(io.BytesIO(encode(picture("flat", 3), {"prompt": '{"a": 1}', "workflow": "{}"})))
    assert decoded.info == {"prompt": '{"a": 1}', "workflow": "{}"}


def test_rows_are_filtered():
    """A ramp is nearly free for a filter and expensive without one."""
    pixels = np.repeat((np.add.outer(np.arange(256), np.arange(256)) % 256).astype(np.uint8)[..., None], 3, axis=2)
    assert len(encode(pixels)) < 3000


def test_deflate_has_a_name():
    name, compress = deflate()
    assert name in {"zlib", "zlib-ng", "isa-l"}
    assert len(compress(np.full((10, 1000), 97, dtype=np.uint8), map)) < 200


@pytest.mark.parametrize("kind", ["noise", "flat", "ramp"])
@pytest.mark.parametrize(
    ("shape", "num_strips"), [((400, 341, 3), 1), ((401, 341, 3), 2), ((700, 811, 4), 6), ((1, 300000, 4), 3)], ids=str
)
def test_strips_are_one_stream_whichever_threads_made_them(kind, shape, num_strips):
    pixels = picture(kind, shape[2], shape[:2])
    rows, begun = filtered(pixels), []

    def in_threads(function: Callable[[int], bytes], values: Sequence[int]) -> Iterable[bytes]:
        begun.extend(values)
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(function, values))

    stream = _in_strips(zlib, 4, rows, in_threads)
    assert len(begun) == num_strips
    assert stream == _in_strips(zlib, 4, rows, map)
    assert zlib.decompress(stream) == rows.tobytes()
    assert len(stream) < 1.005 * len(zlib.compress(rows, 4)) + 200 * num_strips
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode(pixels)))).reshape(shape), pixels)


def test_a_strip_knows_what_stands_before_it():
    rows = np.tile(np.random.default_rng(3).integers(0, 256, 30_000, dtype=np.uint8), (30, 1))
    assert len(_in_strips(zlib, 4, rows, map)) < len(zlib.compress(rows.data, 4)) + 1000
