"""BatchSpriteSampler against ComfyUI's own KSampler: every sprite of a batch is the picture that its seed draws alone."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch

SEEDS = (11, 12, 13, 14)
SAMPLERS = [
    "euler", "euler_cfg_pp", "euler_ancestral", "euler_ancestral_cfg_pp", "heun", "heunpp2", "exp_heun_2_x0", "exp_heun_2_x0_sde", "dpm_2",
    "dpm_2_ancestral", "lms", "dpm_fast", "dpm_adaptive", "dpmpp_2s_ancestral", "dpmpp_2s_ancestral_cfg_pp", "dpmpp_sde", "dpmpp_sde_gpu",
    "dpmpp_2m", "dpmpp_2m_cfg_pp", "dpmpp_2m_sde", "dpmpp_2m_sde_gpu", "dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu", "dpmpp_3m_sde",
    "dpmpp_3m_sde_gpu", "ddpm", "lcm", "ipndm", "ipndm_v", "deis", "res_multistep", "res_multistep_cfg_pp", "res_multistep_ancestral",
    "res_multistep_ancestral_cfg_pp", "gradient_estimation", "gradient_estimation_cfg_pp", "er_sde", "seeds_2", "seeds_3", "sa_solver",
    "sa_solver_pece", "ddim", "uni_pc", "uni_pc_bh2",
]  # fmt: skip


class Bench:
    """The node and stock's KSampler with the same settings and a UNet that computes in `dtype`."""

    steps = 4
    cfg = 5.0
    scheduler = "karras"

    def __init__(self, comfyui: Any, pack_nodes: dict[str, Any], checkpoint: Path, dtype: torch.dtype = torch.float64) -> None:
        import comfy.sd
        from comfy_api.latest import io

        self.comfyui = comfyui
        loaded: Any = comfy.sd.load_checkpoint_guess_config(str(checkpoint), model_options={"dtype": dtype})
        self.model, self.clip = loaded[:2]
        self.positive = self.encode("pixel art, a red slime")
        self.negative = self.encode("blurry")
        hidden = {io.Hidden.unique_id: "7", io.Hidden.prompt: {"7": {"class_type": "BatchSpriteSampler", "inputs": {}}}}
        self.node = pack_nodes["BatchSpriteSampler"].PREPARE_CLASS_CLONE({"hidden_inputs": hidden})

    def encode(self, text: str) -> list[Any]:
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))

    def run(self, **changes: Any) -> Any:
        settings = {
            "model": self.model, "positive": self.positive, "negative": self.negative, "count": 4, "width": 64, "height": 64,
            "seed": SEEDS[0], "seed_mode": "increment", "steps": self.steps, "cfg": self.cfg, "sampler_name": "euler_ancestral",
            "scheduler": self.scheduler, "denoise": 1.0, "micro_batch": 0,
        }  # fmt: skip
        with torch.inference_mode():
            return self.node.execute(**{**settings, **changes}).result

    def batch(self, **changes: Any) -> torch.Tensor:
        return self.run(**changes)[0]["samples"]

    def single(self, seed: int, sampler: str, latent: Any = None, positive: Any = None, denoise: float = 1.0, model: Any = None):
        latent = latent or {"samples": torch.zeros(1, 4, 8, 8), "downscale_ratio_spacial": 8}
        with torch.inference_mode():
            return self.comfyui.common_ksampler(
                model or self.model, seed, self.steps, self.cfg, sampler, self.scheduler, positive or self.positive, self.negative,
                latent, denoise,
            )[0]["samples"]  # fmt: skip

    @functools.cache  # noqa: B019 - the bench lives as long as its test module
    def singles(self, sampler: str) -> torch.Tensor:
        return torch.cat([self.single(seed, sampler) for seed in SEEDS])


@pytest.fixture(scope="module")
def bench(comfyui, pack_nodes, tiny_checkpoint) -> Bench:
    return Bench(comfyui, pack_nodes, tiny_checkpoint)


def assert_same_pictures(batch: torch.Tensor, singles: torch.Tensor) -> None:
    """Compare the sprites of a batch with those drawn alone; the largest value sets the scale.

    Matrix products round differently for one row and for several, and the steps amplify it: in float32, stock's own batches of one
    seed differ from that seed alone by up to 1.1e-4 (heun; see the test of float32 below). A UNet in float64 leaves nothing to
    amplify but a rare last bit where its output is rounded to the sampler's float32; every difference measured was 0.
    """
    assert batch.shape == singles.shape
    difference = (batch - singles).abs().amax(dim=(1, 2, 3)) / singles.abs().amax(dim=(1, 2, 3))
    assert difference.max() < 5e-5, difference.tolist()


def test_list_is_comfyuis_own(comfyui, pack_nodes):
    """A sampler that a new ComfyUI adds must be read and put into STEP_NOISE before it can be offered."""
    import comfy.samplers

    assert comfy.samplers.KSampler.SAMPLERS == SAMPLERS
    sampler_input = next(socket for socket in pack_nodes["BatchSpriteSampler"].GET_SCHEMA().inputs if socket.id == "sampler_name")
    assert sampler_input.options == SAMPLERS


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws_each_seeds_own_picture(bench, sampler):
    # dpm_adaptive takes dozens of steps, and its sprites are drawn one at a time whatever is asked for.
    count = 2 if sampler == "dpm_adaptive" else 4
    singles = torch.cat([bench.single(seed, sampler) for seed in SEEDS[:count]])
    assert len({tuple(picture.flatten()[:4].tolist()) for picture in singles}) == count
    assert torch.equal(bench.batch(sampler_name=sampler, count=2, micro_batch=1), singles[:2])
    assert_same_pictures(bench.batch(sampler_name=sampler, count=count, micro_batch=3), singles)


@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_in_float32_a_batch_rounds_as_stocks_own(comfyui, pack_nodes, tiny_checkpoint, sampler):
    bench = Bench(comfyui, pack_nodes, tiny_checkpoint, torch.float32)
    batch = bench.batch(sampler_name=sampler, micro_batch=4)
    for i, seed in enumerate(SEEDS):
        # Equal indices give every row the noise of the seed; a product of the same shape rounds row i in the same way.
        four_times = {"samples": torch.zeros(4, 4, 8, 8), "batch_index": [0] * 4}
        assert torch.equal(batch[i], bench.single(seed, sampler, four_times)[i])


def test_sampler_that_couples_sprites_draws_one_at_a_time(bench):
    report = bench.run(sampler_name="dpm_adaptive", count=1, micro_batch=4)[2]
    assert "Micro-batch: 1 (one at a time: dpm_adaptive chooses its steps from the error of the whole batch)" in report


def test_unknown_sampler_is_refused_with_the_usable_ones(bench):
    with pytest.raises(ValueError, match=r"sampler_name is 'euler_x'.*choose one of euler, .*uni_pc_bh2\."):
        bench.run(sampler_name="euler_x")


def rows_of(latent: dict[str, Any], row: int) -> dict[str, Any]:
    """One picture of a latent as a latent of its own."""
    own = {"samples": latent["samples"][row : row + 1]}
    if "noise_mask" in latent:
        own["noise_mask"] = latent["noise_mask"][row : row + 1]
    if "batch_index" in latent:
        own["batch_index"] = latent["batch_index"][row : row + 1]
    return own


def picture_latents() -> dict[str, Any]:
    draw = torch.Generator().manual_seed(5)
    mask = torch.zeros(2, 1, 64, 64)
    mask[0, :, :32], mask[1, :, :, 16:] = 1.0, 1.0
    return {"samples": torch.randn(2, 4, 8, 8, generator=draw), "noise_mask": mask}


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_2m_sde", "ddim", "uni_pc", "lcm"])
@pytest.mark.parametrize("masked", [False, True])
def test_pictures_and_masks_are_taken_row_by_row_and_repeated(bench, sampler, masked):
    latent = picture_latents()
    if not masked:
        del latent["noise_mask"]
    singles = torch.cat([bench.single(seed, sampler, rows_of(latent, i % 2), denoise=0.6) for i, seed in enumerate(SEEDS)])
    for micro_batch in (4, 3):
        batch = bench.run(sampler_name=sampler, latent=latent, denoise=0.6, micro_batch=micro_batch)[0]
        assert_same_pictures(batch["samples"], singles)
        assert batch.keys() == latent.keys()
    if masked:
        assert batch["noise_mask"].shape == (4, 1, 64, 64)
    alone = bench.run(sampler_name=sampler, latent=latent, denoise=0.6, count=1, seed=SEEDS[3], first_picture=4)[0]
    assert torch.equal(alone["samples"], singles[3:])
    assert not masked or torch.equal(alone["noise_mask"], latent["noise_mask"][1:])


def test_batch_index_is_each_rows_own(bench):
    latent = {"samples": torch.zeros(2, 4, 8, 8), "batch_index": [3, 1]}
    singles = torch.cat([bench.single(seed, "euler", rows_of(latent, i % 2)) for i, seed in enumerate(SEEDS)])
    assert_same_pictures(bench.batch(sampler_name="euler", latent=latent, micro_batch=3), singles)


def test_denoise_of_nothing_returns_the_latent(bench):
    latent = {"samples": torch.ones(1, 4, 8, 8)}
    assert torch.equal(bench.batch(latent=latent, denoise=0.0, count=2), torch.ones(2, 4, 8, 8))


def test_different_prompts_share_a_batch(bench, pack_nodes):
    lines = ["iron sword", "a wooden shield" + ", very old" * 40]
    with torch.inference_mode():
        positive, negative, prompts, count = (
            pack_nodes["SpritePrompts"].execute(bench.clip, "\n".join(lines), "pixel art", "", "blurry", 4, "pick", 0).result
        )
    assert (count, [prompt.line for prompt in prompts]) == (4, lines * 2)
    encoded = [bench.encode("pixel art, " + line) for line in lines]
    assert [conditioning[0][0].shape[1] for conditioning in encoded] == [77, 154]
    singles = torch.cat([bench.single(seed, "dpmpp_sde", positive=encoded[i % 2]) for i, seed in enumerate(SEEDS)])
    for micro_batch in (4, 3, 1):
        batch = bench.batch(positive=positive, negative=negative, sampler_name="dpmpp_sde", micro_batch=micro_batch)
        assert_same_pictures(batch, singles)
    for part in ("cross-attention", "pooled"):
        mixed = [mixed_up(encoded[i % 2], encoded[1 - i % 2], part) for i in range(2)]
        for i in range(2):
            with pytest.raises(AssertionError):
                assert_same_pictures(bench.single(SEEDS[i], "dpmpp_sde", positive=mixed[i]), singles[i : i + 1])


def mixed_up(own: list[Any], other: list[Any], part: str) -> list[Any]:
    """A conditioning with one part of another prompt's."""
    (cross, options), (other_cross, other_options) = own[0], other[0]
    if part == "pooled":
        return [[cross, {**options, "pooled_output": other_options["pooled_output"]}]]
    return [[other_cross, options]]


def test_per_sprite_conditioning_masks_follow_their_sprites(bench):
    masks = torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(1))

    def masked(mask):
        return [[cross, {**options, "mask": mask, "mask_strength": 1.0}] for cross, options in bench.positive]

    singles = torch.cat(
        [bench.single(seed, "euler", positive=masked(masks[i : i + 1]) + bench.negative) for i, seed in enumerate(SEEDS)]
    )
    batch = bench.batch(positive=masked(masks) + bench.negative, sampler_name="euler", micro_batch=3)
    assert_same_pictures(batch, singles)


def test_bounds_of_per_sprite_masks_are_each_sprites_own(bench):
    masks = torch.zeros(4, 16, 16)
    for i in range(4):
        masks[i, 4 * i : 4 * i + 4, :12] = 1.0

    def bounded(mask):
        options = {"mask": mask, "mask_strength": 1.0, "set_area_to_bounds": True}
        return [[cross, {**own, **options}] for cross, own in bench.encode("a blue sword")] + bench.positive

    empty = {"samples": torch.zeros(1, 4, 16, 16)}
    singles = torch.cat([bench.single(seed, "euler", empty, bounded(masks[i : i + 1])) for i, seed in enumerate(SEEDS)])
    latent, _, report, _ = bench.run(positive=bounded(masks), latent=empty, sampler_name="euler", micro_batch=4)
    assert torch.equal(latent["samples"], singles)
    assert "Micro-batch: 1 (one at a time: ComfyUI takes the bounds of a batch's masks together" in report


def with_format(model: Any, **facts: int) -> Any:
    """The model as if its latents were of another format."""
    model = model.clone()
    kind = type(model.get_model_object("latent_format"))
    model.add_object_patch("latent_format", type("Format", (kind,), facts)())
    return model


def test_pixels_of_a_stream_are_the_models_own(bench):
    coarse = with_format(bench.model, spacial_downscale_ratio=16)
    _, _, report, stream = bench.run(model=coarse, width=128, height=96, draw="while saving")
    assert (stream.width, stream.height) == (128, 96)
    assert report.startswith("4 sprites of 128x96 pixels")


def test_latents_with_time_are_refused_by_name(bench):
    with pytest.raises(ValueError, match=r"This model's latents have 3 dimensions, as those of video, audio and Qwen-Image;"):
        bench.run(model=with_format(bench.model, latent_dimensions=3))


def tiny_controlnet(model: Any) -> Any:
    """A ControlNet of the tiny UNet's shape whose output layers are not zero."""
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.ops

    torch.manual_seed(0)
    config = {key: value for key, value in model.model.model_config.unet_config.items() if key != "disable_unet_model_creation"}
    config.pop("out_channels", None)
    net = comfy.cldm.cldm.ControlNet(**config, hint_channels=3, operations=comfy.ops.disable_weight_init)
    for name, parameter in net.named_parameters():
        torch.nn.init.normal_(parameter, std=0.3 if name.startswith("input_hint_block") else 0.02)
    return comfy.controlnet.ControlNet(net.eval(), load_device=torch.device("cpu"))


def test_controlnet_with_one_hint_per_sprite(bench):
    control = tiny_controlnet(bench.model)
    hints = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(2))

    def controlled(conditioning, hint, shared):
        own = shared.setdefault("control", control.copy().set_cond_hint(hint, 2.0))
        return [[cross, {**options, "control": own, "control_apply_to_uncond": False}] for cross, options in conditioning]

    def single(i, hint):
        shared: dict[str, Any] = {}
        positive = controlled(bench.positive, hints[hint : hint + 1], shared)
        with torch.inference_mode():
            return bench.comfyui.common_ksampler(
                bench.model, SEEDS[i], 4, 5.0, "euler", "karras", positive, controlled(bench.negative, None, shared),
                {"samples": torch.zeros(1, 4, 8, 8)},
            )[0]["samples"]  # fmt: skip

    singles = torch.cat([single(i, i) for i in range(4)])
    with pytest.raises(AssertionError):
        assert_same_pictures(single(3, 0), singles[3:])
    for micro_batch in (4, 3):
        shared: dict[str, Any] = {}
        positive = controlled(bench.positive, hints, shared)
        batch = bench.batch(
            positive=positive, negative=controlled(bench.negative, None, shared), sampler_name="euler", micro_batch=micro_batch
        )
        assert_same_pictures(batch, singles)
    positive = controlled(bench.positive, hints, shared := {})
    negative = controlled(bench.negative, None, shared)
    last = bench.batch(
        positive=positive, negative=negative, sampler_name="euler", count=2, seed=SEEDS[2], micro_batch=1, first_picture=3
    )
    assert torch.equal(last, singles[2:])


def test_lora_reaches_every_sprite(bench):
    model = bench.model.clone()
    key = "diffusion_model.out.2.weight"
    weight = dict(model.model.named_parameters())[key]
    model.add_patches({key: ("diff", (torch.full_like(weight, 0.05),))}, 1.0)
    singles = torch.cat([bench.single(seed, "euler", model=model) for seed in SEEDS])
    assert_same_pictures(bench.batch(model=model, sampler_name="euler", micro_batch=3), singles)
    assert not torch.allclose(singles[0], bench.single(SEEDS[0], "euler"), rtol=1e-3)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"count": 0}, "count is 0; set it to 1 or more."),
        ({"steps": 0}, "steps is 0; set it to 1 or more."),
        ({"width": 100}, "width is 100 pixels, but latents hold whole blocks of 8; set it to 96."),
        ({"height": 0}, "height is 0 pixels, but latents hold whole blocks of 8; set it to 8."),
        ({"denoise": 1.5}, "denoise is 1.5; set it between 0 and 1."),
        ({"seed_mode": "list", "seed_list": "5, 6"}, "seed_list holds 2 seeds for 4 sprites; add 2 more, lower count to 2"),
        (
            {"latent": {"samples": torch.ones(1, 16, 8, 8)}},
            r"The latent is shaped \[1, 16, 8, 8\], but the model wants \[pictures, 4, height, width\]",
        ),
        ({"latent": {"samples": torch.ones(6, 4, 8, 8)}}, "The latent holds 6 pictures and count is 4; raise count to 6"),
    ],
)
def test_bad_input_gets_one_sentence(bench, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        bench.run(**changes)


def test_report_says_what_was_drawn(bench):
    _, seeds, report, _ = bench.run(seed_mode="list", seed_list="9 8, 7;6", sampler_name="euler")
    assert seeds == (9, 8, 7, 6)
    assert report.startswith("4 sprites of 64x64 pixels, 4 steps of euler with karras, CFG 5\nMicro-batch: 4 (")
    assert "Seeds: 9, 8, 7, 6" in report
