"""The tiny SDXL loads, draws and reads pictures through ComfyUI's own code, and leaves every other model's path alone."""

import importlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch


@pytest.fixture
def tiny(tiny_checkpoint) -> Any:
    """The definitions in tests/tiny_sdxl."""
    names = ("topology", "tiny_unet", "tiny_vae", "tiny_text", "single_file")
    return SimpleNamespace(**{name: importlib.import_module(name) for name in names})


def loaded_parts(tiny, state):
    parts = tiny.tiny_unet.UNet(), tiny.tiny_vae.Autoencoder(), tiny.tiny_text.TextEncoders()
    tiny.single_file.from_single_file(state, *parts)
    return parts


@pytest.fixture
def state(tiny_checkpoint):
    from safetensors.torch import load_file

    return load_file(tiny_checkpoint)


@pytest.fixture
def comfy_sd(comfyui) -> Any:
    return importlib.import_module("comfy.sd")


def encode(clip, text):
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def sample(comfyui, model, clip, latent, steps=3, denoise=1.0):
    positive, negative = encode(clip, "pixel art red slime"), encode(clip, "blurry")
    return comfyui.common_ksampler(model, 7, steps, 5.0, "euler_ancestral", "karras", positive, negative, latent, denoise)[0]


def test_is_sdxl_to_comfyui(comfyui, tiny_sdxl):
    import comfy.model_base
    from comfy import latent_formats, supported_models

    assert type(tiny_sdxl.model.model) is comfy.model_base.SDXL
    assert isinstance(tiny_sdxl.model.model.model_config, supported_models.SDXL)
    assert isinstance(tiny_sdxl.model.model.latent_format, latent_formats.SDXL)
    assert tiny_sdxl.model.model.model_type == comfy.model_base.ModelType.EPS


def test_every_weight_reaches_comfyui(tiny_sdxl, state, tiny):
    parts = {
        "model.diffusion_model.": tiny_sdxl.model.model.diffusion_model.state_dict(),
        "first_stage_model.": tiny_sdxl.vae.first_stage_model.state_dict(),
        "conditioner.embedders.0.transformer.": tiny_sdxl.clip.cond_stage_model.clip_l.transformer.state_dict(),
    }
    loaded = {prefix + key: tensor for prefix, part in parts.items() for key, tensor in part.items()}
    del loaded["conditioner.embedders.0.transformer.text_projection.weight"]  # SDXL files have none for the first encoder
    assert loaded.keys() == {key for key in state if not key.startswith("conditioner.embedders.1.")}
    assert all(torch.equal(tensor.float(), state[key].float()) for key, tensor in loaded.items())

    theirs = tiny_sdxl.clip.cond_stage_model.clip_g.transformer.state_dict()
    ours = tiny.tiny_text.TextEncoder(tiny.topology.TEXT_WIDTH_G, 2, quick_gelu=False, projected=True)
    prefix = tiny.single_file.PREFIXES["clip_g"]
    ours.load_state_dict(
        tiny.single_file._from_open_clip({k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)})
    )
    assert theirs.keys() == ours.state_dict().keys()
    assert all(torch.equal(theirs[key].float(), tensor) for key, tensor in ours.state_dict().items())


def test_own_definitions_agree_with_comfyui(comfyui, tiny_sdxl, state, tiny):
    import comfy.model_management

    unet, vae, text = loaded_parts(tiny, state)
    clip = tiny_sdxl.clip
    pairs = clip.tokenize("pixel art red slime, 16bit game sprite, clean background")
    tokens_l, tokens_g = (torch.tensor([[token for token, _ in pairs[name][0]]]) for name in ("l", "g"))
    with torch.inference_mode():
        context, pooled = text(tokens_l, tokens_g)
        cond, theirs_pooled = clip.encode_from_tokens(pairs, return_pooled=True)
        torch.testing.assert_close(cond, context, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(theirs_pooled, pooled, atol=2e-5, rtol=1e-4)

        sizes = torch.tensor([[768.0, 768, 0, 0, 768, 768]])
        adm = tiny_sdxl.model.model.encode_adm(pooled_output=theirs_pooled, device="cpu")
        y = torch.cat([pooled, tiny.topology.size_embedding(sizes)], dim=1)
        torch.testing.assert_close(adm, y, atol=2e-5, rtol=1e-4)

        x, t = torch.randn(1, 4, 17, 22), torch.tensor([500.0])
        comfy.model_management.load_models_gpu([tiny_sdxl.model], force_full_load=True)
        theirs = tiny_sdxl.model.model.diffusion_model
        assert theirs.dtype == torch.float32
        torch.testing.assert_close(theirs(x, t, cond, adm), unet(x, t, context, y), atol=1e-4, rtol=1e-3)

        pixels = torch.rand(1, 64, 88, 3)
        latents = tiny_sdxl.vae.encode(pixels)
        torch.testing.assert_close(latents, vae.encode(pixels.movedim(-1, 1) * 2 - 1), atol=1e-4, rtol=1e-3)
        decoded = ((vae.decode(latents) + 1) / 2).clamp(0, 1).movedim(1, -1)
        torch.testing.assert_close(tiny_sdxl.vae.decode(latents), decoded, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_draws_and_redraws_odd_sizes(comfyui, comfy_sd, tiny_checkpoint, dtype):
    model, clip, vae, _ = comfy_sd.load_checkpoint_guess_config(str(tiny_checkpoint), model_options={"dtype": dtype})
    assert model.model.get_dtype() == dtype
    latent = {"samples": torch.zeros(2, 4, 13, 22)}
    drawn = sample(comfyui, model, clip, latent)
    pictures = vae.decode(drawn["samples"])
    assert pictures.shape == (2, 13 * 8, 22 * 8, 3)
    assert torch.isfinite(pictures).all()
    assert pictures.std() > 0.01

    read = {"samples": vae.encode(pictures)}
    assert read["samples"].shape == (2, 4, 13, 22)
    redrawn = vae.decode(sample(comfyui, model, clip, read, denoise=0.5)["samples"])
    assert torch.isfinite(redrawn).all()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.02), (torch.bfloat16, 0.1)], ids=["fp16", "bf16"])
def test_half_precision_activations_stay_near_fp32(state, tiny, dtype, tolerance):
    """ComfyUI refuses fp16 on CPUs, so the same layers run here in plain torch, as they would on a GPU."""
    unet, vae, text = loaded_parts(tiny, state)
    tokens = torch.tensor([[49406, 320, 736, 49407, *[0] * 73]])
    x, t = torch.randn(1, 4, 16, 16), torch.tensor([700.0])
    pixels = torch.rand(1, 3, 64, 64) * 2 - 1

    def run(dtype):
        context, pooled = text.float()(tokens, tokens)
        y = torch.cat([pooled, tiny.topology.size_embedding(torch.full((1, 6), 768.0))], dim=1)
        noise = unet.to(dtype)(x.to(dtype), t, context.to(dtype), y.to(dtype))
        latents = vae.to(dtype).encode(pixels.to(dtype))
        return noise.float(), latents.float(), vae.decode(latents).float()

    with torch.inference_mode():
        for half, full in zip(run(dtype), run(torch.float32), strict=True):
            assert torch.isfinite(half).all()
            assert (half - full).square().mean().sqrt() < tolerance * full.std()


def test_inpainting_variant_loads(comfy_sd, tiny_checkpoint):
    import comfy.model_base

    checkpoint = importlib.import_module("make_checkpoint").random_checkpoint(0, in_channels=9)
    model = comfy_sd.load_state_dict_guess_config(checkpoint)[0]
    assert type(model.model) is comfy.model_base.SDXL
    assert model.model.concat_keys == ("mask", "masked_image")


def test_full_size_sdxl_is_recognised_as_before(comfyui):
    from comfy import model_detection, supported_models

    config = {
        "model_channels": 320,
        "use_linear_in_transformer": True,
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "context_dim": 2048,
        "adm_in_channels": 2816,
        "use_temporal_attention": False,
        "in_channels": 4,
    }
    found = model_detection.model_config_from_unet_config(config, {})
    assert type(found) is supported_models.SDXL


@pytest.mark.parametrize(("encoder_channels", "decoder_channels"), [(128, 128), (128, 64)])
def test_other_vaes_take_the_stock_rule(comfy_sd, encoder_channels, decoder_channels):
    from comfy.ldm.models.autoencoder import AutoencoderKL

    base = {"double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch_mult": [1, 2, 4, 4]}
    base |= {"num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}
    stock = AutoencoderKL(
        ddconfig={**base, "ch": encoder_channels}, decoder_ddconfig={**base, "ch": decoder_channels}, embed_dim=4
    )
    loaded = comfy_sd.VAE(sd={key: torch.zeros_like(tensor) for key, tensor in stock.state_dict().items()}).first_stage_model
    assert loaded.encoder.conv_in.out_channels == encoder_channels
    assert loaded.decoder.conv_in.out_channels == 4 * decoder_channels
    assert {norm.num_groups for norm in loaded.modules() if isinstance(norm, torch.nn.GroupNorm)} == {32}


def test_text_encoders_read_the_real_tokenizer(tiny_sdxl):
    tokens = tiny_sdxl.clip.tokenize("a slime")
    for name, pad in (("l", 49407), ("g", 0)):
        ids = [token for token, _ in tokens[name][0]]
        assert len(ids) == 77
        assert ids[0] == 49406
        assert ids[-1] == pad


def test_checkpoint_fits_its_budget(tiny_checkpoint, state):
    assert tiny_checkpoint.stat().st_size <= 32_000_000
    assert {tensor.dtype for tensor in state.values()} == {torch.float16}
