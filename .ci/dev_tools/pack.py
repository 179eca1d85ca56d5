"""Loads the pack as ComfyUI does, so that its relative imports work, under the name `fast_sprites`."""

import importlib
import importlib.util
import sys
from types import ModuleType

from dev_tools.workspace import PACK_ROOT


def pack_module(name: str) -> ModuleType:
    """A module of the pack, named from its root: `nodes.benchmark.server`."""
    if "fast_sprites" not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            "fast_sprites", PACK_ROOT / "__init__.py", submodule_search_locations=[str(PACK_ROOT)]
        )
        assert spec is not None
        assert spec.loader is not None
        pack = importlib.util.module_from_spec(spec)
        sys.modules["fast_sprites"] = pack
        spec.loader.exec_module(pack)
    return importlib.import_module(f"fast_sprites.{name}")
