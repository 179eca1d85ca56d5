"""PixelGridSnap: from a drawing that looks like pixel art to one pixel per cell."""

from comfy_api.latest import io

from .engine.pixel.batch import snap_images
from .engine.pixel.snap import FALLBACKS, MAX_NATIVE_SIDE

PixelGridType = io.Custom("PIXEL_GRID")


class PixelGridSnap(io.ComfyNode):
    """Finds the pixel grid of a batch and samples each cell once."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        return io.Schema(
            node_id="PixelGridSnap",
            display_name="Pixel Grid Snap",
            category="Fast Sprites/pixel art",
            description=(
                "Finds the grid of cells in pictures drawn as pixel art and returns one pixel per cell. "
                "All pictures of a batch get the same size."
            ),
            search_aliases=["pixel art", "downscale", "unfake", "pixelate", "grid"],
            has_intermediate_output=True,  # the report also comes when the node's result is cached
            inputs=[
                io.Image.Input("image", tooltip="Pictures as drawn, up to 4096 pixels a side."),
                io.Int.Input(
                    "native_width",
                    default=0,
                    min=0,
                    max=MAX_NATIVE_SIDE,
                    tooltip="Width of the result in pixels, always kept; 0 finds it.",
                ),
                io.Int.Input(
                    "native_height",
                    default=0,
                    min=0,
                    max=MAX_NATIVE_SIDE,
                    tooltip="Height of the result in pixels, always kept; 0 finds it, or follows from the width where that is set.",
                ),
                io.Combo.Input(
                    "when_unclear",
                    options=list(FALLBACKS),
                    default="fallback size",
                    tooltip="What to do with pictures in which no grid can be found.",
                ),
                io.Int.Input(
                    "fallback_size",
                    default=64,
                    min=1,
                    max=MAX_NATIVE_SIDE,
                    tooltip="Longer side of the result, in pixels, for pictures without a grid.",
                ),
                io.Mask.Input("mask", optional=True, tooltip="Taken along: each cell gets the value of most of its pixels."),
            ],
            outputs=[
                io.Image.Output("native", tooltip="One pixel per cell; with alpha where the pictures had it."),
                io.Mask.Output(
                    "native_mask", tooltip="The mask at native size; without one, 1 where the pictures are transparent."
                ),
                PixelGridType.Output("grid", tooltip="Size and pitch of the grid, for Sprite Sheet."),
                io.String.Output("report", tooltip="What was found, in one sentence."),
            ],
        )

    @classmethod
    def execute(cls, image, native_width, native_height, when_unclear, fallback_size, mask=None) -> io.NodeOutput:
        """Snap the batch."""
        native, native_mask, grid = snap_images(image, mask, native_width, native_height, when_unclear, fallback_size)
        return io.NodeOutput(native, native_mask, grid, grid.report, ui={"text": (grid.report,)})
