"""A node that takes a known time: what the benchmark has to find."""

import time


class PlantedDelay:
    """Passes a latent on after sleeping."""

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "run"
    CATEGORY = "testing"

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"samples": ("LATENT",), "seconds": ("FLOAT", {"default": 0.5})}}

    def run(self, samples, seconds):
        time.sleep(seconds)
        return (samples,)


NODE_CLASS_MAPPINGS = {"PlantedDelay": PlantedDelay}
