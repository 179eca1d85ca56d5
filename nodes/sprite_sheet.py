"""SpriteSheet: the files that an engine loads."""

from comfy_api.latest import io, ui

from .engine.pixel.run_sheet_export import CROPS, FRAME_NAMES, GODOT_CHOICES, SHEET_FORMATS, SheetOptions, export_sheet
from .pixel_grid_snap import PixelGridType
from .pixel_palette import SpritePalette


class SpriteSheet(io.ComfyNode):
    """Saves a batch of sprites as one sheet with its description."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        return io.Schema(
            node_id="SpriteSheet",
            display_name="Sprite Sheet",
            category="Fast Sprites/pixel art",
            description="Lays native sprites out in equal cells and saves PNG and JSON (Aseprite's form) into the output folder.",
            search_aliases=["atlas", "texture packer", "aseprite", "godot", "phaser", "spritesheet"],
            is_output_node=True,
            inputs=[
                io.Image.Input("image", tooltip="Native sprites, with alpha or with a mask."),
                io.String.Input(
                    "filename_prefix",
                    default="sprites/sheet",
                    tooltip="As in Save Image, inside ComfyUI's output folder; its last part names the animation.",
                ),
                io.Int.Input("columns", default=0, min=0, max=256, tooltip="0 makes the sheet as square as can be."),
                io.Int.Input("padding", default=0, min=0, max=64, tooltip="Clear pixels between cells."),
                io.Int.Input(
                    "extrude",
                    default=0,
                    min=0,
                    max=8,
                    tooltip="Repeats each cell's border this many pixels outwards, against bleeding.",
                ),
                io.Combo.Input(
                    "crop",
                    options=list(CROPS),
                    default="none",
                    tooltip="One common size for all sprites, standing on their feet or centred.",
                ),
                io.Boolean.Input("power_of_two", default=False, tooltip="Grow the sheet to sides of 2^n pixels."),
                io.Combo.Input(
                    "format",
                    options=list(SHEET_FORMATS),
                    default="RGBA",
                    tooltip="Indexed: at most 255 colours, entry 0 is transparent.",
                ),
                io.Combo.Input(
                    "frame_names",
                    options=list(FRAME_NAMES),
                    default="name_index",
                    tooltip="'index' for Phaser's Aseprite loader, which looks frames up as 0, 1, ...",
                ),
                io.Int.Input("frame_ms", default=100, min=1, max=60000, tooltip="Milliseconds that a frame is shown."),
                io.Combo.Input(
                    "godot", options=list(GODOT_CHOICES), default="none", tooltip="Also save a Godot 4 SpriteFrames resource."
                ),
                io.Int.Input("preview_scale", default=4, min=1, max=16, tooltip="How often the previews repeat each pixel."),
                io.Mask.Input("mask", optional=True, tooltip="1 where clear; used for pictures without alpha."),
                SpritePalette.Input(
                    "palette", optional=True, tooltip="Keeps the order of the palette in an indexed PNG and in the JSON."
                ),
                PixelGridType.Input("grid", optional=True, tooltip="Writes native size and pitch into the JSON."),
                io.Custom("SPRITE_SEEDS").Input("seeds", optional=True, tooltip="Writes the seeds into the JSON."),
            ],
            outputs=[
                io.Image.Output("sheet", tooltip="The sheet, RGBA."),
                io.String.Output("json", tooltip="The description as saved."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(
        cls,
        image,
        filename_prefix,
        columns,
        padding,
        extrude,
        crop,
        power_of_two,
        format,
        frame_names,
        frame_ms,
        godot,
        preview_scale,
        mask=None,
        palette=None,
        grid=None,
        seeds=None,
    ) -> io.NodeOutput:
        """Save the sheet and show it."""
        options = SheetOptions(
            filename_prefix=filename_prefix,
            columns=columns,
            padding=padding,
            extrude=extrude,
            crop=crop,
            power_of_two=power_of_two,
            format=format,
            frame_names=frame_names,
            frame_ms=frame_ms,
            godot=godot,
            preview_scale=preview_scale,
        )
        saved = export_sheet(
            image,
            options,
            mask=mask,
            palette=palette,
            grid=grid,
            seeds=seeds,
            prompt=cls.hidden.prompt,
            extra_pnginfo=cls.hidden.extra_pnginfo,
        )
        helper, temp = ui.ImageSaveHelper, io.FolderType.temp
        previews = [
            helper.save_animated_webp(
                saved.frame_previews, "sprite_preview", temp, None, fps=1000 / frame_ms, lossless=True, quality=100, method=0
            ),
            *helper.save_images(saved.sheet_preview, "sheet_preview", temp, None),
        ]
        shown = {"images": [*previews, saved.png], "animated": (True,), "files": saved.files}
        return io.NodeOutput(saved.sheet, saved.json_text, ui=shown)
