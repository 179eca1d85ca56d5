"""SpriteBackground: from a plain background to hard transparency."""

from comfy_api.latest import io

from .engine.pixel.batch import BACKGROUND_METHODS, MASK_MARKS, cut_background_images


class SpriteBackground(io.ComfyNode):
    """Cuts the background out of native sprites."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        return io.Schema(
            node_id="SpriteBackground",
            display_name="Sprite Background",
            category="Fast Sprites/pixel art",
            description="Makes the plain background of native sprites transparent, pixel by pixel, or takes a mask for it.",
            search_aliases=["remove background", "transparent", "alpha", "cut out"],
            inputs=[
                io.Image.Input("image", tooltip="Native pictures, best after Pixel Palette."),
                io.Combo.Input(
                    "method",
                    options=list(BACKGROUND_METHODS),
                    default="plain background",
                    tooltip="Flood fill from the border, or the connected mask.",
                ),
                io.Boolean.Input(
                    "enclosed_holes", default=False, tooltip="Also clear the background's colour where the sprite encloses it."
                ),
                io.Float.Input(
                    "tolerance",
                    default=0.0,
                    min=0.0,
                    max=50.0,
                    step=0.5,
                    tooltip="CIELAB distance that still counts as background; 0 for pictures that went through Pixel Palette.",
                ),
                io.Combo.Input(
                    "mask_marks",
                    options=list(MASK_MARKS),
                    default="sprite",
                    tooltip="What 1 means in the mask: 'sprite' for cut-out models, 'background' for Load Image and its like.",
                ),
                io.Mask.Input(
                    "mask", optional=True, tooltip="At native size or larger; each cell gets the value of most of its pixels."
                ),
            ],
            outputs=[
                io.Image.Output("sprite", tooltip="RGBA; clear pixels carry the sprite's nearest colour."),
                io.Mask.Output("mask", tooltip="1 where clear, as Join Image with Alpha takes it."),
            ],
        )

    @classmethod
    def execute(cls, image, method, enclosed_holes, tolerance, mask_marks, mask=None) -> io.NodeOutput:
        """Cut the batch out."""
        return io.NodeOutput(
            *cut_background_images(
                image, method=method, enclosed_holes=enclosed_holes, tolerance=tolerance, mask_marks=mask_marks, mask=mask
            )
        )
