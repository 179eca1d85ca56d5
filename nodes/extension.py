"""Table of contents: the nodes that the pack registers."""

from comfy_api.latest import ComfyExtension, io

from .optimize_model import OptimizeModel
from .optimize_vae import OptimizeVAE


class FastSpritesExtension(ComfyExtension):
    """The pack as ComfyUI sees it."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return one class per node, in the order of docs/nodes.md."""
        return [
            OptimizeModel,
            OptimizeVAE,
        ]
