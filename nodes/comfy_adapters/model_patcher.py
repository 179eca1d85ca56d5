"""What the pack reads from and does to a ModelPatcher; everything done here belongs to one clone and goes with it."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch

from .internals import lacking, optional

core_attention = optional("comfy.ldm.modules.attention")
openaimodel = optional("comfy.ldm.modules.diffusionmodules.openaimodel")
patcher_extension = optional("comfy.patcher_extension")
samplers = optional("comfy.samplers")

KEY = "fast_sprites"
OWNER = "fast_sprites_owner"  # marks an attention override as this pack's
_DTYPE_NAMES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}
DTYPES = {name: dtype for dtype, name in _DTYPE_NAMES.items()}


def describe_model(patcher: Any) -> dict[str, Any]:
    """Return the fields of ModelFacts for a MODEL, read off its structure."""
    base = patcher.model
    if lacks := lacking("model"):
        return {"model_class": type(base).__name__, "lacks": lacks}
    unet = getattr(base, "diffusion_model", None)
    facts: dict[str, Any] = {"model_class": type(base).__name__, "not_sdxl_because": _why_not_sdxl(unet)}
    if facts["not_sdxl_because"]:
        return facts
    transformer_options = patcher.model_options.get("transformer_options", {})
    attention_lacks = lacking("attention")
    if not attention_lacks:
        function = core_attention_function()  # a partial, of some packs
        facts |= {
            "attention_functions": tuple(sorted(core_attention.REGISTERED_ATTENTION_FUNCTIONS)),
            "core_attention": getattr(function, "__name__", type(function).__name__).removeprefix("attention_"),
        }
    return facts | {
        "engine_lacks": lacking("engine"),
        "attention_lacks": attention_lacks,
        "precision_lacks": lacking("precision"),
        "weight_dtype": dtype_name(base.get_dtype()),
        "compute_dtype": dtype_name(_compute_dtype(patcher)),
        "replaced_by": _replaced_by(patcher, transformer_options),
        "has_attention_override": _is_foreign(transformer_options.get("optimized_attention_override")),
    }


def _compute_dtype(patcher: Any) -> torch.dtype:
    """Read what `patcher` computes in; the shared module may still carry another clone's patch."""
    cast: torch.dtype | None = patcher.model.manual_cast_dtype
    for patches in (patcher.object_patches_backup, patcher.object_patches):
        cast = patches.get("manual_cast_dtype", cast)
    return patcher.model.get_dtype() if cast is None else cast


def _why_not_sdxl(unet: Any) -> str:
    if not isinstance(unet, openaimodel.UNetModel):
        return f"its diffusion model is a {type(unet).__name__}"
    if unet.num_classes != "sequential":
        return "it has no label embedding, as SD 1 and 2"
    blocks: list[Any] = [layer for block in (*unet.input_blocks, *unet.output_blocks) for layer in cast(Any, block)]
    transformers = [layer for layer in blocks if isinstance(layer, core_attention.SpatialTransformer)]
    if not transformers:
        return "it has no spatial transformers"
    if any(isinstance(layer, (openaimodel.VideoResBlock, core_attention.SpatialVideoTransformer)) for layer in blocks):
        return "it is a video model"
    if not all(layer.use_linear for layer in transformers):
        return "its transformers project with convolutions"
    return ""


def _replaced_by(patcher: Any, transformer_options: dict[str, Any]) -> str:
    """Name what another node swaps the UNet for: a torch.compile wrapper or an object patch."""
    for owner in (patcher.wrappers, transformer_options.get("wrappers", {})):
        for key, wrappers in owner.get(patcher_extension.WrappersMP.APPLY_MODEL, {}).items():
            if wrappers and "compile" in str(key):
                return str(key)
    for name, patched in patcher.object_patches.items():
        if name.startswith("diffusion_model"):
            return f"{name} replaced by a {type(patched).__name__}"
    return ""


def _is_foreign(override: Any) -> bool:
    return override is not None and getattr(override, OWNER, None) != KEY


def weights_version(patcher: Any) -> Any:
    """Return a value that differs whenever LoRA or other weight patches of `patcher` do."""
    return patcher.patches_uuid


def patches_anew(patcher: Any) -> bool:
    """Tell whether ComfyUI will put other weights into the model when it loads `patcher` (ModelPatcher.partially_load)."""
    return patcher.model.current_weight_patches_uuid != patcher.patches_uuid


def dtype_name(dtype: torch.dtype) -> str:
    """Return "fp16", "bf16", "fp32" or torch's own name."""
    return _DTYPE_NAMES.get(dtype, str(dtype).removeprefix("torch."))


def is_model(value: Any) -> bool:
    """Tell a MODEL from what else comes through a socket of any type, such as Memory Probe's."""
    return hasattr(value, "model_options")


def load_device(patcher: Any) -> torch.device:
    """Return the device that the model computes on."""
    return patcher.load_device


def clone(patcher: Any) -> Any:
    """Return a clone without this pack's earlier wrappers, so that applying twice is the same as applying once.

    Where describe_model says that this ComfyUI lacks something for all of it, nothing was ever applied: the same object comes back.
    """
    if lacking("model"):
        return patcher
    cloned = patcher.clone()
    kinds = patcher_extension.WrappersMP
    for kind in (kinds.OUTER_SAMPLE, kinds.DIFFUSION_MODEL, kinds.SAMPLER_SAMPLE):
        cloned.remove_wrappers_with_key(kind, KEY)
    cloned.remove_callbacks_with_key(patcher_extension.CallbacksMP.ON_DETACH, KEY)
    if cloned.attachments.pop(KEY, None) == "compute dtype":
        cloned.object_patches.pop("manual_cast_dtype", None)
        cloned.force_cast_weights = False
    transformer_options = cloned.model_options["transformer_options"]
    if not _is_foreign(transformer_options.get("optimized_attention_override")):
        transformer_options.pop("optimized_attention_override", None)
    return cloned


def set_compute_dtype(patcher: Any, name: str) -> None:
    """Compute in "fp16", "bf16" or "fp32", casting weights at every layer."""
    patcher.set_model_compute_dtype(DTYPES[name])
    patcher.set_attachments(KEY, "compute dtype")


def wrap_run(patcher: Any, context: Callable[[Any], contextlib.AbstractContextManager[None]]) -> None:
    """Enter `context(guider)` around every sampling run of `patcher`."""

    def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
        with context(executor.class_obj):
            return executor(*args, **kwargs)

    patcher.add_wrapper_with_key(patcher_extension.WrappersMP.OUTER_SAMPLE, KEY, wrapper)


def wrap_schedule(patcher: Any, schedule: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Give ComfyUI's samplers `schedule(sigmas)` [steps + 1] to step through; another pack's get the sigmas as they are."""

    def wrapper(executor: Any, model: Any, sigmas: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        sampler = executor.class_obj
        of_core = type(sampler) is samplers.KSAMPLER and _is_core(sampler.sampler_function)
        return executor(model, schedule(sigmas) if of_core else sigmas, *args, **kwargs)

    patcher.add_wrapper_with_key(patcher_extension.WrappersMP.SAMPLER_SAMPLE, KEY, wrapper)


def _is_core(function: Any) -> bool:
    return getattr(function, "__module__", "").partition(".")[0] == "comfy"


def wrap_forward(patcher: Any, forward: Callable[..., torch.Tensor]) -> None:
    """Run `forward(stock, unet, x, timesteps, context, y, control, options, **rest)` in place of the UNet's own forward.

    Wrappers of other nodes stay around it, whether they were added before or after; `stock` is the UNet's own forward.
    """

    def wrapper(executor: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        def innermost(*inner_args: Any, **inner_kwargs: Any) -> torch.Tensor:
            return forward(executor.original, executor.class_obj, *inner_args, **inner_kwargs)

        inner = type(executor).new_class_executor(innermost, executor.class_obj, executor.wrappers, executor.idx + 1)
        return inner.execute(*args, **kwargs)

    patcher.add_wrapper_with_key(patcher_extension.WrappersMP.DIFFUSION_MODEL, KEY, wrapper)


def on_detach(patcher: Any, detached: Callable[[bool], None]) -> None:
    """Call `detached(unpatch_all)` whenever ComfyUI detaches this clone, in place of what this pack set before."""
    kind = patcher_extension.CallbacksMP.ON_DETACH
    patcher.remove_callbacks_with_key(kind, KEY)
    patcher.add_callback_with_key(kind, KEY, lambda _patcher, unpatch_all: detached(unpatch_all))


def why_not_ours(guider: Any) -> str:
    """Tell why a run of `guider` must be left to ComfyUI's own forward; empty when it need not."""
    patcher = guider.model_patcher
    if patcher.forced_hooks or patcher.hook_patches or "registered_hooks" in guider.model_options:
        return "hooks change weights during the run"
    if "multigpu_clones" in guider.model_options:
        return "several devices share the run"
    if patcher.injections:
        return f"another node injects code into the UNet ({', '.join(map(str, patcher.injections))})"
    replaced = _replaced_by(patcher, guider.model_options.get("transformer_options", {}))
    return f"another node replaced the UNet ({replaced})" if replaced else ""


_BETWEEN_CONDS_AND_UNET = (
    "model_function_wrapper", "sampler_calc_cond_batch_function", "context_handler",
    "sampler_cfg_function", "sampler_pre_cfg_function", "sampler_post_cfg_function",
)  # fmt: skip


def conditioning_is_constant(guider: Any, transformer_options: dict[str, Any]) -> bool:
    """Tell whether a cond's cross-attention tensor is the same at every step: nobody stands between the conds and the UNet.

    Functions around CFG may ask the model again with a prompt of their own, under the old prompt's uuid. `transformer_options` are those
    of this call: packs put wrappers into them during a run too, and replace functions for its length (AnimateDiff-Evolved).
    """
    if type(guider).__module__.partition(".")[0] not in ("comfy", "comfy_extras"):
        return False  # a guider of another pack may rewrite its conds between steps
    options = guider.model_options
    if any(options.get(name) for name in _BETWEEN_CONDS_AND_UNET) or "apply_model" in vars(guider.model_patcher.model):
        return False
    functions = samplers.sampling_function, samplers.calc_cond_batch
    if any(getattr(function, "__globals__", None) is not vars(samplers) for function in functions):
        return False  # another pack's, for all models
    for kind in (
        patcher_extension.WrappersMP.APPLY_MODEL,
        patcher_extension.WrappersMP.DIFFUSION_MODEL,
        patcher_extension.WrappersMP.CALC_COND_BATCH,
        patcher_extension.WrappersMP.PREDICT_NOISE,
        patcher_extension.WrappersMP.SAMPLER_SAMPLE,  # may hand the sampler other options than the guider's
    ):
        for owner in (guider.model_patcher.wrappers, transformer_options.get("wrappers", {})):
            if any(wrappers and key != KEY for key, wrappers in owner.get(kind, {}).items()):
                return False
    return True


def core_attention_function() -> Any:
    """Return ComfyUI's attention function of this moment; some packs replace it for all models, between two runs."""
    return core_attention.optimized_attention


def attention_function(name: str | None, *, yields: bool = False) -> Callable[..., Any]:
    """Return attention on q, k, v [N, L, heads * d]: ComfyUI's choice for None, SDPA for "sdpa" and "cudnn" (tried first).

    With `yields` the name counts only while ComfyUI's function is torch's SDPA.
    """
    if (name is None or yields) and core_attention.optimized_attention is not core_attention.attention_pytorch:
        return core_attention.optimized_attention
    if name not in (None, "sdpa", "cudnn"):
        return core_attention.REGISTERED_ATTENTION_FUNCTIONS[name]
    from torch.nn.attention import SDPBackend, sdpa_kernel

    order = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    if name == "cudnn":
        order.insert(0, SDPBackend.CUDNN_ATTENTION)

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
        n, _, inner = q.shape
        q, k, v = (t.view(n, -1, heads, inner // heads).transpose(1, 2) for t in (q, k, v))
        with sdpa_kernel(order, set_priority=True):
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return out.transpose(1, 2).reshape(n, -1, inner)

    return attend


def set_attention(patcher: Any, name: str) -> None:
    """Use attention `name` (see attention_function) in ComfyUI's own forward of this clone."""
    chosen = attention_function(name)
    takes_every_argument = name not in ("sdpa", "cudnn")

    def override(func: Callable[..., Any], q: Any, k: Any, v: Any, heads: int, mask: Any = None, **kwargs: Any) -> torch.Tensor:
        if takes_every_argument:
            return chosen(q, k, v, heads, mask=mask, **kwargs)
        if mask is not None or any(
            kwargs.get(special) for special in ("skip_reshape", "skip_output_reshape", "enable_gqa", "scale")
        ):
            return func(q, k, v, heads, mask=mask, **kwargs)
        return chosen(q, k, v, heads)

    setattr(override, OWNER, KEY)
    patcher.model_options["transformer_options"]["optimized_attention_override"] = override


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
