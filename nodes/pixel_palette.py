"""PixelPalette: few exact colours, the same ones for every picture of the batch."""

from comfy_api.latest import io

from .engine.pixel.dither import DITHERS
from .engine.pixel.run_palette import NO_FILE, PALETTE_SOURCES, palette_file_names, recolour_images

SpritePalette = io.Custom("SPRITE_PALETTE")


class PixelPalette(io.ComfyNode):
    """Finds or takes a palette and maps a batch to it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        return io.Schema(
            node_id="PixelPalette",
            display_name="Pixel Palette",
            category="Fast Sprites/pixel art",
            description="Maps native pixel art to one palette for the whole batch: found in the pictures, built in, or from a file.",
            search_aliases=["quantize", "reduce colors", "dither", "lospec", "pico-8"],
            inputs=[
                io.Image.Input("image", tooltip="Native pictures, one pixel per cell, from Pixel Grid Snap."),
                io.Combo.Input("source", options=list(PALETTE_SOURCES), default="auto", tooltip="Where the colours come from."),
                io.Int.Input(
                    "max_colours",
                    default=0,
                    min=0,
                    max=256,
                    tooltip="At most this many colours; 0 keeps as many as the pictures were drawn with. A fixed palette stays whole.",
                ),
                io.Combo.Input(
                    "palette_file",
                    options=[NO_FILE, *palette_file_names()],
                    default=NO_FILE,
                    tooltip=".hex, .gpl, .pal or a PNG strip in ComfyUI's input folder; used by the source 'file'.",
                ),
                io.Combo.Input(
                    "dither", options=list(DITHERS), default="none", tooltip="How colours between two entries are drawn."
                ),
                io.Float.Input(
                    "dither_strength", default=1.0, min=0.0, max=1.0, step=0.05, tooltip="1 is the whole pattern, 0 none of it."
                ),
                io.Image.Input(
                    "reference", optional=True, tooltip="The picture whose colours the source 'reference picture' takes."
                ),
                SpritePalette.Input("palette", optional=True, tooltip="The palette that the source 'connected palette' takes."),
            ],
            outputs=[
                io.Image.Output("image", tooltip="The pictures in exact colours of the palette."),
                SpritePalette.Output("palette", tooltip="For the next batch's Pixel Palette and for Sprite Sheet."),
                io.Image.Output("palette_picture", tooltip="One 16x16 square per colour."),
                io.String.Output("palette_text", tooltip="One colour per line, the content of a .hex file."),
            ],
        )

    @classmethod
    def execute(
        cls, image, source, max_colours, palette_file, dither, dither_strength, reference=None, palette=None
    ) -> io.NodeOutput:
        """Map the batch."""
        return io.NodeOutput(
            *recolour_images(
                image,
                source=source,
                max_colours=max_colours,
                palette_file=palette_file,
                dither=dither,
                dither_strength=dither_strength,
                reference=reference,
                palette=palette,
            )
        )
