"""Lets ComfyUI load the tiny SDXL of this folder's parent. For tests and demos only: never part of the shipped pack.

ComfyUI recognises SDXL by exact sizes, and reads the width of a VAE's decoder off the file but takes its encoder to be
128 channels wide (comfy/sd.py, VAE.__init__, 0.30.0). Both rules are widened here for the tiny sizes alone; every other
checkpoint takes the path it took before.
"""

import functools

import comfy.sd
import comfy.sdxl_clip
import torch
from comfy import sd1_clip, supported_models, supported_models_base

NODE_CLASS_MAPPINGS = {}

# The sizes of topology.py.
MODEL_CHANNELS = 32
NUM_GROUPS = 8
VAE_CHANNELS = 32
TEXT_WIDTH_L, TEXT_HEADS_L = 16, 1
TEXT_WIDTH_G, TEXT_HEADS_G = 32, 2
TEXT_LAYERS = 3


def _text_config(width, heads):
    return {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": heads, "num_hidden_layers": TEXT_LAYERS}


def _set_groups(module):
    """SDXL's 32 groups hold 4 to 40 channels each; at toy width they would hold one."""
    for norm in module.modules():
        if isinstance(norm, torch.nn.GroupNorm):
            norm.num_groups = NUM_GROUPS


class TinySDXLTokenizer(comfy.sdxl_clip.SDXLTokenizer):
    """The real CLIP tokenizer; only the width that textual-inversion files must have differs."""

    def __init__(self, embedding_directory=None, tokenizer_data=None):
        tokenizer_data = tokenizer_data or {}
        options = {"embedding_directory": embedding_directory, "tokenizer_data": tokenizer_data}
        self.clip_l = sd1_clip.SDTokenizer(embedding_size=TEXT_WIDTH_L, **options)
        self.clip_g = sd1_clip.SDTokenizer(pad_with_end=False, embedding_size=TEXT_WIDTH_G, embedding_key="clip_g", **options)


class TinySDXLClipModel(comfy.sdxl_clip.SDXLClipModel):
    """SDXL's pair of text encoders, narrow."""

    def __init__(self, device="cpu", dtype=None, model_options=None):
        narrow = {
            "clip_l_model_config": _text_config(TEXT_WIDTH_L, TEXT_HEADS_L),
            "clip_g_model_config": _text_config(TEXT_WIDTH_G, TEXT_HEADS_G),
        }
        super().__init__(device=device, dtype=dtype, model_options={**(model_options or {}), **narrow})


class TinySDXL(supported_models.SDXL):
    """SDXL at a tenth of its width, also with the 9 input channels of an inpainting model."""

    unet_config = {
        "model_channels": MODEL_CHANNELS,
        "use_linear_in_transformer": True,
        "transformer_depth": [0, 0, 1, 1, 2, 2],
        "context_dim": TEXT_WIDTH_L + TEXT_WIDTH_G,
        "adm_in_channels": TEXT_WIDTH_G + 1536,
        "use_temporal_attention": False,
    }

    def get_model(self, state_dict, prefix="", device=None):
        model = super().get_model(state_dict, prefix, device)
        _set_groups(model.diffusion_model)
        return model

    def clip_target(self, state_dict=None):
        return supported_models_base.ClipTarget(TinySDXLTokenizer, TinySDXLClipModel)


def _is_tiny_vae(sd):
    widths = [sd[key].shape for key in ("encoder.conv_in.weight", "decoder.conv_in.weight") if sd is not None and key in sd]
    return widths == [(VAE_CHANNELS, 3, 3, 3), (4 * VAE_CHANNELS, 4, 3, 3)]


def _widen_vae_rule(vae_class):
    stock_init = vae_class.__init__

    @functools.wraps(stock_init)
    def init(self, sd=None, device=None, config=None, **kwargs):
        tiny = config is None and _is_tiny_vae(sd)
        if tiny:
            ddconfig = {
                "double_z": True,
                "z_channels": 4,
                "resolution": 256,
                "in_channels": 3,
                "out_ch": 3,
                "ch": VAE_CHANNELS,
                "ch_mult": [1, 2, 4, 4],
                "num_res_blocks": 2,
                "attn_resolutions": [],
                "dropout": 0.0,
            }
            config = {"params": {"ddconfig": ddconfig, "embed_dim": 4}}
        stock_init(self, sd=sd, device=device, config=config, **kwargs)
        if tiny:
            _set_groups(self.first_stage_model)

    vae_class.__init__ = init


if not any(model.__name__ == TinySDXL.__name__ for model in supported_models.models):
    supported_models.models.insert(supported_models.models.index(supported_models.SDXL), TinySDXL)
    _widen_vae_rule(comfy.sd.VAE)
