"""Write docs/images/quickstart-*.png, a newcomer's first minute in ComfyUI's page, and memory.png.

python tests/web/make_screenshots.py [quickstart] [memory]
"""

import io
import sys
from pathlib import Path

from comfy_page import PACK_ROOT, ComfyPage, own_page, read_workflow
from memory_page import sidebar
from PIL import Image

FOLDER = PACK_ROOT / "docs" / "images"
COLOURS = 128
TINY_SIDE = 256  # what the tiny SDXL was trained for
MINUTES_PER_RUN = 5
SHRINK = """side => {
    for (const node of app.rootGraph.nodes)
        for (const widget of node.widgets ?? [])
            if (["width", "height"].includes(widget.name)) widget.value = side;
    app.canvas.setDirty(true, true);
}"""
SHOW = """([scale, left, top]) => {  // the part of the graph whose corner this is
    app.canvas.ds.scale = scale;
    app.canvas.ds.offset = [-left, -top];
    app.canvas.setDirty(true, true);
}"""
CORNER = "() => [0, 1].map(axis => Math.min(...app.canvas.graph.groups.map(group => group.pos[axis])))"
PLACE = "kind => [...app.canvas.graph.nodes.find(node => node.type === kind).pos]"
SELECT = "kind => app.canvas.selectNode(app.canvas.graph.nodes.find(node => node.type === kind))"


def save(page: ComfyPage, name: str) -> None:
    """Save the window with few colours, as a PNG that a page shows at once."""
    picture = Image.open(io.BytesIO(page.page.screenshot()))
    path: Path = FOLDER / f"{name}.png"
    picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.relative_to(PACK_ROOT)} {path.stat().st_size // 1000} kB")


def quickstart() -> None:
    """Open the templates, run one, open a help page."""
    with own_page() as page:
        page.page.set_viewport_size({"width": 1600, "height": 900})
        page.use_vue_nodes(False)
        page.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
        dialog = page.page.get_by_role("dialog")
        dialog.get_by_text("fast-sprites", exact=True).click()
        dialog.get_by_alt_text("sprites_to_disk", exact=True).scroll_into_view_if_needed()
        page.page.wait_for_load_state("networkidle")
        page.page.mouse.move(900, 450)
        page.page.mouse.wheel(0, -5000)
        page.settle()
        save(page, "quickstart-templates")
        dialog.get_by_alt_text("sprite_optimized", exact=True).click()
        page.page.wait_for_function("() => app.rootGraph.nodes.some(node => node.type === 'OptimizeModel')")
        page.evaluate(SHRINK, TINY_SIDE)
        left, top = page.evaluate(CORNER)
        page.evaluate(SHOW, [0.61, left - 130, top - 80])
        page.run(timeout_s=60 * MINUTES_PER_RUN)
        page.page.mouse.move(720, 20)
        page.page.wait_for_timeout(5000)  # until the notice that the job is finished is gone
        save(page, "quickstart-result")
        left, top = page.evaluate(PLACE, "OptimizeModel")
        page.evaluate(SHOW, [1.1, left - 430, top - 190])
        page.evaluate(SELECT, "OptimizeModel")
        page.page.get_by_test_id("info-button").click()
        page.page.get_by_role("heading", name="Optimize Model", level=1).wait_for()
        page.settle()
        save(page, "quickstart-help")


def memory() -> None:
    """Run a workflow twice beside the sidebar tab, and show both and the probe."""
    with own_page() as page:
        page.page.set_viewport_size({"width": 1140, "height": 800})
        page.use_vue_nodes(False)
        page.load(read_workflow("sprite_optimized"), "sprite_optimized")
        page.evaluate(SHRINK, TINY_SIDE)
        tab = sidebar(page)
        left, top = page.evaluate(PLACE, "MemoryProbe")
        page.evaluate(SHOW, [1.1, left - 560, top - 120])
        for _ in range(2):
            page.run(timeout_s=60 * MINUTES_PER_RUN)
        tab.get_by_label("Show").select_option("last run")
        page.page.mouse.move(720, 20)
        page.page.wait_for_timeout(5000)
        save(page, "memory")


PICTURES = {"quickstart": quickstart, "memory": memory}

if __name__ == "__main__":
    for chosen in sys.argv[1:] or PICTURES:
        PICTURES[chosen]()
