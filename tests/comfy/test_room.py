"""Whether the engine has room on an 8 GiB card, with ComfyUI's own figures of one that has SDXL's text encoders on it."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from .optimized import package

GIB = 1024**3
CUDA = torch.device("cuda", 0)
UNET_GIB = 4.78
EXTRA_GIB = 0.25
STEP_GIB = 0.512  # ComfyUI's estimate of a prompt and a negative prompt at 1024 x 1024


class Card:
    """What ComfyUI reads off the card; the sizes are in GiB."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        import comfy.memory_management
        import comfy.model_management
        import comfy_aimdo.model_vbar

        self.unused = self.pages_of_others = self.pages_of_unet = 0.0
        monkeypatch.setattr(comfy.memory_management, "aimdo_enabled", True)
        monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda device: self.unused * GIB)
        monkeypatch.setattr(
            comfy_aimdo.model_vbar, "vbars_analyze", lambda device: (self.pages_of_others + self.pages_of_unet) * GIB
        )

    def loaded_size(self) -> float:
        """Answer for the UNet's ModelVBAR."""
        return self.pages_of_unet * GIB


@pytest.fixture
def card(comfyui: Any, monkeypatch: pytest.MonkeyPatch) -> Card:
    return Card(monkeypatch)


@pytest.fixture
def unet(card: Card) -> Any:
    """SDXL's patcher under DynamicVRAM, as far as its sizes go."""
    from comfy.model_patcher import ModelPatcherDynamic

    pins = dict.fromkeys(("weights", "patches", "weights-loaded", "patches-loaded"), (None, [], [-1], [0]))
    model = SimpleNamespace(
        device=CUDA, model_loaded_weight_memory=0, dynamic_vbars={CUDA: card}, dynamic_pins={CUDA: pins},
        memory_required=lambda input_shape: STEP_GIB * GIB,
    )  # fmt: skip
    return ModelPatcherDynamic(model, CUDA, torch.device("cpu"), size=int(UNET_GIB * GIB))


def ask(pack_nodes: dict[str, Any], patcher: Any) -> None:
    x = SimpleNamespace(device=CUDA, shape=torch.Size((2, 4, 128, 128)))
    package(pack_nodes, "comfy_adapters.weights").require_room(patcher, x, int(EXTRA_GIB * GIB))


@pytest.mark.parametrize(("unused", "pages_of_unet"), [(5.9, 0.0), (1.1, 4.78)])
def test_pages_that_can_be_taken_back_are_room(pack_nodes, card, unet, unused, pages_of_unet):
    card.unused, card.pages_of_others, card.pages_of_unet = unused, 1.6, pages_of_unet
    ask(pack_nodes, unet)


def test_too_little_is_refused_with_what_is_there_and_what_is_needed(pack_nodes, card, unet):
    card.unused, card.pages_of_others, card.pages_of_unet = 0.2, 1.6, 3.5
    error = package(pack_nodes, "comfy_adapters.weights").NotResidentError
    with pytest.raises(error, match=r"^5\.3 GiB are free and 5\.5 GiB would be needed$"):
        ask(pack_nodes, unet)


def test_without_dynamicvram_what_is_loaded_is_not_asked_for_again(pack_nodes, card, comfyui):
    from comfy.model_patcher import ModelPatcher

    model = SimpleNamespace(device=CUDA, model_loaded_weight_memory=4 * GIB, memory_required=lambda input_shape: STEP_GIB * GIB)
    patcher = ModelPatcher(model, CUDA, torch.device("cpu"), size=int(UNET_GIB * GIB))
    card.unused = 1.6
    ask(pack_nodes, patcher)
    card.unused = 1.5
    with pytest.raises(package(pack_nodes, "comfy_adapters.weights").NotResidentError, match=r"^1\.5 GiB .* 1\.5 GiB would"):
        ask(pack_nodes, patcher)
