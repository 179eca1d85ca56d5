"""SaveSprites: each sprite in its own file, with the workflow that draws that very sprite."""

from typing import Any

from comfy_api.latest import io

from .batch_sprite_sampler import SpriteSeeds
from .engine.sprites.run_saving import FORMATS, save_sprites
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
            description="Saves every sprite in its own file in ComfyUI's output folder and never overwrites one. With seeds and prompts "
            "connected, a file dropped into the browser restores the graph that draws that sprite alone.",
            search_aliases=["save batch", "export sprites", "save png", "save webp"],
            inputs=[
                io.Image.Input("images"),
                io.String.Input(
                    "filename",
                    default="sprites/%prompt%_%seed%_%index%",
                    tooltip="%prompt%, %seed%, %index%, and ComfyUI's %width%, %height%, %year%, %month%, %day%, %hour%, %minute%, %second%.",
                ),
                io.Combo.Input("format", options=list(FORMATS), default="png", tooltip="Both are lossless."),
                SpriteSeeds.Input("seeds", optional=True, tooltip="From the BatchSpriteSampler that drew these pictures."),
                SpritePromptList.Input("prompts", optional=True, tooltip="From the SpritePrompts of these pictures."),
            ],
            outputs=[
                io.Image.Output("images", display_name="images"),
                io.String.Output("report", display_name="report"),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, images: Any, filename: str, format: str, seeds: Any = None, prompts: Any = None) -> io.NodeOutput:
        """Write the files; raises BadInputError for a name outside the output folder and SaveError when the disk refuses."""
        hidden = cls.hidden
        saved = save_sprites(images, filename, format, seeds, prompts, str(hidden.unique_id), hidden.prompt, hidden.extra_pnginfo)
        return io.NodeOutput(images, saved.report, ui={"images": saved.ui_images, "text": [saved.report]})
