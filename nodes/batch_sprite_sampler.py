"""BatchSpriteSampler: any number of sprites, each the picture that its own seed draws alone."""

from typing import Any

from comfy_api.latest import io

from .engine.sprites.request import DRAW_WHEN, SpriteRequest
from .engine.sprites.run_batch import draw_sprites, sampler_names, scheduler_names
from .engine.sprites.seeds import MAX_SEED, SEED_MODES

SpriteSeeds = io.Custom("SPRITE_SEEDS")
SpriteStream = io.Custom("SPRITE_STREAM")


class BatchSpriteSampler(io.ComfyNode):
    """KSampler for a batch in which every sprite has its own seed."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Declare the sockets and widgets."""
        return io.Schema(
            node_id="BatchSpriteSampler",
            display_name="Batch Sprite Sampler",
            category="Fast Sprites",
            description="Samples any number of sprites in micro-batches that fit the memory. Each sprite is the one that a KSampler "
            "draws alone with its seed, whatever the batch.",
            search_aliases=["ksampler batch", "batch seeds", "sample many", "sprites"],
            has_intermediate_output=True,  # the report also comes when the node's result is cached
            inputs=[
                io.Model.Input("model", tooltip="As in KSampler; best from Optimize Model."),
                io.Conditioning.Input(
                    "positive", tooltip="What the sprites show: one prompt for all, or one each from Sprite Prompts."
                ),
                io.Conditioning.Input("negative", tooltip="What the sprites shall not show."),
                io.Int.Input("count", default=8, min=1, max=4096, tooltip="How many sprites."),
                io.Int.Input("width", default=1024, min=64, max=16384, step=8, tooltip="Pixels; ignored with a latent."),
                io.Int.Input("height", default=1024, min=64, max=16384, step=8, tooltip="Pixels; ignored with a latent."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=MAX_SEED,
                    control_after_generate=True,
                    tooltip="Seed of the first sprite; seed_mode says what the others get.",
                ),
                io.Combo.Input(
                    "seed_mode",
                    options=list(SEED_MODES),
                    default="increment",
                    tooltip="increment: seed, seed + 1, ...; random: unrelated seeds drawn from seed; list: the seeds in seed_list.",
                ),
                io.Int.Input("steps", default=20, min=1, max=10000, tooltip="Denoising steps of each sprite."),
                io.Float.Input(
                    "cfg",
                    default=8.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="How strongly the prompt leads; at 1 the negative prompt is not computed.",
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=sampler_names(),
                    default="euler_ancestral",
                    tooltip="ComfyUI's samplers; each sprite gets its own noise in all of them.",
                ),
                io.Combo.Input(
                    "scheduler", options=scheduler_names(), default="karras", tooltip="How the noise falls from step to step."
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Below 1 the sprites start from the connected latent: the lower, the more of it stays.",
                ),
                io.Int.Input(
                    "micro_batch", default=0, min=0, max=256, tooltip="Sprites drawn at once; 0 chooses by free memory."
                ),
                io.String.Input("seed_list", default="", optional=True, tooltip="Seeds for seed_mode list: 7, 12, 99"),
                io.Combo.Input(
                    "draw",
                    options=list(DRAW_WHEN),
                    default="now",
                    optional=True,
                    tooltip="while saving: Save Sprites, connected to sprites, decodes and saves each micro-batch before the next one "
                    "is drawn, so that memory does not grow with count and finished sprites are on disk.",
                ),
                io.Int.Input(
                    "first_picture",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    optional=True,
                    tooltip="Number of the picture of latent, masks and ControlNets that the first sprite takes, beginning anew after the "
                    "last; 0 begins with the first and refuses a latent of more pictures than count.",
                ),
                io.Latent.Input(
                    "latent", optional=True, tooltip="Pictures to start from (denoise < 1) or an empty latent's size."
                ),
            ],
            outputs=[
                io.Latent.Output("latent", display_name="latent", tooltip="All sprites, for VAE Decode."),
                SpriteSeeds.Output(
                    "seeds", display_name="seeds", tooltip="One seed a sprite, for Save Sprites and Sprite Sheet."
                ),
                io.String.Output(
                    "report", display_name="report", tooltip="What was drawn, in how many micro-batches and how long it took."
                ),
                SpriteStream.Output(
                    "sprites", display_name="sprites", tooltip="For Save Sprites, with draw set to while saving."
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
        )

    @classmethod
    def execute(cls, model: Any, positive: Any, negative: Any, latent: Any = None, **widgets: Any) -> io.NodeOutput:
        """Draw the sprites; raises BadInputError for values that cannot work and OutOfMemoryError if one sprite does not fit."""
        request = SpriteRequest(**widgets)
        result = draw_sprites(model, positive, negative, latent, request, str(cls.hidden.unique_id), cls.hidden.prompt)
        return io.NodeOutput(result.latent, result.seeds, result.report, result.stream, ui={"text": [result.report]})
