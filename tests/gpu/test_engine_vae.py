"""OptimizeVAE against stock on the GPU: error, the same bits in every batch, tiles only where needed, peak memory."""

from typing import Any

import pytest
import torch

from .conftest import NODES, WHY_NOT

if NODES is None:
    pytest.skip(WHY_NOT, allow_module_level=True)

import comfy.model_management
from comfy_api.latest import io
from fast_sprites.nodes.comfy_adapters import vae as vae_adapter
from fast_sprites.nodes.engine.kernels.arena import lent_tensors
from fast_sprites.nodes.engine.vae.plan import DECODE_BYTES_PER_PIXEL, EAGER_DECODE_BYTES_PER_PIXEL, decode_bytes
from fast_sprites.nodes.optimize_vae import OptimizeVAE

from .engine_checks import DEVICE, ON_CPU, sample
from .engine_checks import optimize as optimize_model

GIB = 1024**3


def optimize(vae: Any, **choices: Any) -> Any:
    """Run the OptimizeVAE node; on the CPU ask for the decoder that a GPU gets by itself."""
    defaults = {i.id: getattr(i, "default", None) for i in OptimizeVAE.define_schema().inputs if i.id != "vae"}
    if ON_CPU:
        defaults["channels_last"] = "on"
    node: Any = OptimizeVAE.PREPARE_CLASS_CLONE({"hidden_inputs": {io.Hidden.unique_id: "3"}})
    return node.execute(vae, **{**defaults, **choices}).args[0]


@pytest.fixture(autouse=True)
def decoder_is_ours(caplog: pytest.LogCaptureFixture) -> Any:
    """See that ComfyUI's own decoder, which is right by definition, did not stand in for ours."""
    with caplog.at_level("INFO", "fast_sprites"):
        yield
    assert "own decoder ran" not in caplog.text


def latents(batch: int, height: int = 16, width: int = 16) -> torch.Tensor:
    return torch.randn(batch, 4, height, width, generator=torch.Generator().manual_seed(3)) * 5


def mean_error(pictures: torch.Tensor, expected: torch.Tensor) -> float:
    return (pictures.float() - expected.float()).abs().mean().item()


def check_error(vae: Any, samples: torch.Tensor) -> None:
    """See that ours lies as near to an fp32 decode as ComfyUI's own does, which computes in bf16."""
    truth = optimize(vae, precision="fp32").decode(samples)
    stock, ours = vae.decode(samples), optimize(vae).decode(samples)
    assert ours.shape == stock.shape
    assert (ours.dtype, ours.device) == (stock.dtype, stock.device)
    assert mean_error(ours, truth) <= 1.2 * mean_error(stock, truth) + 1e-5


@pytest.mark.parametrize("size", [(16, 16), (13, 19), (8, 40)], ids=str)
@pytest.mark.parametrize("batch", [1, 3])
def test_error(tiny, size, batch):
    check_error(tiny.vae, latents(batch, *size))


@pytest.mark.parametrize("size", [(16, 16), (64, 64), (104, 152), (128, 128)], ids=str)
def test_the_same_bits_in_every_batch(tiny, size):
    if ON_CPU and size[0] > 16:
        pytest.skip("too slow on a CPU")
    samples, ours = latents(8, *size), optimize(tiny.vae)
    alone = torch.cat([ours.decode(samples[i : i + 1]) for i in range(5)])
    for batch in (2, 5, 8):
        together = ours.decode(samples[:batch])
        assert torch.equal(together[:5], alone[:batch]), f"batch {batch}: {mean_error(together[:5], alone[:batch]):.1e}"


def test_the_stock_vae_keeps_its_bits(tiny):
    before = tiny.vae.decode(latents(2))
    optimize(tiny.vae).decode(latents(2))
    assert torch.equal(tiny.vae.decode(latents(2)), before)


def test_tiles_only_where_one_picture_does_not_fit(tiny, monkeypatch):
    samples, ours, tiled = latents(2, 64, 64), optimize(tiny.vae), []
    decode_tiled = vae_adapter.decode_tiled
    dtype_bytes, per_pixel = (4, EAGER_DECODE_BYTES_PER_PIXEL) if ON_CPU else (2, DECODE_BYTES_PER_PIXEL)
    picture = decode_bytes(512 * 512, dtype_bytes, 32, per_pixel)

    def counted(*args: Any) -> torch.Tensor:
        tiled.append(args[4])
        return decode_tiled(*args)

    monkeypatch.setattr(vae_adapter, "decode_tiled", counted)
    whole = ours.decode(samples)
    monkeypatch.setattr(vae_adapter, "make_room_beside", lambda vae, needed: picture)
    assert mean_error(ours.decode(samples), whole) < 2e-3
    assert tiled == []
    monkeypatch.setattr(vae_adapter, "make_room_beside", lambda vae, needed: picture // 2)
    assert mean_error(ours.decode(samples), whole) < 2e-2
    assert tiled == [40]


def test_memory_running_out_once_is_survived(tiny, monkeypatch):
    from fast_sprites.nodes.engine.vae.decoder import DecoderForward

    samples, ours = latents(4, 64, 64), optimize(tiny.vae, pictures_per_pass=4)
    expected, passes = ours.decode(samples), []
    decode = DecoderForward.__call__

    def failing(self: Any, batch: torch.Tensor) -> torch.Tensor:
        passes.append(batch.shape[0])
        if len(passes) == 1:
            raise torch.OutOfMemoryError("planted")
        return decode(self, batch)

    monkeypatch.setattr(DecoderForward, "__call__", failing)
    got = ours.decode(samples)
    assert passes == [4, 2, 2]
    assert mean_error(got, expected) < 2e-3


def test_cancel_between_pictures(tiny):
    ours = optimize(tiny.vae, pictures_per_pass=1)
    comfy.model_management.interrupt_current_processing(True)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        ours.decode(latents(2))
    assert ours.decode(latents(2)).shape == (2, 128, 128, 3)


def peak_bytes(decode: Any, samples: torch.Tensor) -> int:
    """Return the memory that a decode takes over what was taken before it."""
    decode(samples)
    torch.cuda.synchronize()
    comfy.model_management.soft_empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    decode(samples)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


@pytest.mark.skipif(ON_CPU, reason="needs graphs and kernels of a GPU")
def test_a_decode_in_the_engines_memory_has_the_same_bits_and_changes_no_sprite(tiny, conds):
    samples, decoder = latents(1), optimize(tiny.vae)
    pictures = decoder.decode(samples)
    engine = optimize_model(tiny.model)[0]
    sprites = sample(engine, conds, batch=4)
    lent = lent_tensors(DEVICE)
    assert lent is not None
    assert lent.largest_bytes > 0
    del lent
    for _ in range(3):
        assert torch.equal(decoder.decode(samples), pictures)
        assert torch.equal(sample(engine, conds, batch=4), sprites)


@pytest.mark.skipif(ON_CPU, reason="needs torch's figures of a GPU")
def test_peak_of_a_batch_is_that_of_one_picture(tiny):
    ours = optimize(tiny.vae)
    one, eight = (peak_bytes(ours.decode, latents(n, 128, 128)) for n in (1, 8))
    assert eight <= 1.3 * one


@pytest.mark.skipif(ON_CPU, reason="needs torch's figures of a GPU")
def test_full_size_error_bits_and_peak(full):
    samples, ours = latents(8, 128, 128) / 5, optimize(full.vae)
    check_error(full.vae, samples[:1])
    alone = ours.decode(samples[2:3])
    assert torch.equal(ours.decode(samples)[2:3], alone)
    planned = decode_bytes(1024 * 1024, 2, 128)
    for batch in (1, 8):
        peak = peak_bytes(ours.decode, samples[:batch])
        print(f"VAE peak, batch {batch}: {peak / GIB:.2f} GiB, planned {planned / GIB:.2f}")
        assert peak <= planned + 0.05 * GIB
