"""A ComfyUI with the pack and the tiny SDXL, and its page in headless Chromium: load a workflow, run it, read what it shows."""

import copy
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

sys.path.append(str(Path(__file__).resolve().parents[2] / ".ci"))

from dev_tools.pack import pack_module
from dev_tools.workspace import PACK_ROOT, TINY_SDXL, link_folder
from workflow_layouts import CHECKPOINT

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy must not be asked for the loopback interface
WORKFLOW_DIR = PACK_ROOT / "workflows"
SERVER_FLAGS = ("--cpu", "--disable-api-nodes", "--database-url=sqlite:///:memory:")
PAGE_SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False, "Comfy.Graph.CanvasInfo": False}
VIEWPORT: ViewportSize = {"width": 1920, "height": 1080}
TIMEOUT_S = 90.0  # of every wait for a condition: only a failure takes as long, on a busy machine with one core too
CHROMIUM_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
# What ComfyUI's own page logs without a network and on a server without user files.
OFFLINE_NOISE = (
    "ERR_NAME_NOT_RESOLVED",
    "Content Security Policy",  # looking up the sizes of missing models
    "status of 404",
    "ComfyApp graph accessed before initialization",
)


def comfyui_path() -> Path | None:
    """The ComfyUI to run: COMFYUI_PATH, else the one that dev.py prepared."""
    named = os.environ.get("COMFYUI_PATH")
    path = Path(named) if named else PACK_ROOT / ".workspace" / "comfyui"
    return path if (path / "main.py").is_file() else None


def comfyui_server(comfyui: Path, base: Path) -> Any:
    """A ComfyServer, not yet started, on a fresh base directory; the tiny SDXL stands in for the workflows' checkpoint."""
    for name in ("custom_nodes", "models/checkpoints", "input", "output", "user/default"):
        (base / name).mkdir(parents=True)
    link_folder(PACK_ROOT, base / "custom_nodes" / "fast-sprites")
    link_folder(TINY_SDXL / "comfy_extension", base / "custom_nodes" / "fast-sprites-tiny-sdxl")
    (base / "user/default/comfy.settings.json").write_text(json.dumps(PAGE_SETTINGS), encoding="utf-8")
    checkpoint = base / "models" / "checkpoints" / CHECKPOINT
    subprocess.run([sys.executable, TINY_SDXL / "make_checkpoint.py", checkpoint], check=True, stdout=subprocess.DEVNULL)
    server = pack_module("nodes.benchmark.server")
    newer = os.environ.get("COMFYUI_FRONTEND")  # an unpacked comfyui-frontend-package's static/, instead of the installed one
    flags = server.known_flags(comfyui, (*SERVER_FLAGS, *([f"--front-end-root={newer}"] if newer else [])))
    return server.ComfyServer(server.ServerSetup(Path(sys.executable), comfyui, base, base / "server.log", flags))


def chromium_path() -> str | None:
    """The browser's executable: CHROMIUM_PATH, else the system's."""
    return os.environ.get("CHROMIUM_PATH") or shutil.which("chromium") or shutil.which("google-chrome")


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser, closed at the end."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=CHROMIUM_FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def own_page() -> Iterator["ComfyPage"]:
    """A page on a server of its own, for the scripts in this folder."""
    comfyui = comfyui_path()
    if comfyui is None or chromium_path() is None:
        sys.exit("Needs ComfyUI (COMFYUI_PATH, or run `python3 dev.py test` once) and Chromium (CHROMIUM_PATH).")
    with tempfile.TemporaryDirectory() as base, comfyui_server(comfyui, Path(base)) as server, chromium() as browser:
        yield ComfyPage(browser, server.address)


def bundled_workflows() -> list[str]:
    """The names of the files in `workflows/`."""
    return sorted(path.stem for path in WORKFLOW_DIR.glob("*.json"))


def read_workflow(name: str) -> dict[str, Any]:
    """A bundled workflow in UI format."""
    return json.loads((WORKFLOW_DIR / f"{name}.json").read_text(encoding="utf-8"))


def read_api_workflow(name: str) -> dict[str, Any]:
    """A bundled workflow in API format."""
    return json.loads((WORKFLOW_DIR / "api" / f"{name}.json").read_text(encoding="utf-8"))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a workflow as the repository keeps it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def small(workflow: dict[str, Any]) -> dict[str, Any]:
    """The workflow with pictures and step counts that a CPU draws at once."""
    workflow = copy.deepcopy(workflow)
    sizes = {"width": 64, "height": 64, "batch_size": 2, "count": 2, "steps": 1, "native_width": 16, "native_height": 16}
    for node in workflow["nodes"]:
        names = [entry["widget"]["name"] for entry in node.get("inputs", []) if "widget" in entry]
        if "seed" in names:
            names.insert(names.index("seed") + 1, "control_after_generate")
        for index, name in enumerate(names):
            if name in sizes:
                node["widgets_values"][index] = sizes[name]
    return workflow


def get_json(address: str, route: str) -> Any:
    """What the server answers to a GET."""
    with DIRECT.open(f"{address}{route}", timeout=TIMEOUT_S) as response:
        return json.load(response)


def post_json(address: str, route: str, body: Any) -> Any:
    """What the server answers to a POST of JSON, None for an empty answer."""
    request = urllib.request.Request(f"{address}{route}", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with DIRECT.open(request, timeout=TIMEOUT_S) as response:
        text = response.read()
        return json.loads(text) if text else None


class ComfyPage:
    """One tab on a running ComfyUI."""

    def __init__(self, browser: Browser, address: str) -> None:
        self.address = address
        self.page: Page = browser.new_page(viewport=VIEWPORT)
        self.page.set_default_timeout(TIMEOUT_S * 1000)
        self.console: list[str] = []
        self.page.on("console", lambda message: self._heard(message.type, message.text, message.location.get("url", "")))
        self.page.on("pageerror", lambda error: self.console.append(f"exception: {error}"))
        self.page.goto(address)
        self.wait_until_ready()

    def _heard(self, kind: str, text: str, url: str) -> None:
        ours = "/fast-sprites/" in url and not url.endswith("/en.md")  # the page asks for a translated help page first
        if kind == "error" and (ours or not any(noise in text for noise in OFFLINE_NOISE)):
            self.console.append(f"{text} ({url})")

    def wait_until_ready(self) -> None:
        """Wait for the page's first graph: before it, loading another one is overwritten."""
        self.page.wait_for_function("window.app?.extensionManager && window.app.vueAppReady && window.app.canvas?.graph")
        self.page.locator("canvas#graph-canvas").wait_for()

    def evaluate(self, script: str, argument: Any = None) -> Any:
        """Run a JavaScript function in the page."""
        return self.page.evaluate(script, argument)

    def use_vue_nodes(self, enabled: bool) -> None:
        """Choose the renderer: Vue nodes ("Nodes 2.0") or the legacy canvas."""
        self.evaluate("enabled => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', enabled)", enabled)
        self.settle()

    def load(self, workflow: dict[str, Any], name: str = "test") -> None:
        """Open a workflow in UI format and fit it into the window."""
        self.evaluate("([workflow, name]) => app.loadGraphData(workflow, true, true, name)", [workflow, name])
        self.settle()
        self.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")
        self.settle()

    def place_alone(self, kind: str, y: int = 200) -> None:
        """Open an empty workflow with a new node, placed as the page's own node search does, at its normal size, `y` below the top."""
        self.evaluate(
            """async ([kind, y]) => {
                await app.loadGraphData({nodes: [], links: [], groups: [], config: {}, extra: {}, version: 0.4}, true, true, kind);
                const node = LiteGraph.createNode(kind);
                node.pos = [500, y];
                app.canvas.graph.add(node);
                app.canvas.ds.scale = 1;
                app.canvas.ds.offset = [0, 0];
                app.canvas.setDirty(true, true);
            }""",
            [kind, y],
        )
        self.settle()

    def settle(self) -> None:
        """Give the page two drawn frames, the time that its fit animation takes, and two frames that show its end."""
        two_frames = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        self.evaluate(two_frames)
        self.page.wait_for_timeout(300)
        self.evaluate(two_frames)

    def eventually(self, condition: Callable[[], Any], timeout_s: float = TIMEOUT_S) -> bool:
        """Whether the condition holds now or comes to hold in time, while the page goes on."""
        deadline = time.monotonic() + timeout_s
        while not (holds := bool(condition())) and time.monotonic() < deadline:
            self.page.wait_for_timeout(50)
        return holds

    def api_prompt(self) -> dict[str, Any]:
        """The open workflow in API format, by the page's own conversion."""
        return self.evaluate("async () => (await app.graphToPrompt()).output")

    def serialized(self) -> dict[str, Any]:
        """The open workflow in UI format, as the page saves it."""
        return json.loads(self.evaluate("() => JSON.stringify(app.rootGraph.serialize())"))

    def run(self, timeout_s: float = 2 * TIMEOUT_S) -> None:
        """Press Run and wait until the prompt has ended and the server has filed it; raises if it fails."""
        outcome = self.evaluate(
            """timeout => new Promise(done => {
                const events = {execution_success: "success", execution_error: "error", execution_interrupted: "interrupted"};
                for (const [event, outcome] of Object.entries(events))
                    app.api.addEventListener(event, ({detail}) =>
                        done(outcome === "success" ? "success" : JSON.stringify(detail)), {once: true});
                setTimeout(() => done("no end in time"), timeout);
                app.queuePrompt(0).then(queued => queued || done("not queued"));
            })""",
            timeout_s * 1000,
        )
        assert outcome == "success", outcome
        assert self.eventually(
            lambda: not any(get_json(self.address, "/queue").values())
        )  # the page hears of the end before it is filed

    def reports(self) -> dict[str, str]:
        """What the visible nodes show in their report, by node title."""
        return self.evaluate(
            """() => Object.fromEntries(app.canvas.graph.nodes.flatMap(node => {
                const widget = node.widgets?.find(widget => widget.name === "report");
                return widget?.element?.checkVisibility() ? [[node.title, widget.element.shadowRoot.textContent]] : [];
            }))"""
        )

    def graph_box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the drawn groups and nodes in the window, in pixels."""
        return self.evaluate(
            """() => {
                const { scale, offset } = app.canvas.ds;
                const boxes = [...app.canvas.graph.nodes, ...app.canvas.graph.groups].map(item => [...item.boundingRect]);
                const place = (position, axis) => (position + offset[axis]) * scale;
                return [
                    place(Math.min(...boxes.map(box => box[0])), 0), place(Math.min(...boxes.map(box => box[1])), 1),
                    place(Math.max(...boxes.map(box => box[0] + box[2])), 0), place(Math.max(...boxes.map(box => box[1] + box[3])), 1),
                ];
            }"""
        )

    def screenshot(self, path: Path) -> Path:
        """Save the window as a PNG."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path)
        return path

    def close(self) -> None:
        """Close the tab."""
        self.page.close()
