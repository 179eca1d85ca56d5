"""Stock and optimised prompts made from bundled workflows and from people's own."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from fast_sprites.nodes.benchmark.bench import graphs
from fast_sprites.nodes.benchmark.bench.graphs import Graph
from fast_sprites.nodes.benchmark.bench.scenarios import (
    ALONE,
    LADDER,
    OURS,
    SCENARIOS,
    STOCK,
    WORKFLOWS,
    Choices,
    Side,
    StockGraphs,
    base_graphs,
    find_scenarios,
    side_graphs,
    stock_graph,
    workflow_hash,
)
from fast_sprites.nodes.engine.errors import BadInputError

OUTPUT_TYPES = {
    "CheckpointLoaderSimple": ["MODEL", "CLIP", "VAE"],
    "UNETLoader": ["MODEL"],
    "DualCLIPLoader": ["CLIP"],
    "VAELoader": ["VAE"],
    "LoraLoader": ["MODEL", "CLIP"],
    "ModelSamplingDiscrete": ["MODEL"],
    "CLIPTextEncode": ["CONDITIONING"],
    "ControlNetLoader": ["CONTROL_NET"],
    "ControlNetApplyAdvanced": ["CONDITIONING", "CONDITIONING"],
    "EmptyImage": ["IMAGE"],
    "EmptyLatentImage": ["LATENT"],
    "LatentUpscaleBy": ["LATENT"],
    "KSampler": ["LATENT"],
    "BatchSpriteSampler": ["LATENT", "SPRITE_SEEDS", "STRING", "SPRITE_STREAM"],
    "SaveSprites": ["IMAGE", "STRING"],
    "VAEDecode": ["IMAGE"],
    "SaveImage": [],
}
DEFAULTS = {
    "OptimizeModel": dict.fromkeys(("engine", "precision", "attention", "cudnn_autotune", "fp16_accumulation"), "auto"),
    "OptimizeVAE": {"precision": "auto"},
}
CHOICES = Choices(
    checkpoint="mine.safetensors", lora="pixel.safetensors", controlnet="canny.safetensors", size=512, steps=7, cfg=3.5
)


def nodes_of(graph: Graph, class_type: str) -> list[dict[str, Any]]:
    return [node for node in graph.values() if node["class_type"] == class_type]


def assert_whole(graph: Graph) -> None:
    """Every link leads to a node."""
    for node in graph.values():
        for link in graphs.links_of(node).values():
            assert link[0] in graph, (node, link)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_every_scenario_has_a_stock_and_an_optimised_prompt(scenario: Any):
    base = base_graphs(scenario, CHOICES, OUTPUT_TYPES)
    stock = base.stock
    assert_whole(stock)
    assert not {node["class_type"] for node in stock.values()} & set(graphs.PASS_THROUGH)
    (loader,) = nodes_of(stock, "CheckpointLoaderSimple")
    assert loader["inputs"]["ckpt_name"] == "mine.safetensors"
    samplers = [stock[node_id] for node_id in graphs.seed_nodes(stock)]
    assert samplers
    assert all(sampler["inputs"]["steps"] == 7 and sampler["inputs"]["cfg"] == 3.5 for sampler in samplers)

    plain, ours = side_graphs(base, (STOCK, OURS), OUTPUT_TYPES, DEFAULTS)
    assert plain.graph == stock
    assert_whole(ours.graph)
    assert {node["class_type"] for node in ours.graph.values()} - {node["class_type"] for node in base.own.values()} == {
        "OptimizeModel",
        "OptimizeVAE",
    }
    (model,), (vae,) = nodes_of(ours.graph, "OptimizeModel"), nodes_of(ours.graph, "OptimizeVAE")
    assert ours.graph[model["inputs"]["model"][0]]["class_type"] == "CheckpointLoaderSimple"
    assert vae["inputs"] == {"precision": "auto", "vae": [model["inputs"]["model"][0], 2]}
    read_by = {
        ours.graph[link[0]]["class_type"]
        for class_type, name in (("VAEDecode", "vae"), ("KSampler", "model"), ("LoraLoader", "model"))
        for node in nodes_of(ours.graph, class_type)
        for link in [node["inputs"][name]]
    }
    assert "CheckpointLoaderSimple" not in read_by


def test_scenarios_have_names_of_their_own():
    names = [scenario.name for scenario in SCENARIOS]
    assert len(set(names)) == len(names)
    assert {f"batch{size}" for size in (1, 2, 4, 8, 16, 32)} <= set(names)
    with pytest.raises(BadInputError, match=r"no scenario 'batch3': choose from single, batch1"):
        find_scenarios(["single", "batch3"])


def test_the_batch_is_what_the_name_says():
    for size in (1, 32):
        (scenario,) = find_scenarios([f"batch{size}"])
        (latent,) = nodes_of(base_graphs(scenario, CHOICES, OUTPUT_TYPES).stock, "EmptyLatentImage")
        assert latent["inputs"] == {"width": 512, "height": 512, "batch_size": size}


def test_hires_draws_twice_and_decodes_the_second():
    (scenario,) = find_scenarios(["hires"])
    base = base_graphs(scenario, CHOICES, OUTPUT_TYPES)
    graph = base.stock
    (decode,) = nodes_of(graph, "VAEDecode")
    second = graph[decode["inputs"]["samples"][0]]
    assert second["inputs"]["denoise"] == 0.5
    larger = graph[second["inputs"]["latent_image"][0]]
    first = graph[larger["inputs"]["samples"][0]]
    assert (larger["class_type"], first["inputs"]["denoise"]) == ("LatentUpscaleBy", 1)
    prompt = side_graphs(base, (STOCK,), OUTPUT_TYPES, DEFAULTS)[0].prompt(99, "x")
    assert {node["inputs"]["seed"] for node in nodes_of(prompt, "KSampler")} == {99}


@pytest.mark.parametrize("name", ["lora", "controlnet"])
def test_a_scenario_that_needs_a_file_asks_for_it(name: str):
    with pytest.raises(BadInputError, match=f"scenario {name} needs a file: .* --{name}"):
        base_graphs(find_scenarios([name])[0], Choices(), OUTPUT_TYPES)


def test_the_ladder_adds_one_technique_at_a_time():
    rungs = side_graphs(base_graphs(SCENARIOS[0], CHOICES, OUTPUT_TYPES), LADDER, OUTPUT_TYPES, DEFAULTS)
    settings = [
        {(kind, name, value) for kind in DEFAULTS for node in nodes_of(rung.graph, kind) for name, value in node["inputs"].items() if not isinstance(value, list)}
        for rung in rungs
    ]  # fmt: skip
    assert settings[0] == set()
    assert all(earlier != later for earlier, later in itertools.pairwise(settings))
    assert [rung.side.name for rung in rungs if rung.side.lossy] == ["accumulation", "fp8"]
    assert len({json.dumps(rung.prompt(1, "x"), sort_keys=True) for rung in rungs}) == len(rungs)


def test_sides_keep_each_others_loaders_and_optimisers_but_never_samples():
    base = base_graphs(find_scenarios(["lora"])[0], CHOICES, OUTPUT_TYPES)
    stock = base.stock
    plain, ours = side_graphs(base, (STOCK, OURS), OUTPUT_TYPES, DEFAULTS)
    prompts = [side.prompt(5, "x") for side in (plain, ours)]
    assert [set(prompt) & set(graphs.seed_nodes(prompt)) for prompt in prompts] == [set(graphs.seed_nodes(stock))] * 2
    resting = {node_id: node for node_id, node in prompts[0].items() if node_id not in plain.graph}
    # The LoRA's loader reads the optimised model on our side: it needs an id of its own to stay in ComfyUI's cache.
    assert sorted(node["class_type"] for node in resting.values()) == sorted(
        ["OptimizeModel", "OptimizeVAE", "LoraLoader", "CLIPTextEncode", "CLIPTextEncode"]
    )
    assert all(prompts[1][node_id] == node for node_id, node in resting.items())
    # Seeds are equal, so something that ComfyUI ignores has to keep the samples apart.
    marks = [nodes_of(prompt, "KSampler")[0]["inputs"]["bench_side"] for prompt in prompts]
    assert marks == ["stock", "ours"]


def test_sprites_are_compared_with_each_drawn_alone():
    base = base_graphs(find_scenarios(["sprites8"])[0], CHOICES, OUTPUT_TYPES)
    plain, ours = side_graphs(base, (STOCK, OURS), OUTPUT_TYPES, DEFAULTS)
    assert plain.alone is None
    assert ours.alone is not None
    assert ours.alone.side is ALONE
    (sampler,) = nodes_of(ours.graph, "BatchSpriteSampler")
    assert (sampler["inputs"]["count"], sampler["inputs"]["seed_mode"]) == (8, "increment")
    assert nodes_of(plain.graph, "EmptyLatentImage")[0]["inputs"]["batch_size"] == 8
    alone = ours.alone.prompt(3, "x")
    assert nodes_of(alone, "EmptyLatentImage")[0]["inputs"]["batch_size"] == 1
    assert not nodes_of(ours.alone.graph, "OptimizeModel")
    # Drawn between two rounds, so it keeps the optimisers' results too.
    assert len(nodes_of(alone, "OptimizeModel")) == len(nodes_of(plain.prompt(3, "x"), "OptimizeModel")) == 1


def test_files_are_saved_while_the_next_sprites_are_drawn():
    base = base_graphs(find_scenarios(["files8"])[0], CHOICES, OUTPUT_TYPES)
    plain, ours = side_graphs(base, (STOCK, OURS), OUTPUT_TYPES, DEFAULTS)
    assert len(nodes_of(plain.graph, "SaveImage")) == len(nodes_of(plain.graph, "VAEDecode")) == 1
    assert not nodes_of(ours.graph, "SaveImage") + nodes_of(ours.graph, "VAEDecode")
    (save,) = nodes_of(ours.prompt(3, "runs/7"), "SaveSprites")
    (sampler,) = nodes_of(ours.graph, "BatchSpriteSampler")
    assert (sampler["inputs"]["draw"], sampler["inputs"]["count"]) == ("while saving", 8)
    assert save["inputs"]["filename"] == "runs/7_%index%"
    assert ours.graph[save["inputs"]["sprites"][0]] is sampler
    assert ours.graph[save["inputs"]["vae"][0]]["class_type"] == "OptimizeVAE"
    assert ours.alone is not None


def test_what_a_workflow_loads_by_filename_is_left_alone():
    own = stock_graph(graphs.read_graph(WORKFLOWS / "sprites_to_disk.json"), Choices())
    own["lut"] = {"class_type": "LoadLut", "inputs": {"filename": "warm.cube"}}
    prompt = side_graphs(StockGraphs(own, own), (STOCK,), OUTPUT_TYPES, DEFAULTS)[0].prompt(3, "runs/7")
    assert nodes_of(prompt, "LoadLut")[0]["inputs"]["filename"] == "warm.cube"
    assert nodes_of(prompt, "SaveSprites")[0]["inputs"]["filename"] == "runs/7_%index%"


def test_an_input_that_the_optimiser_lacks_is_refused():
    base = base_graphs(SCENARIOS[0], CHOICES, OUTPUT_TYPES)
    with pytest.raises(BadInputError, match="OptimizeModel has no input 'speed': choose from engine, precision"):
        side_graphs(base, (STOCK, Side("ours", "", {"speed": "high"})), OUTPUT_TYPES, DEFAULTS)


def test_a_workflow_of_separate_loaders_gets_the_optimisers_too():
    graph: Graph = {
        "1": {"class_type": "UNETLoader", "inputs": {"unet_name": "sdxl.safetensors"}},
        "2": {"class_type": "DualCLIPLoader", "inputs": {}},
        "3": {"class_type": "VAELoader", "inputs": {"vae_name": "vae.safetensors"}},
        "4": {"class_type": "ModelSamplingDiscrete", "inputs": {"model": ["1", 0]}},
        "5": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["2", 0], "text": "a sword"}},
        "6": {"class_type": "KSampler", "inputs": {"model": ["4", 0], "positive": ["5", 0], "seed": 1}},
        "7": {"class_type": "VAEDecode", "inputs": {"samples": ["6", 0], "vae": ["3", 0]}},
        "8": {"class_type": "SaveImage", "inputs": {"images": ["7", 0], "filename_prefix": "mine"}},
    }
    stock = stock_graph(graph, Choices())
    _, ours = side_graphs(StockGraphs(stock, stock), (STOCK, OURS), OUTPUT_TYPES, DEFAULTS)
    (model,), (vae,) = nodes_of(ours.graph, "OptimizeModel"), nodes_of(ours.graph, "OptimizeVAE")
    assert (model["inputs"]["model"], vae["inputs"]["vae"]) == (["1", 0], ["3", 0])
    (sampling,) = nodes_of(ours.graph, "ModelSamplingDiscrete")
    assert ours.graph[sampling["inputs"]["model"][0]] is model
    assert nodes_of(ours.prompt(3, "there"), "SaveImage")[0]["inputs"]["filename_prefix"] == "there"
    assert graph["6"]["inputs"]["seed"] == 1


def test_an_optimised_workflow_gives_its_stock_side():
    optimised = graphs.read_graph(WORKFLOWS / "sprite_optimized.json")
    plain = graphs.read_graph(WORKFLOWS / "baseline_single.json")
    stock = stock_graph(optimised, Choices())
    assert_whole(stock)
    assert sorted(node["class_type"] for node in stock.values()) == sorted(node["class_type"] for node in plain.values())
    optimised["show"] = {"class_type": "PreviewAny", "inputs": {"source": ["3", 1]}}  # OptimizeModel's report
    assert stock_graph(optimised, Choices()) == stock


def test_the_hash_is_of_the_work_alone():
    graph = graphs.read_graph(WORKFLOWS / "baseline_single.json")
    renamed = json.loads(json.dumps(graph))
    renamed["1"]["_meta"]["title"] = "another title"
    assert workflow_hash(renamed) == workflow_hash(graph)
    renamed["6"]["inputs"]["steps"] = 21
    assert workflow_hash(renamed) != workflow_hash(graph)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot be read .*API format"),
        ("not JSON", "is no JSON"),
        ("[1, 2]", "not in API format"),
        ('{"nodes": [], "links": []}', r"in the page's format: save it with File > Export \(API\)"),
        ('{"1": {"inputs": {}}}', "not in API format"),
    ],
)
def test_other_files_are_refused_in_one_sentence(tmp_path: Path, text: str | None, says: str):
    path = tmp_path / "workflow.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadInputError, match=says) as refused:
        graphs.read_graph(path)
    assert "\n" not in str(refused.value)


def seeded_by_a_primitive() -> Graph:
    return {
        "1": {"class_type": "KSampler", "inputs": {"seed": ["2", 0], "steps": 9}},
        "2": {"class_type": "PrimitiveInt", "inputs": {"value": 1}},
    }


def test_a_seed_that_another_node_gives_is_varied_too():
    stock = stock_graph(seeded_by_a_primitive(), Choices(steps=5))
    assert graphs.with_seed(stock, 7)["1"]["inputs"] == {"seed": 7, "steps": 5}


@pytest.mark.parametrize(
    ("graph", "choices", "says"),
    [
        ({"1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}}}, Choices(), "No node of the workflow has a seed"),
        (seeded_by_a_primitive(), Choices(checkpoint="mine.safetensors"), "No node of the workflow has ckpt_name as a widget"),
    ],
)
def test_what_would_measure_something_else_is_refused(graph: Graph, choices: Choices, says: str):
    with pytest.raises(BadInputError, match=says):
        stock_graph(graph, choices)


@pytest.mark.parametrize(
    ("side", "says"),
    [(OURS, "OptimizeModel has no place .* reads a MODEL"), (LADDER[1], "OptimizeVAE has no place .* reads a VAE")],
)
def test_a_side_that_would_draw_what_stock_draws_is_refused(side: Side, says: str):
    piped: Graph = {
        "1": {"class_type": "PipeLoader", "inputs": {}},
        "2": {"class_type": "PipeSampler", "inputs": {"pipe": ["1", 0], "seed": 1}},
    }
    output_types = {"PipeLoader": ["PIPE", "MODEL", "VAE"], "PipeSampler": ["IMAGE"]}
    with pytest.raises(BadInputError, match=says):
        side_graphs(StockGraphs(piped, piped), (STOCK, side), output_types, DEFAULTS)
