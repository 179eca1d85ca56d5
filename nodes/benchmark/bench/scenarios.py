"""What is measured: scenarios and sides as data, and the graphs that they stand for."""

import copy
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...engine.errors import BadInputError
from ..pack import WORKFLOWS
from . import graphs
from .graphs import Graph, OutputTypes, Widgets

BATCHES = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Side:
    """One way to draw a scenario: `model` and `vae` are the optimisers' inputs that differ from their defaults, None without the node."""

    name: str
    title: str
    model: Widgets | None = None
    vae: Widgets | None = None
    lossy: bool = False

    @property
    def is_stock(self) -> bool:
        """Tell whether it draws without optimisers."""
        return self.model is None and self.vae is None


STOCK = Side("stock", "ComfyUI's own nodes")
OURS = Side("ours", "Optimize Model and Optimize VAE on auto", {}, {})
ALONE = Side("alone", "ComfyUI's own nodes, one picture")

_EAGER = {"engine": "eager", "attention": "sdpa"}
_FAST = {"engine": "auto", "attention": "sdpa"}
# Each rung keeps what the rungs above it added.
LADDER = (
    STOCK,
    Side("vae", "+ Optimize VAE", None, {}),
    Side("eager", "+ one pass over the UNet on torch's kernels, CUDA graph", _EAGER, {}),
    Side("kernels", "+ Triton kernels", _FAST, {}),
    Side("attention", "+ attention on auto (cuDNN on Hopper)", {}, {}),
    Side("autotune", "+ cuDNN autotune", {"cudnn_autotune": "on"}, {}),
    Side("accumulation", "+ fp16 accumulation", {"cudnn_autotune": "on", "fp16_accumulation": "on"}, {}, lossy=True),
    Side("fp8", "+ FP8 linears", {"cudnn_autotune": "on", "fp16_accumulation": "on", "precision": "fp8"}, {}, lossy=True),
)


@dataclass(frozen=True)
class Scenario:
    """One picture-making job: a bundled workflow with widget values by class, and what is added to its graph.

    `own_workflow` is what the optimised sides draw instead, whose pictures have the seeds `seed`, `seed` + 1 and so on; they are
    compared with stock's of `alone_workflow`, which draws one.
    """

    name: str
    title: str
    workflow: str
    inputs: Mapping[str, Widgets] = field(default_factory=dict[str, Widgets])
    adds: str = ""  # "hires", "lora" or "controlnet"
    num_pictures: int = 0  # where it is not the number of files that are saved
    own_workflow: str = ""
    alone_workflow: str = ""
    streamed: bool = False  # our sides decode and save sprites while the next ones are drawn


def _batch(size: int) -> Scenario:
    return Scenario(f"batch{size}", f"batch of {size}", "baseline_batch", {"EmptyLatentImage": {"batch_size": size}})


def _sprites(size: int) -> Scenario:
    widgets = {"EmptyLatentImage": {"batch_size": size}, "BatchSpriteSampler": {"count": size}}
    title = f"batch of {size}, ours by Batch Sprite Sampler with a seed for each (likeness to each drawn alone)"
    return Scenario(
        f"sprites{size}", title, "baseline_batch", widgets, own_workflow="batch_optimized", alone_workflow="baseline_single"
    )


def _files(size: int) -> Scenario:
    sprites = _sprites(size)
    title = f"{size} sprites to files, ours saved by Save Sprites while the next are drawn (likeness to each drawn alone)"
    return dataclasses.replace(sprites, name=f"files{size}", title=title, streamed=True)


def _sampler(name: str, scheduler: str) -> Scenario:
    widgets = {"KSampler": {"sampler_name": name, "scheduler": scheduler}}
    return Scenario(f"sampler-{name}", f"one sprite, {name} / {scheduler}", "baseline_single", widgets)


SCENARIOS = (
    Scenario("single", "one sprite", "baseline_single"),
    *(_batch(size) for size in BATCHES),
    _sprites(8),
    _sprites(32),
    _files(8),
    _files(32),
    Scenario("pixel-art", "eight sprites to a pixel-art sheet", "pixel_art_workflow", num_pictures=8),
    Scenario("hires", "one sprite drawn again at 1.5 times its size", "baseline_single", adds="hires"),
    Scenario("lora", "one sprite with a LoRA", "baseline_single", adds="lora"),
    Scenario("controlnet", "one sprite with a ControlNet", "baseline_single", adds="controlnet"),
    _sampler("euler", "normal"),
    _sampler("dpmpp_2m", "karras"),
    _sampler("dpmpp_2m_sde", "karras"),
    _sampler("dpmpp_3m_sde", "exponential"),
    _sampler("lcm", "sgm_uniform"),
)


def find_scenarios(names: Sequence[str]) -> list[Scenario]:
    """The scenarios of these names; raises BadInputError for an unknown one."""
    known = {scenario.name: scenario for scenario in SCENARIOS}
    for name in names:
        if name not in known:
            raise BadInputError(f"There is no scenario {name!r}: choose from {', '.join(known)}.")
    return [known[name] for name in names]


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What the user chose for every scenario; None leaves the workflow's own value."""

    checkpoint: str | None = None
    lora: str | None = None
    controlnet: str | None = None
    size: int | None = None
    steps: int | None = None
    cfg: float | None = None

    def widgets(self) -> dict[str, Any]:
        """The widget values that these choices stand for."""
        values = {"ckpt_name": self.checkpoint, "width": self.size, "height": self.size, "steps": self.steps, "cfg": self.cfg}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class SideGraph:
    """The prompt of one side: `graph` draws; `resting` are the other sides' nodes whose results ComfyUI shall keep meanwhile.

    `alone`, where there is one, draws the picture of one seed on ComfyUI's own nodes: what this side's pictures are compared with.
    """

    side: Side
    graph: Graph
    resting: Graph
    alone: "SideGraph | None" = None

    def prompt(self, seed: int, prefix: str) -> Graph:
        """What is queued: every seed is `seed`, pictures are saved under `prefix`."""
        drawn = graphs.with_widgets(graphs.with_seed(self.graph, seed), {"filename_prefix": prefix})
        # By class: other nodes load what they call their filename.
        drawn = graphs.with_inputs(drawn, {"SaveSprites": {"filename": f"{prefix}_%index%"}})
        for node_id in graphs.seed_nodes(drawn):
            # ComfyUI ignores an input that a node does not declare, but counts it when it looks for a cached result
            # (comfy_execution/caching.py, get_immediate_node_signature): else a side would get the samples of one with the same model.
            drawn[node_id]["inputs"]["bench_side"] = self.side.name
        return {**self.resting, **drawn}


def workflow_hash(graph: Graph) -> str:
    """SHA-256 of a graph without titles, so that equal work has equal hashes."""
    plain = {node_id: {"class_type": node["class_type"], "inputs": node["inputs"]} for node_id, node in graph.items()}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class StockGraphs:
    """A scenario without optimisers: what stock draws, what the other sides are made from, and one of its pictures alone."""

    stock: Graph
    own: Graph
    alone: Graph | None = None


def base_graphs(scenario: Scenario, choices: Choices, output_types: OutputTypes) -> StockGraphs:
    """The graphs of a bundled scenario; raises BadInputError if it needs a file that was not named."""

    def read(name: str) -> Graph:
        return graphs.with_inputs(graphs.read_graph(WORKFLOWS / f"{name}.json"), scenario.inputs)

    stock = stock_graph(_ADD[scenario.adds](read(scenario.workflow), choices, output_types), choices)
    if not scenario.own_workflow:
        return StockGraphs(stock, stock)
    own = stock_graph(read(scenario.own_workflow), choices)
    if scenario.streamed:
        own = _saved_while_drawing(own)
    alone = stock_graph(graphs.read_graph(WORKFLOWS / f"{scenario.alone_workflow}.json"), choices)
    return StockGraphs(stock, graphs.with_ids(own, {node_id: f"own-{node_id}" for node_id in own}), alone)


def _saved_while_drawing(graph: Graph) -> Graph:
    """The graph with Save Sprites in the place of the nodes that decode and save a finished batch."""
    classes = {node["class_type"]: node_id for node_id, node in graph.items()}
    sampler = classes["BatchSpriteSampler"]
    vae = graph[classes["VAEDecode"]]["inputs"]["vae"]
    streamed = {node_id: node for node_id, node in graph.items() if node["class_type"] not in ("VAEDecode", "SaveImage")}
    streamed[sampler]["inputs"]["draw"] = "while saving"
    inputs = {"sprites": [sampler, 3], "vae": vae, "filename": "", "format": "png", "first_index": 1}
    return {**streamed, "bench-files": {"class_type": "SaveSprites", "inputs": inputs}}


def stock_graph(graph: Graph, choices: Choices) -> Graph:
    """Any graph without our optimisers and probes, with the user's choices; raises BadInputError if it has no seed."""
    stock = graphs.with_own_seeds(graphs.without_pass_through(graph, graphs.PASS_THROUGH))
    if not graphs.seed_nodes(stock):
        raise BadInputError(
            "No node of the workflow has a seed, so every run would come from ComfyUI's cache: measure one that samples."
        )
    names = {name for node in stock.values() for name in node["inputs"] if graphs.is_widget(node, name)}
    unused = sorted(set(choices.widgets()) - names)
    if unused:
        raise BadInputError(f"No node of the workflow has {unused[0]} as a widget: leave out the option that sets it.")
    return graphs.with_widgets(stock, choices.widgets())


def side_graphs(
    base: StockGraphs, sides: Sequence[Side], output_types: OutputTypes, defaults: Mapping[str, Widgets]
) -> list[SideGraph]:
    """The prompts of all sides of one scenario; `defaults` are the optimisers' widget values."""
    drawn = [base.stock if side.is_stock else _optimized(base.own, side, output_types, defaults) for side in sides]
    kept: Graph = {}
    for graph in drawn:
        kept |= graphs.resting_nodes(graph)

    def keeping(side: Side, graph: Graph, alone: SideGraph | None = None) -> SideGraph:
        return SideGraph(side, graph, {node_id: node for node_id, node in kept.items() if node_id not in graph}, alone)

    alone = keeping(ALONE, base.alone) if base.alone else None
    return [keeping(side, graph, None if side.is_stock else alone) for side, graph in zip(sides, drawn, strict=True)]


def _optimized(stock: Graph, side: Side, output_types: OutputTypes, defaults: Mapping[str, Widgets]) -> Graph:
    graph = copy.deepcopy(stock)
    inserted: set[str] = set()
    for class_type, kind, widgets in (("OptimizeModel", "MODEL", side.model), ("OptimizeVAE", "VAE", side.vae)):
        if widgets is None:
            continue
        unknown = sorted(set(widgets) - set(defaults[class_type]))
        if unknown:
            raise BadInputError(f"{class_type} has no input {unknown[0]!r}: choose from {', '.join(defaults[class_type])}.")
        given = graphs.OPTIMIZERS[class_type]
        for number, source in enumerate(graphs.sources_of(stock, kind, output_types)):
            node_id = f"{side.name}-{given}-{number}"
            if graphs.insert_after(graph, source, node_id, class_type, {**defaults[class_type], **widgets, given: None}):
                inserted.add(node_id)
        if not inserted:
            raise BadInputError(f"{class_type} has no place in the workflow: none of its nodes reads a {kind} from a loader.")
    # What hangs on an optimiser and rests (a LoRA's loader) needs an id of its own, or the sides would drive each other's results
    # out of ComfyUI's cache.
    own = {node_id for node_id in graphs.resting_nodes(graph) if graphs.upstream(graph, [node_id]) & inserted} - inserted
    return graphs.with_ids(graph, {node_id: f"{side.name}-{node_id}" for node_id in own})


def _add_nothing(graph: Graph, _choices: Choices, _output_types: OutputTypes) -> Graph:
    return graph


def _add_lora(graph: Graph, choices: Choices, output_types: OutputTypes) -> Graph:
    if choices.lora is None:
        raise BadInputError("The scenario lora needs a file: name one that the server has with --lora.")
    model, clip = (graphs.sources_of(graph, kind, output_types)[0] for kind in ("MODEL", "CLIP"))
    graphs.rewire(graph, model, ("bench-lora", 0))
    graphs.rewire(graph, clip, ("bench-lora", 1))
    widgets = {"lora_name": choices.lora, "strength_model": 1.0, "strength_clip": 1.0}
    graph["bench-lora"] = {"class_type": "LoraLoader", "inputs": {**widgets, "model": list(model), "clip": list(clip)}}
    return graph


def _add_controlnet(graph: Graph, choices: Choices, _output_types: OutputTypes) -> Graph:
    if choices.controlnet is None:
        raise BadInputError("The scenario controlnet needs a file: name one that the server has with --controlnet.")
    sampler_id = graphs.seed_nodes(graph)[0]
    sampler = graph[sampler_id]["inputs"]
    latent = graph[sampler["latent_image"][0]]["inputs"]
    graph["bench-hint"] = {
        "class_type": "EmptyImage",
        "inputs": {"width": latent["width"], "height": latent["height"], "batch_size": 1, "color": 0x808080},
    }
    graph["bench-controlnet"] = {"class_type": "ControlNetLoader", "inputs": {"control_net_name": choices.controlnet}}
    graph["bench-control"] = {
        "class_type": "ControlNetApplyAdvanced",
        "inputs": {
            "positive": sampler["positive"],
            "negative": sampler["negative"],
            "control_net": ["bench-controlnet", 0],
            "image": ["bench-hint", 0],
            "strength": 0.8,
            "start_percent": 0.0,
            "end_percent": 1.0,
        },
    }
    sampler["positive"], sampler["negative"] = ["bench-control", 0], ["bench-control", 1]
    return graph


def _add_hires(graph: Graph, _choices: Choices, _output_types: OutputTypes) -> Graph:
    sampler_id = graphs.seed_nodes(graph)[0]
    second = copy.deepcopy(graph[sampler_id])
    graphs.rewire(graph, (sampler_id, 0), ("bench-hires", 0))
    graph["bench-larger"] = {
        "class_type": "LatentUpscaleBy",
        "inputs": {"samples": [sampler_id, 0], "upscale_method": "bislerp", "scale_by": 1.5},
    }
    second["inputs"] |= {"latent_image": ["bench-larger", 0], "denoise": 0.5}
    graph["bench-hires"] = second
    return graph


_ADD = {"": _add_nothing, "lora": _add_lora, "controlnet": _add_controlnet, "hires": _add_hires}
