"""Memory that outlives a run, in ComfyUI's list of loaded models, so that ComfyUI asks for it as it asks for a model's.

ComfyUI has no callback for memory that is no model's (Comfy-Org/ComfyUI#11283), and DynamicVRAM takes back nothing but its own pages. What
it does before every load is the same in both modes, though: `free_memory` goes through that list, without DynamicVRAM for as much as is
missing, with it for what all dynamic models could not give up together.
"""

import functools
import weakref
from collections.abc import Callable
from typing import Any

import torch

from .internals import optional
from .model_patcher import on_detach
from .weights import loads_on_demand

management = optional("comfy.model_management")
model_patcher = optional("comfy.model_patcher")


@functools.cache
def _patcher_class() -> Any:
    class KeptMemoryPatcher(model_patcher.ModelPatcher):
        """Has no weights: it comes and goes as a whole, and nothing of it is ever loaded by ComfyUI."""

        def partially_load(self, *_args: Any, **_options: Any) -> int:
            return 0

        def partially_unload(self, *_args: Any, **_options: Any) -> int:
            return 0

    return KeptMemoryPatcher


@functools.cache
def _module_class(name: str) -> type[torch.nn.Module]:
    return type(name, (torch.nn.Module,), {})


class KeptMemory:
    """One entry of the list, under `name`; `release` is called when ComfyUI wants the memory, and must be a method of the owner.

    The owner offers what it keeps while it does not use it, and withdraws that while it does: nothing is taken away then.
    """

    def __init__(self, name: str, release: Callable[[], None]):
        self._name = name
        self._release = weakref.WeakMethod(release)
        self._patcher: Any = None

    def offer(self, owner: Any, nbytes: int) -> None:
        """Put `nbytes`, on the device of the ModelPatcher `owner`, at the head of the list; 0 puts nothing there."""
        self.withdraw()
        if not nbytes:
            return
        module: Any = _module_class(self._name)()
        module.device = owner.load_device
        # ComfyUI asks in the order of how much of a model is offloaded, the most first. Under DynamicVRAM one byte less than nothing puts
        # this behind every dynamic model: those count as free, and losing pages costs them less than a capture costs us.
        module.model_loaded_weight_memory = nbytes + loads_on_demand(owner, owner.load_device)
        self._patcher = _patcher_class()(module, owner.load_device, owner.offload_device, size=nbytes)
        release = self._release

        def detached(unpatch_all: bool) -> None:
            if unpatch_all and (still_there := release()) is not None:  # without, it is the patcher's own end
                still_there()

        on_detach(self._patcher, detached)
        loaded = management.LoadedModel(self._patcher)
        loaded.model_load()
        management.current_loaded_models.insert(0, loaded)

    @property
    def is_offered(self) -> bool:
        """Tell whether ComfyUI can ask for the memory now."""
        return self._patcher is not None and self._patcher.size > 0

    def withdraw(self) -> None:
        """Take the entry off the list; never from a callback of ComfyUI's, which goes through it by index."""
        if self._patcher is None:
            return
        for index, loaded in enumerate(management.current_loaded_models):
            if loaded.model is self._patcher:
                management.current_loaded_models.pop(index)
                loaded.model_finalizer.detach()
                break
        self._patcher = None

    def empty(self) -> None:
        """Say that nothing is kept any more; the entry itself stays, so that a callback of ComfyUI's may do so too."""
        if self._patcher is not None:
            self._patcher.size = self._patcher.model.model_loaded_weight_memory = 0
