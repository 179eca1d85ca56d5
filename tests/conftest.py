"""Loads the pack as ComfyUI does, under the alias `fast_sprites`, and finds the ComfyUI that the tiers use."""

import importlib.util
import os
import signal
import sys
from pathlib import Path

import pytest

PACK_ROOT = Path(__file__).resolve().parent.parent
# `python -m pytest` puts the pack's root first on sys.path, where its `nodes` folder would hide ComfyUI's nodes.py.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != PACK_ROOT]


def _load_pack() -> None:
    spec = importlib.util.spec_from_file_location(
        "fast_sprites", PACK_ROOT / "__init__.py", submodule_search_locations=[str(PACK_ROOT)]
    )
    assert spec is not None
    assert spec.loader is not None
    pack = importlib.util.module_from_spec(spec)
    sys.modules["fast_sprites"] = pack
    spec.loader.exec_module(pack)


_load_pack()
# A shell's background job ignores Ctrl-C, and so would every program that a test sends it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def comfyui_path() -> Path | None:
    """The ComfyUI checkout that the tests use: COMFYUI_PATH, else the one that dev.py prepared."""
    named = os.environ.get("COMFYUI_PATH")
    path = Path(named) if named else PACK_ROOT / ".workspace" / "comfyui"
    return path if (path / "main.py").is_file() else None


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer to write the frozen node surface anew, and to kill more servers."""
    parser.addoption("--kills", type=int, default=4, metavar="N", help="of ComfyUI and generate, in tests/server/test_kills.py")
    parser.addoption(
        "--rounds",
        type=int,
        default=0,
        metavar="N",
        help="batches on a killed cluster, tests/server/test_cluster.py (default: none)",
    )
    parser.addoption(
        "--fuzz",
        type=int,
        default=0,
        metavar="N",
        help="random hostile inputs for each fuzzed property (default: the same 50 each time)",
    )
    parser.addoption("--sprites", type=int, default=64, metavar="N", help="sprites in each of these batches")
    parser.addoption("--update-node-surface", action="store_true", help="write tests/comfy/node_surface.json anew")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run tests/web last: Playwright's loop stays in the thread to the session's end, and asyncio.run() refuses to run beside it."""
    items.sort(key=lambda item: PACK_ROOT / "tests" / "web" in item.path.parents)


def pytest_configure(config: pytest.Config) -> None:
    """Fuzz with the same few inputs in every check, and with many new ones where `--fuzz` asks for them."""
    if importlib.util.find_spec("hypothesis") is None:
        return
    from hypothesis import HealthCheck, settings

    count = int(config.getoption("--fuzz") or 0)
    slow_is_fine = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
    settings.register_profile(
        "fast-sprites",
        max_examples=count or 50,
        derandomize=not count,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=slow_is_fine,
    )
    settings.load_profile("fast-sprites")
