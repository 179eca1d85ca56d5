"""Descriptions of a sheet that engines read: Aseprite's JSON hash (Phaser, PixiJS, Aseprite importers) and Godot 4 SpriteFrames."""

import json
from collections.abc import Mapping
from typing import Any, Literal

from .sheet import SheetLayout

FrameNames = Literal["name_index", "index"]
# Aseprite writes its own address here; readers use it as a label alone.
_APP = "https://github.com/fast-sprites/fast-sprites"


def frame_names(name: str, count: int, style: FrameNames) -> list[str]:
    """Name the frames `name_0`, ... or, as Phaser's Aseprite loader looks them up, "0", "1", ..."""
    return [str(i) if style == "index" else f"{name}_{i}" for i in range(count)]


def sheet_json(
    layout: SheetLayout,
    names: list[str],
    *,
    animation: str,
    image: str,
    indexed: bool,
    frame_ms: int,
    sprite_facts: Mapping[str, Any],
) -> str:
    """Describe the sheet as Aseprite's JSON hash with `animations` for PixiJS; `sprite_facts` goes under `meta.sprite`.

    The form follows aseprite/src/app/doc_exporter.cpp (createDataFile) and PixiJS' SpritesheetData.
    """
    width, height = layout.cell_width, layout.cell_height
    frames = {}
    for index, name in enumerate(names):
        x, y = layout.origin(index)
        frames[name] = {
            "frame": {"x": x, "y": y, "w": width, "h": height},
            "rotated": False,
            "trimmed": False,
            "spriteSourceSize": {"x": 0, "y": 0, "w": width, "h": height},
            "sourceSize": {"w": width, "h": height},
            "duration": frame_ms,
        }
    document = {
        "frames": frames,
        "animations": {animation: names},
        "meta": {
            "app": _APP,
            "version": "1.0",
            "image": image,
            "format": "I8" if indexed else "RGBA8888",
            "size": {"w": layout.width, "h": layout.height},
            "scale": "1",
            "frameTags": [{"name": animation, "from": 0, "to": len(names) - 1, "direction": "forward"}],
            "sprite": dict(sprite_facts),
        },
    }
    return json.dumps(document, indent=1, ensure_ascii=False)


def godot_sprite_frames(layout: SheetLayout, count: int, *, animation: str, image: str, frame_ms: int) -> str:
    """Describe the sheet as a Godot 4 SpriteFrames resource (.tres, format 3) that lies beside its picture.

    Godot takes a path without `res://` as relative to the .tres (ResourceLoaderText, resource_format_text.cpp).
    """
    lines = [
        f'[gd_resource type="SpriteFrames" load_steps={count + 2} format=3]',
        "",
        f'[ext_resource type="Texture2D" path={_godot_string(image)} id="1"]',
        "",
    ]
    for index in range(count):
        x, y = layout.origin(index)
        lines += [
            f'[sub_resource type="AtlasTexture" id="frame_{index}"]',
            'atlas = ExtResource("1")',
            f"region = Rect2({x}, {y}, {layout.cell_width}, {layout.cell_height})",
            "",
        ]
    frames = ", ".join(f'{{\n"duration": 1.0,\n"texture": SubResource("frame_{index}")\n}}' for index in range(count))
    lines += [
        "[resource]",
        "animations = [{",
        f'"frames": [{frames}],',
        '"loop": true,',
        f'"name": &{_godot_string(animation)},',
        f'"speed": {1000 / frame_ms:.6g}',
        "}]",
        "",
    ]
    return "\n".join(lines)


def _godot_string(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
