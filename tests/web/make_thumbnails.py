"""Write workflows/<name>.jpg, the pictures of ComfyUI's Templates browser: python tests/web/make_thumbnails.py [--pictures DIR].

DIR holds one folder per workflow with the pictures that it drew; a workflow without one is shown as its graph.
"""

import argparse
import io
import math
from pathlib import Path

from comfy_page import WORKFLOW_DIR, ComfyPage, bundled_workflows, own_page, read_workflow
from PIL import Image
from playwright.sync_api import FloatRect

SIDE = 512
MARGIN = 20
MAX_PICTURES = 9
BACKGROUND = (24, 24, 27)


def pictures_of(folder: Path) -> list[Image.Image]:
    """The first pictures of a folder, by name."""
    paths = sorted(path for path in folder.glob("*") if path.suffix in (".png", ".webp", ".jpg"))
    return [Image.open(path).convert("RGBA") for path in paths[:MAX_PICTURES]]


def contact_sheet(pictures: list[Image.Image]) -> Image.Image:
    """All pictures in a square; small ones, pixel art, are enlarged without smoothing."""
    columns = math.ceil(math.sqrt(len(pictures)))
    cell = SIDE // columns
    sheet = Image.new("RGB", (SIDE, SIDE), BACKGROUND)
    for index, picture in enumerate(pictures):
        enlarged = picture.width < cell
        picture = picture.resize((cell, cell), Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS)
        sheet.paste(picture, (index % columns * cell, index // columns * cell), picture)
    return sheet


def graph_picture(page: ComfyPage, name: str) -> Image.Image:
    """The whole graph on a square."""
    page.load(read_workflow(name), name)
    left, top, right, bottom = page.graph_box()
    clip = FloatRect(x=left - MARGIN, y=top - MARGIN, width=right - left + 2 * MARGIN, height=bottom - top + 2 * MARGIN)
    shot = Image.open(io.BytesIO(page.page.screenshot(clip=clip)))
    shot.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    sheet = Image.new("RGB", (SIDE, SIDE), BACKGROUND)
    sheet.paste(shot, ((SIDE - shot.width) // 2, (SIDE - shot.height) // 2))
    return sheet


def main() -> None:
    """Write all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=Path, metavar="DIR")
    pictures = parser.parse_args().pictures
    with own_page() as page:
        page.use_vue_nodes(True)
        for name in bundled_workflows():
            drawn = pictures_of(pictures / name) if pictures and (pictures / name).is_dir() else []
            thumbnail = contact_sheet(drawn) if drawn else graph_picture(page, name)
            thumbnail.save(WORKFLOW_DIR / f"{name}.jpg", quality=85, optimize=True)


if __name__ == "__main__":
    main()
