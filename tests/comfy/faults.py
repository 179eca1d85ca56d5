"""Faults put into a whole run of sprites, and what must be so after each of them.

A run is: encode a prompt, optimise MODEL and VAE (eager engine, stand-in graphs), draw three sprites in two micro-batches while they
are decoded and saved. A fault strikes at one operation of torch, counted over the run.
"""

import gc
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from .optimized import package, with_graphs

SEEDS = (11, 12, 13)
STEPS = 2
MICRO_BATCH = 2
MEMORY_SLACK_BYTES = 64 * 1024**2
# Sprites of one micro-batch are rounded together, and after memory ran out they are in another one; of 255.
MAX_DIFFERENCE = 2


class Allocations(TorchDispatchMode):
    """Counts the operations that make a tensor of their own, and calls `strike` before number `at`.

    Without a strike it notes the Python code path of each, as a number that equal paths share.
    """

    def __init__(self, strike: Callable[[], None] | None = None, at: int = -1) -> None:
        super().__init__()
        self.count = 0
        self.code_paths: list[int] = []
        self._strike = strike
        self._at = at

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.returns and all(returned.alias_info is None for returned in func._schema.returns):
            number = self.count
            self.count += 1
            if self._strike is None:
                self.code_paths.append(_code_path())
            elif number == self._at:
                self._strike()
        return func(*args, **(kwargs or {}))


def _code_path() -> int:
    frame: FrameType | None = sys._getframe(2)
    path = []
    while frame is not None:
        path.append((frame.f_code, frame.f_lineno))
        frame = frame.f_back
    return hash(tuple(path))


class Holdings(NamedTuple):
    """What the process holds."""

    threads: frozenset[str]
    num_files: int
    num_graphs: int
    tensor_bytes: int


def holdings() -> Holdings:
    """Count threads, file descriptors, engine objects and the bytes of all tensors that Python can reach."""
    gc.collect()
    storages: dict[int, int] = {}
    num_graphs = 0
    for held in gc.get_objects():
        if type(held).__name__ in ("PreparedWeights", "CapturedForward", "GraphCache", "HeldWeights"):
            num_graphs += 1
        elif issubclass(type(held), torch.Tensor) and held.device.type == "cpu" and held.layout == torch.strided:
            storage = held.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    threads = frozenset(thread.name for thread in threading.enumerate())
    return Holdings(threads, psutil.Process().num_fds(), num_graphs, sum(storages.values()))


class Scene:
    """The graph of a run, and stock's picture that must come out of the same checkpoint afterwards."""

    def __init__(self, comfyui: Any, pack_nodes: dict[str, Any], checkpoint: Any, output: Path) -> None:
        self._comfyui = comfyui
        self._nodes = pack_nodes
        self._checkpoint = checkpoint
        self._output = output
        self._conds = self._encode()
        self._num_runs = 0
        self.place = ""
        """Where the fault strikes, for messages."""
        self.stock = self._draw_stock()
        self.pictures = [self.run().pop(f"s{i + 1:05}_{seed}.png") for i, seed in enumerate(SEEDS)]
        self._draw_stock()
        self.before = holdings()

    def _encode(self) -> tuple[Any, Any]:
        clip = self._checkpoint.clip
        with torch.inference_mode():
            positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("red slime", ""))
        return positive, negative

    def _draw_stock(self) -> torch.Tensor:
        latent = {"samples": torch.zeros(1, 4, 8, 8)}
        with torch.inference_mode():
            drawn = self._comfyui.common_ksampler(
                self._checkpoint.model, 7, STEPS, 5.0, "euler_ancestral", "karras", *self._conds, latent
            )[0]["samples"]
            return self._checkpoint.vae.decode(drawn)

    def _node(self, name: str) -> Any:
        from comfy_api.latest import io

        prompt = {"3": {"class_type": "BatchSpriteSampler", "inputs": {}}}
        return self._nodes[name].PREPARE_CLASS_CLONE({"hidden_inputs": {io.Hidden.unique_id: "3", io.Hidden.prompt: prompt}})

    def run(self, patch: Callable[[Any], None] | None = None) -> dict[str, NDArray[np.uint8]]:
        """Make the run in an empty folder; returns its pictures. Raises what the run raises."""
        folder = self.new_folder()
        run_batch = package(self._nodes, "engine.sprites.run_batch")
        run_batch._remembered = run_batch.RememberedSizes()
        with torch.inference_mode():
            clip = self._checkpoint.clip
            positive, negative, prompts, _ = (
                self._node("SpritePrompts").execute(clip, "red slime", "", "", "", len(SEEDS), "pick", 0).result
            )
            model = with_graphs(self._nodes, self._checkpoint.model)
            if patch is not None:
                patch(model)
            vae = self._optimized_vae()
            stream = self._node("BatchSpriteSampler").execute(
                model=model, positive=positive, negative=negative, count=len(SEEDS), width=64, height=64, seed=SEEDS[0],
                seed_mode="increment", steps=STEPS, cfg=5.0, sampler_name="euler_ancestral", scheduler="karras", denoise=1.0,
                micro_batch=MICRO_BATCH, draw="while saving",
            ).result[3]  # fmt: skip
            self._node("SaveSprites").execute(
                images=None, sprites=stream, vae=vae, prompts=prompts, filename="s%index%_%seed%", format="png"
            )
        return self.saved(folder)

    def _optimized_vae(self) -> Any:
        """OptimizeVAE's decoder in torch, which a plan for a CPU would refuse."""
        run_decode = package(self._nodes, "engine.vae.run_decode")
        plan = package(self._nodes, "engine.vae.plan").VaePlan(
            decoder="eager", precision="fp32", keeps_weights=True, pictures_per_pass=2
        )
        kept = run_decode.KeptDecoder()
        return package(self._nodes, "comfy_adapters.vae").with_decode(
            self._checkpoint.vae, run_decode.SpriteDecoder(plan, kept, lambda _note: None), kept.release
        )

    def new_folder(self) -> Path:
        """Make a new output folder for the next run."""
        import folder_paths

        self._num_runs += 1
        folder = self._output / str(self._num_runs)
        folder.mkdir()
        folder_paths.set_output_directory(str(folder))
        return folder

    @staticmethod
    def saved(folder: Path) -> dict[str, NDArray[np.uint8]]:
        """Every file of the folder by its name; a file that is no whole picture is an error."""
        found = {}
        for path in sorted(folder.iterdir()):
            with Image.open(path) as picture:
                found[path.name] = np.asarray(picture)
        return found

    def check_pictures(self, found: dict[str, NDArray[np.uint8]]) -> None:
        """Assert that what was saved are the first sprites, each with its own picture."""
        for (name, picture), i in zip(found.items(), range(len(SEEDS)), strict=False):
            assert name == f"s{i + 1:05}_{SEEDS[i]}.png"
            difference = np.abs(picture.astype(int) - self.pictures[i]).max()
            assert difference <= MAX_DIFFERENCE, f"{self.place}: {name} differs by {difference}"

    def check_stock(self) -> None:
        """Assert that stock draws and decodes the same bits."""
        import comfy.model_management

        assert not comfy.model_management.processing_interrupted()
        assert torch.equal(self._draw_stock(), self.stock), self.place

    def check_nothing_is_left(self) -> None:
        """Assert that threads, files, graphs and memory are as before all faults; call it once stock has drawn."""
        after = holdings()
        assert after.threads <= self.before.threads, after.threads - self.before.threads
        assert after.num_files <= self.before.num_files, self.place
        assert after.num_graphs <= self.before.num_graphs, self.place
        assert after.tensor_bytes - self.before.tensor_bytes <= MEMORY_SLACK_BYTES, self.place

    def survive(self, expected: tuple[type[BaseException], ...], patch: Callable[[Any], None] | None = None) -> str:
        """Make a run that may end in `expected`, check what it saved, and return how it ended. Everything else is an error."""
        try:
            found = self.run(patch)
        except expected as error:
            ended = type(error).__name__
        else:
            ended = "finished"
            assert len(found) == len(SEEDS)
        self.check_pictures(self.saved(self._output / str(self._num_runs)))
        return ended

    def allocations(self) -> Allocations:
        """Count the allocations of an undisturbed run."""
        with Allocations() as counted:
            self.run()
        return counted
