"""OptimizeModel: makes the SDXL UNet of a MODEL as fast as the device allows, reversibly."""

from comfy_api.latest import io, ui

from .engine.model.apply_model_plan import optimize_model
from .engine.model.plan import ATTENTIONS, ENGINES, PRECISIONS, SWITCHES, ModelSettings


class OptimizeModel(io.ComfyNode):
    """Plans from facts about the device, applies to a clone of the model and shows what was applied and refused."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Declare sockets and widgets."""
        return io.Schema(
            node_id="OptimizeModel",
            display_name="Optimize Model",
            category="Fast Sprites",
            description="Speeds up the SDXL UNet for this device. Every choice is undone after the run; other branches stay as they are.",
            search_aliases=["speed up sdxl", "cuda graph", "channels last", "sage attention"],
            has_intermediate_output=True,  # the report also comes when the node's result is cached
            inputs=[
                io.Model.Input("model", tooltip="An SDXL model; LoRA and ControlNet may come before or after this node."),
                io.Combo.Input(
                    "engine",
                    options=list(ENGINES),
                    default="auto",
                    tooltip="fast: own kernels and a CUDA graph. eager: without Triton. off: ComfyUI's forward. auto: the best that this device can run.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default="auto",
                    tooltip="auto keeps what ComfyUI loaded. fp16, bf16 and fp32 cast the weights at every layer. fp8: the fast engine's large linear layers in FP8, near-lossless, from compute capability 8.9 on.",
                ),
                io.Combo.Input(
                    "attention",
                    options=list(ATTENTIONS),
                    default="auto",
                    tooltip="auto: cuDNN on Hopper, ComfyUI's choice elsewhere. xFormers and SageAttention only where installed.",
                ),
                io.Combo.Input(
                    "channels_last",
                    options=list(SWITCHES),
                    default="auto",
                    tooltip="Memory layout of the pictures inside the UNet; part of the engine.",
                ),
                io.Combo.Input(
                    "cudnn_autotune",
                    options=list(SWITCHES),
                    default="auto",
                    tooltip="Lets cuDNN time its convolution algorithms during the run.",
                ),
                io.Combo.Input(
                    "fp16_accumulation",
                    options=list(SWITCHES),
                    default="auto",
                    tooltip="Adds up matrix products in fp16: faster on consumer Ada and Blackwell cards, near-lossless.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The optimised copy, for the sampler."),
                io.String.Output("report", display_name="report", tooltip="What was applied, refused and why."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model, engine, precision, attention, channels_last, cudnn_autotune, fp16_accumulation) -> io.NodeOutput:
        """Return the optimised clone and the report."""
        settings = ModelSettings(
            engine=engine,
            precision=precision,
            attention=attention,
            channels_last=channels_last,
            cudnn_autotune=cudnn_autotune,
            fp16_accumulation=fp16_accumulation,
        )
        optimized, report = optimize_model(model, settings, cls.hidden.unique_id)
        return io.NodeOutput(optimized, report, ui=ui.PreviewText(report))
