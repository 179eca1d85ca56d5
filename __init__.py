"""Entry point that ComfyUI imports; the node list is in nodes/extension.py."""

import logging

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Return the extension; imported here so that the package also imports without ComfyUI."""
    try:
        from .nodes.extension import FastSpritesExtension
    except Exception:
        logging.getLogger("fast_sprites").exception("The nodes could not be loaded")  # ComfyUI drops the traceback
        raise
    return FastSpritesExtension()
