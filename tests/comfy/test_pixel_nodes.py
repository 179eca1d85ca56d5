"""The pixel-art nodes in a real ComfyUI: from a drawing to files, called as the executor calls them."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image


@pytest.fixture
def folders(comfyui: ModuleType, tmp_path: Path) -> Any:
    import folder_paths

    before = (folder_paths.get_input_directory(), folder_paths.get_output_directory(), folder_paths.get_temp_directory())
    for name, set_directory in (
        ("input", folder_paths.set_input_directory),
        ("output", folder_paths.set_output_directory),
        ("temp", folder_paths.set_temp_directory),
    ):
        (tmp_path / name).mkdir()
        set_directory(str(tmp_path / name))
    yield tmp_path
    folder_paths.set_input_directory(before[0])
    folder_paths.set_output_directory(before[1])
    folder_paths.set_temp_directory(before[2])


def with_hidden(node: Any) -> Any:
    from comfy_api.latest import io

    return node.PREPARE_CLASS_CLONE(
        {"hidden_inputs": {io.Hidden.prompt: {"1": {"class_type": "X"}}, io.Hidden.extra_pnginfo: {"workflow": {"id": "w"}}}}
    )


def drawings(count: int = 3, size: int = 32, scale: int = 12) -> torch.Tensor:
    """Red and blue boxes on green, drawn at 12 px a cell."""
    native = np.zeros((count, size, size, 3), dtype=np.float32)
    native[..., 1] = 0.8
    rng = np.random.default_rng(0)
    colours = np.array([[0.8, 0.1, 0.1], [0.1, 0.1, 0.9]], dtype=np.float32)
    native[:, 6:26, 8:24] = colours[rng.integers(0, 2, (count, 20, 16))]
    return torch.from_numpy(native.repeat(scale, axis=1).repeat(scale, axis=2))


def run_chain(folders: Path, **sheet_options: Any) -> Any:
    from fast_sprites.nodes.pixel_grid_snap import PixelGridSnap
    from fast_sprites.nodes.pixel_palette import PixelPalette
    from fast_sprites.nodes.sprite_background import SpriteBackground
    from fast_sprites.nodes.sprite_sheet import SpriteSheet

    native, _, grid, report = PixelGridSnap.execute(drawings(), 0, 0, "stop", 64).args
    assert native.shape == (3, 32, 32, 3)
    assert "32x32" in report
    recoloured, palette, picture, text = PixelPalette.execute(native, "auto", 0, "none", "none", 1.0).args
    assert len(text.splitlines()) == 3
    assert picture.shape == (1, 16, 48, 3)
    sprites, mask = SpriteBackground.execute(recoloured, "plain background", False, 0.0, "sprite").args
    assert sprites.shape == (3, 32, 32, 4)
    assert mask[0].sum() == 32 * 32 - 20 * 16
    options = {
        "filename_prefix": "game/knight", "columns": 0, "padding": 0, "extrude": 0, "crop": "none", "power_of_two": False,
        "format": "RGBA", "frame_names": "name_index", "frame_ms": 100, "godot": "none", "preview_scale": 4,
    }  # fmt: skip
    return with_hidden(SpriteSheet).execute(sprites, **{**options, **sheet_options}, palette=palette, grid=grid, seeds=[7, 8, 9])


def test_chain_saves_a_sheet_with_its_description(folders):
    output = run_chain(folders, godot="SpriteFrames (.tres)")
    saved = sorted(path.name for path in (folders / "output" / "game").iterdir())
    assert saved == ["knight_00001_.json", "knight_00001_.png", "knight_00001_.tres"]
    document = json.loads((folders / "output" / "game" / "knight_00001_.json").read_text())
    assert document["meta"]["image"] == "knight_00001_.png"
    assert document["meta"]["sprite"]["native"] == {"w": 32, "h": 32}
    assert document["meta"]["sprite"]["seeds"] == [7, 8, 9]
    assert len(document["meta"]["sprite"]["palette"]) == 3
    with Image.open(folders / "output" / "game" / "knight_00001_.png") as picture:
        assert picture.mode == "RGBA"
        assert picture.size == (document["meta"]["size"]["w"], document["meta"]["size"]["h"])
        assert json.loads(picture.info["workflow"]) == {"id": "w"}
        assert "X" in picture.info["prompt"]
        assert set(np.unique(np.asarray(picture)[..., 3])) == {0, 255}
    assert output.ui["animated"] == (True,)
    kinds = [(entry["type"], Path(entry["filename"]).suffix) for entry in output.ui["images"]]
    assert kinds == [("temp", ".webp"), ("temp", ".png"), ("output", ".png")]
    assert len(output.ui["files"]) == 3


def test_second_run_overwrites_nothing_and_indexed_sheets_keep_the_palette(folders):
    run_chain(folders)
    run_chain(folders, format="indexed", crop="common, feet")
    with Image.open(folders / "output" / "game" / "knight_00002_.png") as picture:
        assert picture.mode == "P"
        assert picture.info["transparency"] == 0
        assert picture.size == (32, 40)
    assert (folders / "output" / "game" / "knight_00001_.png").is_file()


@pytest.mark.parametrize("prefix", ["../outside", "/tmp/outside", "a/../../outside"])
def test_nothing_is_saved_outside_the_output_folder(folders, prefix):
    with pytest.raises(Exception, match="leaves ComfyUI's output folder"):
        run_chain(folders, filename_prefix=prefix)
    assert not list((folders / "output").rglob("*.png"))


def test_palette_file_comes_from_the_input_folder_only(folders):
    from fast_sprites.nodes.pixel_palette import PixelPalette

    (folders / "input" / "two.hex").write_text("000000\nffffff\n")
    (folders / "secret.hex").write_text("123456\n")
    native = torch.rand(2, 8, 8, 3)
    recoloured, palette, _, _ = PixelPalette.execute(native, "file", 0, "two.hex", "bayer 4x4", 1.0).args
    assert palette.to_hex() == ["#000000", "#ffffff"]
    assert set(recoloured.unique().tolist()) <= {0.0, 1.0}
    with pytest.raises(ValueError, match="Invalid file path"):
        PixelPalette.execute(native, "file", 0, "../secret.hex", "none", 1.0)
    with pytest.raises(ValueError, match="needs a palette file"):
        PixelPalette.execute(native, "file", 0, "none", "none", 1.0)


def test_palette_of_a_reference_and_of_another_node(folders):
    from fast_sprites.nodes.pixel_palette import PixelPalette

    reference = torch.zeros(1, 4, 4, 3)
    reference[0, :2] = 1.0
    native = torch.rand(1, 8, 8, 3)
    recoloured, palette, _, _ = PixelPalette.execute(
        native, "reference picture", 0, "none", "none", 1.0, reference=reference
    ).args
    assert set(recoloured.unique().tolist()) <= {0.0, 1.0}
    again, same, _, _ = PixelPalette.execute(native, "connected palette", 0, "none", "none", 1.0, palette=palette).args
    assert same is palette
    assert torch.equal(again, recoloured)
    for source in ("reference picture", "connected palette"):
        with pytest.raises(ValueError, match="connect"):
            PixelPalette.execute(native, source, 0, "none", "none", 1.0)
