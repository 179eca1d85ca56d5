"""What the pack reads from and does to a ModelPatcher; everything done here belongs to one clone and goes with it."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from comfy.ldm.modules import attention as core_attention
from comfy.ldm.modules.diffusionmodules import openaimodel
from comfy.patcher_extension import CallbacksMP, WrappersMP

KEY = "fast_sprites"
_DTYPE_NAMES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}
_DTYPES = {name: dtype for dtype, name in _DTYPE_NAMES.items()}


def describe_model(patcher: Any) -> dict[str, Any]:
    """Return the fields of ModelFacts for a MODEL, read off its structure."""
    base = patcher.model
    unet = getattr(base, "diffusion_model", None)
    inference_dtype = base.get_dtype_inference() if unet is not None else None
    overridden = "manual_cast_dtype" in patcher.object_patches
    compute_dtype = patcher.object_patches["manual_cast_dtype"] if overridden else inference_dtype
    transformer_options = patcher.model_options.get("transformer_options", {})
    return {
        "model_class": type(base).__name__,
        "not_sdxl_because": _why_not_sdxl(unet),
        "weight_dtype": dtype_name(base.get_dtype()) if unet is not None else "",
        "compute_dtype": dtype_name(compute_dtype) if compute_dtype is not None else "",
        "weights_gib": patcher.model_size() / 1024**3,
        "attention_functions": tuple(sorted(core_attention.REGISTERED_ATTENTION_FUNCTIONS)),
        "core_attention": core_attention.optimized_attention.__name__.removeprefix("attention_"),
        "foreign_wrappers": _foreign_wrappers(patcher, transformer_options),
        "has_attention_override": "optimized_attention_override" in transformer_options,
    }


def _why_not_sdxl(unet: Any) -> str:
    if not isinstance(unet, openaimodel.UNetModel):
        return f"its diffusion model is a {type(unet).__name__}"
    if unet.num_classes != "sequential":
        return "it has no label embedding, as SD 1 and 2"
    blocks = [layer for block in (*unet.input_blocks, *unet.output_blocks) for layer in block]
    transformers = [layer for layer in blocks if isinstance(layer, core_attention.SpatialTransformer)]
    if not transformers:
        return "it has no spatial transformers"
    if any(isinstance(layer, (openaimodel.VideoResBlock, core_attention.SpatialVideoTransformer)) for layer in blocks):
        return "it is a video model"
    if not all(layer.use_linear for layer in transformers):
        return "its transformers project with convolutions"
    return ""


def _foreign_wrappers(patcher: Any, transformer_options: dict[str, Any]) -> tuple[str, ...]:
    found: list[str] = []
    for kind in (WrappersMP.DIFFUSION_MODEL, WrappersMP.APPLY_MODEL):
        for owner in (patcher.wrappers, transformer_options.get("wrappers", {})):
            found += [str(key) for key, wrappers in owner.get(kind, {}).items() if wrappers and key != KEY]
    if "diffusion_model" in patcher.object_patches:
        found.append(f"object patch {type(patcher.object_patches['diffusion_model']).__name__}")
    return tuple(dict.fromkeys(found))


def dtype_name(dtype: torch.dtype) -> str:
    """Return "fp16", "bf16", "fp32" or torch's own name."""
    return _DTYPE_NAMES.get(dtype, str(dtype).removeprefix("torch."))


def load_device(patcher: Any) -> torch.device:
    """Return the device that the model computes on."""
    return patcher.load_device


def clone(patcher: Any) -> Any:
    """Return a clone without this pack's earlier wrappers, so that applying twice is the same as applying once."""
    cloned = patcher.clone()
    for kind in (WrappersMP.OUTER_SAMPLE, WrappersMP.DIFFUSION_MODEL):
        cloned.remove_wrappers_with_key(kind, KEY)
    cloned.remove_callbacks_with_key(CallbacksMP.ON_DETACH, KEY)
    return cloned


def set_compute_dtype(patcher: Any, name: str) -> None:
    """Compute in "fp16", "bf16" or "fp32", casting weights at every layer."""
    patcher.set_model_compute_dtype(_DTYPES[name])


def wrap_run(patcher: Any, context: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
    """Enter `context` around every sampling run of `patcher`."""

    def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
        with context():
            return executor(*args, **kwargs)

    patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, wrapper)


def set_attention(patcher: Any, name: str) -> None:
    """Use attention `name` in this clone's UNet: "sdpa", "cudnn", or a function registered in ComfyUI."""
    override = _sdpa_override(name) if name in ("sdpa", "cudnn") else _registered_override(name)
    patcher.model_options["transformer_options"]["optimized_attention_override"] = override


def _registered_override(name: str) -> Callable[..., Any]:
    chosen = core_attention.get_attention_function(name)

    def override(_func: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        return chosen(*args, **kwargs)

    return override


def _sdpa_override(name: str) -> Callable[..., Any]:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    first = [SDPBackend.CUDNN_ATTENTION] if name == "cudnn" else []
    rest = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]

    def override(
        func: Callable[..., Any], q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, mask=None, **kwargs: Any
    ) -> torch.Tensor:
        if mask is not None or kwargs.get("skip_reshape") or kwargs.get("enable_gqa") or "scale" in kwargs:
            return core_attention.attention_pytorch(q, k, v, heads, mask=mask, **kwargs)
        b, _, inner = q.shape
        q, k, v = (t.view(b, -1, heads, inner // heads).transpose(1, 2) for t in (q, k, v))
        with sdpa_kernel([*first, *rest], set_priority=True):
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return out if kwargs.get("skip_output_reshape") else out.transpose(1, 2).reshape(b, -1, inner)

    return override


@contextlib.contextmanager
def torch_switches(*, cudnn_benchmark: bool, fp16_accumulation: bool) -> Iterator[None]:
    """Turn torch's process-wide switches on for the body and put the values that were there back."""
    matmul = torch.backends.cuda.matmul
    benchmark_before = torch.backends.cudnn.benchmark
    accumulation_before = matmul.allow_fp16_accumulation if fp16_accumulation else None
    try:
        if cudnn_benchmark:
            torch.backends.cudnn.benchmark = True
        if fp16_accumulation:
            matmul.allow_fp16_accumulation = True
        yield
    finally:
        torch.backends.cudnn.benchmark = benchmark_before
        if accumulation_before is not None:
            matmul.allow_fp16_accumulation = accumulation_before
