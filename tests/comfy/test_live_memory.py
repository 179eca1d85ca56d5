"""How much of the UNet's and the decoder's tensors is alive at once at SDXL's real size, counted without data on torch's meta device."""

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from .optimized import package

pytest.importorskip("triton", reason="Triton is not installed")

MIB = 1024**2


class _Kernel:
    """Stands in for a Triton kernel."""

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *args, **kwargs: None


@pytest.fixture
def meta_ops(pack_nodes, monkeypatch) -> Any:
    """The fast engine's operations where no kernel runs."""
    ops = package(pack_nodes, "engine.kernels.ops").engine_ops("fast")
    for module in (ops._pictures, ops._tokens):
        for name, value in vars(module).items():
            if type(value).__name__ == "JITFunction":
                monkeypatch.setattr(module, name, _Kernel())
    monkeypatch.setattr(torch.ops.aten.cudnn_convolution, "out", lambda *args, out: out)
    return ops


@pytest.fixture(scope="module")
def sdxl_unet(pack_nodes) -> Any:
    """SDXL's UNet as ComfyUI builds it from a checkpoint's keys, without weights."""
    supported = importlib.import_module("comfy.supported_models").SDXL
    openaimodel = importlib.import_module("comfy.ldm.modules.diffusionmodules.openaimodel")
    operations = importlib.import_module("comfy.ops").disable_weight_init
    return openaimodel.UNetModel(
        image_size=32,
        in_channels=4,
        out_channels=4,
        num_res_blocks=[2, 2, 2],
        channel_mult=[1, 2, 4],
        num_head_channels=64,
        num_classes="sequential",
        use_spatial_transformer=True,
        transformer_depth_output=[0, 0, 0, 2, 2, 2, 10, 10, 10],
        transformer_depth_middle=10,
        legacy=False,
        **supported.unet_config,
        dtype=torch.float16,
        device="meta",
        operations=operations,
    )


def unet_forward(pack_nodes: Any, ops: Any, unet: Any) -> Any:
    adapter, forward = package(pack_nodes, "comfy_adapters.unet"), package(pack_nodes, "engine.unet.forward")
    layout = package(pack_nodes, "engine.unet.layout").UNetLayout(**adapter.describe_unet(unet))
    own = package(pack_nodes, "engine.unet.own_weights").OwnWeights((), layout.convolutions())
    weights = {
        module: (module.weight.detach(), None if module.bias is None else module.bias.detach())
        for module in layout.weighted_modules()
    }
    for group in own.groups:
        own.take(group, *zip(*(weights[module] for module in group), strict=True))
    rest = {module: pair for module, pair in weights.items() if module not in own.modules}
    prepared = package(pack_nodes, "engine.unet.prepared").PreparedWeights(layout, rest, own)
    stock = package(pack_nodes, "engine.model.run_unet_engine").STOCK
    return forward.UNetForward(layout, ops, prepared, stock, lambda q, k, v, heads: torch.empty_like(q))


@torch.inference_mode()
def unet_lifetimes(pack_nodes: Any, ops: Any, unet: Any, samples: int, side: int) -> Any:
    forward = unet_forward(pack_nodes, ops, unet)
    recorder = package(pack_nodes, "engine.kernels.arena").Recorder()

    def meta(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.float16, device="meta")

    context = meta(samples, 77, 2048)
    with ops.allocating_from(recorder):
        cross = forward.cross_buffers(context)
        for block in cross:
            forward.keys_values(block, context)
        forward(meta(samples, 4, side, side), meta(samples), context, meta(samples, 2816), None, {}, cross)
    return recorder.lifetimes()


def grown(slabs: list[int], places: Any) -> list[int]:
    added = max((place.end for place in places if place.slab == len(slabs)), default=0)
    return [*slabs, added] if added else slabs


def test_the_unets_plan_takes_what_is_alive_at_once(pack_nodes, meta_ops, sdxl_unet):
    arena = package(pack_nodes, "engine.kernels.arena")
    lifetimes = {size: unet_lifetimes(pack_nodes, meta_ops, sdxl_unet, *size) for size in ((2, 128), (16, 128), (16, 64))}
    batch = lifetimes[16, 128]
    # 600 of skip connections, 640 and 320 of a GEGLU's input and result, 80 each of its tokens and of the picture to add them to
    assert batch.peak_bytes // MIB == 1720
    alone = grown([], arena.plan_places(batch, []))
    assert sum(alone) <= 1.01 * batch.peak_bytes
    for size in lifetimes:
        assert grown(alone, arena.plan_places(lifetimes[size], alone)) == alone
    slabs: list[int] = []
    for size in lifetimes:
        slabs = grown(slabs, arena.plan_places(lifetimes[size], slabs))
    assert sum(slabs) <= 1.15 * batch.peak_bytes


@contextlib.contextmanager
def on_meta() -> Iterator[None]:
    with torch.device("meta"):
        yield


@torch.inference_mode()
def test_pictures_of_a_decode(pack_nodes, meta_ops, monkeypatch):
    model = importlib.import_module("comfy.ldm.modules.diffusionmodules.model")
    decoder_forward = package(pack_nodes, "engine.vae.decoder").DecoderForward

    class Autoencoder:
        with on_meta():
            decoder = model.Decoder(
                ch=128, out_ch=3, ch_mult=[1, 2, 4, 4], num_res_blocks=2, attn_resolutions=[], in_channels=3, resolution=256,
                z_channels=4,
            )  # fmt: skip
            post_quant_conv = torch.nn.Conv2d(4, 4, 1)

    modules = decoder_forward.weighted_modules(Autoencoder)
    weights = {module: (module.weight.detach(), module.bias.detach()) for module in modules}
    forward = decoder_forward(Autoencoder, meta_ops, weights, torch.bfloat16)
    recorder = package(pack_nodes, "engine.kernels.arena").Recorder()
    monkeypatch.setattr(package(pack_nodes, "engine.vae.decoder"), "lent_tensors", lambda device: recorder)
    forward(torch.empty(1, 4, 128, 128, dtype=torch.bfloat16, device="meta"))
    # 512 of the enlarged picture and 512 of its convolution
    lifetimes = recorder.lifetimes()
    assert lifetimes.peak_bytes // MIB == 1024
    plan = package(pack_nodes, "engine.vae.plan")
    for slabs_mib in ([100], [511], [512], [700], [1024], [1300], [1535], [1720], [4000], [215, 1520], [1320, 430], [300, 1024]):
        slabs = [mib * MIB for mib in slabs_mib]
        spared = plan.lent_bytes(1024 * 1024, 2, 128, max(slabs))
        assert spared <= lifetimes.peak_bytes - bytes_beside(pack_nodes, lifetimes, slabs)
    assert spared == lifetimes.peak_bytes


def bytes_beside(pack_nodes: Any, lifetimes: Any, slabs: list[int]) -> int:
    """The most that does not fit into slabs where tensors come and go as lifetimes tell."""
    free_place = package(pack_nodes, "engine.kernels.arena").free_place
    inside: dict[int, Any] = {}
    beside: dict[int, int] = {}
    most = 0
    for tensor, size in enumerate(lifetimes.sizes):
        for alive in (inside, beside):
            for other in [other for other in alive if lifetimes.ends[other] <= tensor]:
                del alive[other]
        place = free_place(list(inside.values()), slabs, size)
        if place is None:
            beside[tensor] = size
        else:
            inside[tensor] = place
        most = max(most, sum(beside.values()))
    return most
