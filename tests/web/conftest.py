"""ComfyUI on the CPU with the pack and the tiny SDXL, and its page in headless Chromium."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent))  # the scripts in this folder are modules of the tests

pytest.importorskip("playwright", reason="playwright is not installed: run `python3 dev.py test`", exc_type=ImportError)

from comfy_page import ComfyPage, chromium, chromium_path, comfyui_path, comfyui_server
from playwright.sync_api import Browser

SCREENSHOTS = Path(__file__).resolve().parent / "screenshots"
renderers = pytest.mark.parametrize("vue_nodes", [False, True], ids=["legacy", "vue"])


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    comfyui = comfyui_path()
    if comfyui is None:
        pytest.skip("ComfyUI not found: run `python3 dev.py test`, or set COMFYUI_PATH to a ComfyUI checkout")
    if chromium_path() is None:
        pytest.skip("Chromium not found: install it from the system's package manager, or set CHROMIUM_PATH")
    with comfyui_server(comfyui, tmp_path_factory.mktemp("web") / "base") as server:
        yield server.address


@pytest.fixture(scope="session")
def browser(address: str) -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="session")
def shared_page(browser: Browser, address: str) -> ComfyPage:
    """One tab for all tests that leave nothing behind but an open workflow."""
    return ComfyPage(browser, address)


@pytest.fixture
def page(shared_page: ComfyPage) -> Iterator[ComfyPage]:
    """The shared tab; the test fails if the page complained meanwhile."""
    shared_page.console.clear()
    shared_page.use_vue_nodes(False)
    yield shared_page
    assert shared_page.console == []


@pytest.fixture
def fresh(browser: Browser, address: str) -> Iterator[ComfyPage]:
    """A tab of its own; the test fails if it complained."""
    page = ComfyPage(browser, address)
    yield page
    assert page.console == []
    page.close()
