"""OptimizeVAE: decodes pictures in as little time and memory as the device allows."""

from comfy_api.latest import io, ui

from .engine.vae.apply_vae_plan import optimize_vae
from .engine.vae.plan import PRECISIONS, SWITCHES, VaeSettings


class OptimizeVAE(io.ComfyNode):
    """Plans from facts about the device, applies to a copy of the VAE and shows what was applied and refused."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Declare sockets and widgets."""
        return io.Schema(
            node_id="OptimizeVAE",
            display_name="Optimize VAE",
            category="Fast Sprites",
            description="Decodes one picture at a time with the memory that SDXL's VAE really needs, tiled only when one does not fit.",
            search_aliases=["vae memory", "vae decode batch", "vae channels last"],
            has_intermediate_output=True,  # the report also comes when the node's result is cached
            inputs=[
                io.Vae.Input("vae", tooltip="An SDXL VAE."),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default="auto",
                    tooltip="auto keeps what ComfyUI loaded. SDXL's own VAE overflows in fp16, so auto never picks it.",
                ),
                io.Combo.Input(
                    "channels_last",
                    options=list(SWITCHES),
                    default="auto",
                    tooltip="Memory layout of the pictures inside the VAE.",
                ),
                io.Int.Input(
                    "pictures_per_pass",
                    default=0,
                    min=0,
                    max=64,
                    tooltip="How many pictures are decoded at once; 0: one, which then has the same bits in every batch.",
                ),
            ],
            outputs=[
                io.Vae.Output(display_name="vae", tooltip="The optimised copy, for VAE Decode."),
                io.String.Output("report", display_name="report", tooltip="What was applied, refused and why."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, vae, precision, channels_last, pictures_per_pass) -> io.NodeOutput:
        """Return the optimised copy and the report."""
        settings = VaeSettings(precision=precision, channels_last=channels_last, pictures_per_pass=pictures_per_pass)
        optimized, report = optimize_vae(vae, settings, cls.hidden.unique_id)
        return io.NodeOutput(optimized, report, ui=ui.PreviewText(report))
