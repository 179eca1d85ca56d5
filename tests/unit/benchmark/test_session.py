"""What events become, and what probes are put into a prompt."""

import json

import pytest
from fast_sprites.nodes.benchmark.bench.graphs import Graph, links_of, upstream
from fast_sprites.nodes.benchmark.bench.scenarios import OURS, STOCK, Choices, base_graphs, find_scenarios, side_graphs
from fast_sprites.nodes.benchmark.bench.session import Timeline, _with_probes
from fast_sprites.nodes.benchmark.client import Cached, NodeStarted, Started, Step

from .test_graphs import DEFAULTS, OUTPUT_TYPES

PROMPT = {
    name: {"class_type": class_type, "inputs": {}}
    for name, class_type in [("1", "KSampler"), ("2", "KSampler"), ("3", "VAEDecode")]
}


def test_events_become_seconds_by_class():
    timeline = Timeline(PROMPT)
    events = [(Started(), 10.0), (Cached(("9",)), 10.1), (NodeStarted("1"), 10.5)]
    events += [(Step("1", step, 4), at) for step, at in enumerate([11.0, 11.1, 11.2, 11.9], start=1)]
    events += [(NodeStarted("2"), 12.0), (Step("2", 1, 1), 12.5), (NodeStarted("3"), 13.0), (NodeStarted("3.0.1"), 14.0)]
    for event, at in events:
        timeline.add(event, at)
    assert timeline.spans_s(14.25) == {"KSampler": 2.5, "VAEDecode": 1.0, "nodes made by a node": 0.25}
    assert timeline.step_s() == pytest.approx(0.1)
    assert timeline.cached == {"9"}


@pytest.mark.parametrize("pictures", [1, 8])
def test_reports_that_comfyui_drops_count_as_steps(pictures: int):
    """Steps of 30 ms: ComfyUI tells of the first, and then of those that end 0.1 s after the last it told of."""
    timeline = Timeline(PROMPT)
    told = [1, 5, 9, 13, 17, 20]
    for step in told:
        timeline.add(Step("1", step * pictures, 20 * pictures), 10.0 + 0.03 * step)
    timeline.add(Step("1", pictures, 20 * pictures), 11.0)  # a second pass begins
    assert timeline.step_s() == pytest.approx(0.03)


def test_a_prompt_without_steps_has_no_step_time():
    timeline = Timeline(PROMPT)
    assert timeline.step_s() is None
    assert timeline.spans_s(1.0) == {}


def probe_of(name: str, side: int) -> tuple[Graph, Graph]:
    base = base_graphs(find_scenarios([name])[0], Choices(lora="a", controlnet="b"), OUTPUT_TYPES)
    drawn = side_graphs(base, (STOCK, OURS), OUTPUT_TYPES, DEFAULTS)[side]
    prompt = drawn.prompt(3, "x")
    before = json.dumps(prompt)
    probed = _with_probes(prompt, drawn.graph, OUTPUT_TYPES)
    assert json.dumps(prompt) == before
    return prompt, probed


def reset_inputs(probed: Graph) -> dict[str, set[str]]:
    """The inputs, by class, that a probe which starts the peak anew comes before."""
    found: dict[str, set[str]] = {}
    for node in probed.values():
        for name, (source, _) in links_of(node).items():
            if probed[source]["inputs"].get("reset_peak"):
                found.setdefault(node["class_type"], set()).add(name)
    return found


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("name", ["single", "batch8", "sprites8", "pixel-art", "hires", "lora", "controlnet"])
def test_probes_frame_sampling_and_decoding(name: str, side: int):
    prompt, probed = probe_of(name, side)
    (sampler,) = reset_inputs(probed).items()
    first = next(node for node in prompt.values() if node["class_type"] == sampler[0])
    assert sampler[0] in ("KSampler", "BatchSpriteSampler")
    assert sampler[1] == set(links_of(first))
    probe = probed["bench-probe"]
    assert not probe["inputs"]["reset_peak"]
    assert "VAEDecode" in {prompt[node_id]["class_type"] for node_id in upstream(prompt, [probe["inputs"]["value"][0]])}
    assert probed["bench-readings"] == {"class_type": "PreviewAny", "inputs": {"source": ["bench-probe", 2]}}


def test_streamed_files_are_read_by_the_report_of_save_sprites():
    _, probed = probe_of("files8", 1)
    assert probed["bench-probe"]["inputs"]["value"] == ["own-bench-files", 1]


def test_a_picture_that_is_loaded_is_not_read_before_sampling():
    prompt: Graph = {
        "load": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
        "encode": {"class_type": "VAEEncode", "inputs": {"pixels": ["load", 0]}},
        "noise": {"class_type": "RandomNoise", "inputs": {"noise_seed": 1}},
        "guide": {"class_type": "CFGGuider", "inputs": {"cfg": 4.0}},
        "sample": {
            "class_type": "SamplerCustomAdvanced",
            "inputs": {"noise": ["noise", 0], "guider": ["guide", 0], "latent_image": ["encode", 0]},
        },
        "decode": {"class_type": "VAEDecode", "inputs": {"samples": ["sample", 0]}},
        "save": {"class_type": "SaveImage", "inputs": {"images": ["decode", 0]}},
        "dangling": {"class_type": "VAEEncode", "inputs": {"pixels": ["decode", 0]}},
    }
    types = {
        **OUTPUT_TYPES,
        **{"LoadImage": ["IMAGE", "MASK"], "VAEEncode": ["LATENT"], "RandomNoise": ["NOISE"], "CFGGuider": ["GUIDER"]},
        "SamplerCustomAdvanced": ["LATENT", "LATENT"],
    }
    probed = _with_probes(prompt, upstream(prompt, ["save"]), types)
    assert reset_inputs(probed) == {"SamplerCustomAdvanced": {"noise", "guider", "latent_image"}}
    assert probed["bench-probe"]["inputs"]["value"] == ["decode", 0]


def test_a_prompt_without_outputs_gets_no_probes():
    prompt: Graph = {"1": {"class_type": "KSampler", "inputs": {"seed": 1}}}
    assert _with_probes(prompt, [], OUTPUT_TYPES) == prompt
