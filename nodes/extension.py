"""Table of contents: the nodes that the pack registers."""

from comfy_api.latest import ComfyExtension, io

from .batch_sprite_sampler import BatchSpriteSampler
from .engine.memory import run_timeline
from .memory_probe import MemoryProbe
from .optimize_model import OptimizeModel
from .optimize_vae import OptimizeVAE
from .pixel_grid_snap import PixelGridSnap
from .pixel_palette import PixelPalette
from .save_sprites import SaveSprites
from .sprite_background import SpriteBackground
from .sprite_prompts import SpritePrompts
from .sprite_sheet import SpriteSheet


class FastSpritesExtension(ComfyExtension):
    """The pack as ComfyUI sees it."""

    async def on_load(self) -> None:
        """Follow what the memory does in every run."""
        run_timeline.start()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return one class per node."""
        return [
            BatchSpriteSampler,
            SpritePrompts,
            SaveSprites,
            MemoryProbe,
            OptimizeModel,
            OptimizeVAE,
            PixelGridSnap,
            PixelPalette,
            SpriteBackground,
            SpriteSheet,
        ]
