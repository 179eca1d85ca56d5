"""OptimizeVAE against the stock VAE: the same pictures, whatever the batch and the memory."""

import copy
import gc
import weakref
from typing import Any

import pytest
import torch

from .optimized import package

# fp32 on the CPU; pictures are in 0..1.
TOLERANCE = 1e-4


@pytest.fixture(autouse=True)
def inference_mode():
    with torch.inference_mode():  # as ComfyUI runs its nodes
        yield


def optimize(pack_nodes: dict[str, Any], vae: Any, **choices: Any) -> tuple[Any, str]:
    """Run the OptimizeVAE node as ComfyUI calls it."""
    node = pack_nodes["OptimizeVAE"].PREPARE_CLASS_CLONE({"hidden_inputs": {}})
    return node.execute(vae, **{"precision": "auto", "channels_last": "auto", "pictures_per_pass": 0, **choices}).args


def latents(batch: int = 3, height: int = 10, width: int = 8) -> torch.Tensor:
    return torch.randn(batch, 4, height, width, generator=torch.Generator().manual_seed(3)) * 5


@pytest.mark.parametrize("channels_last", ["auto", "on"])
@pytest.mark.parametrize("pictures_per_pass", [0, 1, 2])
def test_pictures_equal_stock(pack_nodes, tiny_sdxl, channels_last, pictures_per_pass):
    optimized, _ = optimize(pack_nodes, tiny_sdxl.vae, channels_last=channels_last, pictures_per_pass=pictures_per_pass)
    expected = tiny_sdxl.vae.decode(latents())
    got = optimized.decode(latents())
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    assert (got - expected).abs().max() < TOLERANCE


def test_other_precision_reads_a_copy_of_the_weights(pack_nodes, tiny_sdxl):
    before = {name: value.clone() for name, value in tiny_sdxl.vae.first_stage_model.state_dict().items()}
    optimized, report = optimize(pack_nodes, tiny_sdxl.vae, precision="bf16")
    assert "applied: precision: bf16" in report
    assert (optimized.decode(latents()) - tiny_sdxl.vae.decode(latents())).abs().mean() < 0.05
    assert all(torch.equal(before[name], value) for name, value in tiny_sdxl.vae.first_stage_model.state_dict().items())


def test_original_vae_keeps_its_own_decode(pack_nodes, tiny_sdxl):
    expected = tiny_sdxl.vae.decode(latents())
    optimized, _ = optimize(pack_nodes, tiny_sdxl.vae, channels_last="on")
    optimized.decode(latents())
    assert "decode" not in vars(tiny_sdxl.vae)
    assert torch.equal(tiny_sdxl.vae.decode(latents()), expected)


def test_encoding_still_works_on_the_copy(pack_nodes, tiny_sdxl):
    optimized, _ = optimize(pack_nodes, tiny_sdxl.vae, channels_last="on")
    pixels = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    expected = tiny_sdxl.vae.encode(pixels)
    torch.manual_seed(0)
    assert torch.equal(optimized.encode(pixels), expected)


@pytest.mark.parametrize("fail_first", [1, 2])
def test_out_of_memory_shrinks_the_pass_then_tiles(pack_nodes, tiny_sdxl, monkeypatch, fail_first):
    optimized, _ = optimize(pack_nodes, tiny_sdxl.vae, pictures_per_pass=2)
    decode = tiny_sdxl.vae.first_stage_model.decode
    tall = latents(batch=2, height=48, width=8)
    expected = tiny_sdxl.vae.decode(tall)
    batches: list[tuple[int, ...]] = []

    def failing(z, **kwargs):
        batches.append(tuple(z.shape))
        if len(batches) <= fail_first:
            raise torch.OutOfMemoryError("injected")
        return decode(z, **kwargs)

    monkeypatch.setattr(tiny_sdxl.vae.first_stage_model, "decode", failing)
    got = optimized.decode(tall)
    assert batches[0][0] == 2
    assert all(batch[0] == 1 for batch in batches[1:])
    if fail_first == 1:
        assert len(batches) == 3
        assert (got - expected).abs().max() < TOLERANCE
    else:  # tiled: seams are blended, so only the look is the same
        assert batches[-1][2] <= 32
        assert got.shape == expected.shape


@pytest.mark.parametrize("is_measured", [True, False])
def test_tiles_before_running_out_only_where_the_need_was_measured(pack_nodes, tiny_sdxl, monkeypatch, is_measured):
    adapter, run = package(pack_nodes, "comfy_adapters.vae"), package(pack_nodes, "engine.vae.run_decode")
    plan = package(pack_nodes, "engine.vae.plan").VaePlan(precision="fp32", bytes_per_pixel=950 if is_measured else None)
    kept, tiled = run.KeptDecoder(), []
    monkeypatch.setattr(adapter, "make_room", lambda vae, needed_bytes: 1)
    monkeypatch.setattr(adapter, "decode_tiled", lambda *args: tiled.append(args) or iter([torch.zeros(3)]))
    adapter.with_decode(tiny_sdxl.vae, run.SpriteDecoder(plan, kept, lambda _: None), kept.release).decode(latents())
    assert bool(tiled) == is_measured


def test_endless_out_of_memory_ends_in_one_sentence(pack_nodes, tiny_sdxl, monkeypatch):
    optimized, _ = optimize(pack_nodes, tiny_sdxl.vae)

    def failing(z, **kwargs):
        raise torch.OutOfMemoryError("injected")

    monkeypatch.setattr(tiny_sdxl.vae.first_stage_model, "decode", failing)
    with pytest.raises(Exception, match="does not fit into memory even in tiles of 256 pixels"):
        optimized.decode(latents())


def test_a_kernel_that_cannot_be_compiled_leaves_the_decode_to_comfyui(pack_nodes, tiny_sdxl, monkeypatch):
    class AssemblerError(Exception):
        pass

    def failing(*args, **kwargs):
        raise AssemblerError("ptxas failed\nsm_121a is not defined")

    ops = package(pack_nodes, "engine.kernels.ops")
    monkeypatch.setattr(ops.TorchOps, "compile_errors", (AssemblerError,))
    monkeypatch.setattr(ops.TorchOps, "group_norm", failing)
    shown: list[str] = []
    monkeypatch.setattr(package(pack_nodes, "engine.vae.apply_vae_plan"), "send_text", lambda text, **_: shown.append(text))
    optimized, _ = optimize(pack_nodes, tiny_sdxl.vae, channels_last="on")
    assert torch.equal(optimized.decode(latents()), tiny_sdxl.vae.decode(latents()))
    why = "Triton cannot compile a kernel for this device (AssemblerError: ptxas failed)"
    assert shown == [f"ComfyUI's own decoder ran: {why}"]


class Kept:
    """The decoder weights that the next OptimizeVAE keeps, and how often ComfyUI was asked to load a VAE."""

    def __init__(self, pack_nodes: dict[str, Any], vae: Any, monkeypatch: pytest.MonkeyPatch):
        import comfy.model_management as management

        self.loads = 0
        load = management.load_models_gpu

        def counted(*args: Any, **kwargs: Any) -> None:
            self.loads += 1
            load(*args, **kwargs)

        made: list[Any] = []
        kept_decoder = package(pack_nodes, "engine.vae.run_decode").KeptDecoder
        apply = package(pack_nodes, "engine.vae.apply_vae_plan")
        monkeypatch.setattr(management, "load_models_gpu", counted)
        monkeypatch.setattr(apply, "KeptDecoder", lambda: made.append(kept_decoder()) or made[-1])
        self.vae, self.report = optimize(pack_nodes, vae, channels_last="on")
        self._kept = weakref.ref(made.pop())

    @property
    def forward(self) -> Any:
        kept = self._kept()
        return None if kept is None or kept.decoder is None else kept.decoder[0]


@pytest.fixture
def kept(pack_nodes, tiny_sdxl, monkeypatch):
    return Kept(pack_nodes, tiny_sdxl.vae, monkeypatch)


def test_the_vae_is_loaded_for_the_first_decode_alone(tiny_sdxl, kept):
    assert "applied: weights between decodes" in kept.report
    expected = tiny_sdxl.vae.decode(latents())
    before = kept.loads
    for _ in range(3):
        assert (kept.vae.decode(latents()) - expected).abs().max() < TOLERANCE
    assert kept.loads == before + 1


def test_unloading_the_vae_frees_the_weights(kept):
    import comfy.model_management as management

    expected = kept.vae.decode(latents())
    forward = weakref.ref(kept.forward)
    management.unload_all_models()
    assert forward() is None
    assert torch.equal(kept.vae.decode(latents()), expected)


def test_a_stock_decode_in_between_changes_nothing(tiny_sdxl, kept):
    expected, stock = kept.vae.decode(latents()), tiny_sdxl.vae.decode(latents())
    for _ in range(2):
        assert torch.equal(kept.vae.decode(latents()), expected)
        assert torch.equal(tiny_sdxl.vae.decode(latents()), stock)


def test_the_weights_go_with_the_vae(kept):
    kept.vae.decode(latents())
    forward = weakref.ref(kept.forward)
    gc.disable()
    try:
        kept.vae = None
        assert forward() is None
    finally:
        gc.enable()


def test_replaced_weights_are_read_anew(tiny_sdxl, kept):
    convolution = tiny_sdxl.vae.first_stage_model.decoder.conv_in
    plain, weight = kept.vae.decode(latents()), convolution.weight
    try:
        convolution.weight = torch.nn.Parameter(weight * 1.5, requires_grad=False)
        replaced = kept.vae.decode(latents())
        assert (replaced - plain).abs().max() > 100 * TOLERANCE
        assert (tiny_sdxl.vae.decode(latents()) - replaced).abs().max() < TOLERANCE
    finally:
        convolution.weight = weight


def test_a_patch_of_the_weights_is_read_anew(kept):
    plain, key = kept.vae.decode(latents()), "decoder.conv_in.weight"
    kept.vae.patcher.add_patches({key: ("diff", (kept.vae.first_stage_model.decoder.conv_in.weight * 0.5,))}, 1.0)
    try:
        patched = kept.vae.decode(latents())
        assert (patched - plain).abs().max() > 100 * TOLERANCE
        assert torch.equal(kept.vae.decode(latents()), patched)
    finally:
        kept.vae.patcher.detach()


def test_a_copy_on_another_model_decodes_with_its_own_weights(tiny_sdxl, kept):
    """As Select VAE Device makes them."""
    kept.vae.decode(latents())
    moved = copy.copy(kept.vae)
    moved.patcher = kept.vae.patcher.clone()
    moved.first_stage_model = moved.patcher.model = copy.deepcopy(tiny_sdxl.vae.first_stage_model)
    moved.first_stage_model.decoder.conv_out.bias += 0.5
    stock = copy.copy(tiny_sdxl.vae)
    stock.patcher, stock.first_stage_model = moved.patcher, moved.first_stage_model
    got = moved.decode(latents())
    assert (got - kept.vae.decode(latents())).abs().max() > 100 * TOLERANCE
    assert (got - stock.decode(latents())).abs().max() < TOLERANCE


def test_applying_twice_is_applying_once(pack_nodes, tiny_sdxl, kept, monkeypatch):
    again, _ = optimize(pack_nodes, kept.vae, channels_last="on")
    expected = tiny_sdxl.vae.decode(latents())
    assert (again.decode(latents()) - expected).abs().max() < TOLERANCE
    assert kept.forward is None, "the first node's decoder ran"
    convolution = tiny_sdxl.vae.first_stage_model.decoder.conv_in
    monkeypatch.setattr(convolution, "forward", lambda x: torch.nn.Conv2d.forward(convolution, x))
    assert torch.equal(again.decode(latents()), tiny_sdxl.vae.decode(latents())), "not ComfyUI's own"


def test_a_whole_copy_can_be_made(tiny_sdxl, kept):
    expected = kept.vae.decode(latents())
    assert torch.equal(copy.deepcopy(kept.vae).decode(latents()), expected)


def test_gradients_of_another_node_flow_through_comfyuis_decoder(tiny_sdxl, kept):
    kept.vae.decode(latents())
    with torch.inference_mode(False), torch.enable_grad():
        samples = latents().requires_grad_()
        gradient = torch.autograd.grad(kept.vae.decode(samples).square().sum(), samples)[0]
    assert gradient.abs().sum() > 0


def test_a_decode_that_another_node_replaced_stays(pack_nodes, tiny_sdxl):
    other = copy.copy(tiny_sdxl.vae)
    other.decode = lambda samples: tiny_sdxl.vae.decode(samples) * 0.5
    optimized, report = optimize(pack_nodes, other, channels_last="on")
    assert optimized is other
    assert "its decode was replaced by another node" in report


def test_a_decoder_with_other_blocks_is_left_to_comfyui(pack_nodes, tiny_sdxl, kept):
    class OtherBlock(type(tiny_sdxl.vae.first_stage_model.decoder.mid.block_1)):
        pass

    kept.vae.decode(latents())
    block = tiny_sdxl.vae.first_stage_model.decoder.mid.block_1
    stock_class = type(block)
    try:
        block.__class__ = OtherBlock
        assert torch.equal(kept.vae.decode(latents()), tiny_sdxl.vae.decode(latents()))
        _, report = optimize(pack_nodes, tiny_sdxl.vae, channels_last="on")
        assert "refused: channels-last decoder: the VAE's decoder has a OtherBlock in place of a ResnetBlock" in report
    finally:
        block.__class__ = stock_class


def test_other_vae_is_passed_through_with_the_reason(pack_nodes, tiny_sdxl):
    other = copy.copy(tiny_sdxl.vae)
    other.latent_channels = 16
    optimized, report = optimize(pack_nodes, other)
    assert optimized is other
    assert "not an SDXL VAE (it has 16 latent channels" in report


def test_a_checkpoint_without_a_vae_is_refused(pack_nodes):
    import comfy.sd

    with pytest.raises(Exception, match="vae is empty: the checkpoint holds none; load one with Load VAE"):
        optimize(pack_nodes, comfy.sd.VAE(sd={"unet.weight": torch.zeros(1)}))


def test_circular_padding_is_kept(pack_nodes, tiny_sdxl):
    """Packs for tiled textures set it on the convolutions themselves."""
    optimized, _ = optimize(pack_nodes, tiny_sdxl.vae, channels_last="on")
    plain = optimized.decode(latents())
    modules = tiny_sdxl.vae.first_stage_model.decoder.modules()
    convolutions = [m for m in modules if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)]
    try:
        for convolution in convolutions:
            convolution.padding_mode, convolution._reversed_padding_repeated_twice = "circular", [1, 1, 1, 1]
        expected = tiny_sdxl.vae.decode(latents())
        assert (expected - plain).abs().max() > 100 * TOLERANCE
        assert (optimized.decode(latents()) - expected).abs().max() < TOLERANCE
    finally:
        for convolution in convolutions:
            convolution.padding_mode = "zeros"
