"""SaveSprites: each sprite in its own file, with the workflow that draws that very sprite."""

from typing import Any

from comfy_api.latest import io

from .batch_sprite_sampler import SpriteSeeds, SpriteStream
from .engine.sprites.file_names import FORMATS
from .engine.sprites.run_saving import SavingRequest, save_sprites
from .sprite_prompts import SpritePromptList


class SaveSprites(io.ComfyNode):
    """Save a batch of pictures under names made of prompt and seed."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Declare the sockets and widgets."""
        return io.Schema(
            node_id="SaveSprites",
            display_name="Save Sprites",
            category="Fast Sprites",
            description="Saves every sprite in its own file in ComfyUI's output folder and never overwrites one. With seeds (or sprites) and "
            "prompts connected, a file dropped into the browser restores the graph that draws that sprite alone.",
            search_aliases=["save batch", "export sprites", "save png", "save webp"],
            inputs=[
                io.Image.Input("images", optional=True, tooltip="Finished pictures; leave it open with sprites."),
                io.String.Input(
                    "filename",
                    default="sprites/%prompt%_%seed%_%index%",
                    tooltip="%prompt%, %seed%, %index%, and ComfyUI's %width%, %height%, %year%, %month%, %day%, %hour%, %minute%, %second%.",
                ),
                io.Combo.Input("format", options=list(FORMATS), default="png", tooltip="Both are lossless."),
                SpriteStream.Input(
                    "sprites",
                    optional=True,
                    tooltip="From a BatchSpriteSampler, instead of images: each micro-batch is decoded and saved as soon as it is drawn.",
                ),
                SpriteSeeds.Input("seeds", optional=True, tooltip="From the BatchSpriteSampler that drew these pictures."),
                SpritePromptList.Input("prompts", optional=True, tooltip="From the SpritePrompts of these pictures."),
                io.Vae.Input("vae", optional=True, tooltip="Decodes sprites."),
                io.Int.Input(
                    "first_index", default=1, min=1, max=2**31 - 1, optional=True, tooltip="%index% of the first sprite."
                ),
            ],
            outputs=[
                io.Image.Output(
                    "images", display_name="images", tooltip="The saved pictures; nothing where sprites were saved while drawn."
                ),
                io.String.Output("report", display_name="report", tooltip="How many files, and where."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        filename: str,
        format: str,
        images: Any = None,
        seeds: Any = None,
        prompts: Any = None,
        sprites: Any = None,
        vae: Any = None,
        first_index: int = 1,
    ) -> io.NodeOutput:
        """Write the files; raises BadInputError for a name outside the output folder and PackError when the disk refuses."""
        hidden = cls.hidden
        request = SavingRequest(
            filename, format, seeds, prompts, first_index, str(hidden.unique_id), hidden.prompt, hidden.extra_pnginfo
        )
        passed_on, saved = save_sprites(images, sprites, vae, request)
        return io.NodeOutput(passed_on, saved.report, ui={"images": saved.ui_images, "text": [saved.report]})
