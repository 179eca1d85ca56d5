"""What events become, and what probes are put into a prompt."""

import json
from typing import Any

import pytest
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


@pytest.mark.parametrize("name", ["single", "batch8", "sprites8", "pixel-art", "hires", "lora", "controlnet"])
def test_probes_frame_sampling_and_decoding(name: str):
    choices = Choices(lora="a", controlnet="b")
    base = base_graphs(find_scenarios([name])[0], choices, OUTPUT_TYPES)
    for side in side_graphs(base, (STOCK, OURS), OUTPUT_TYPES, DEFAULTS):
        prompt = side.prompt(3, "x")
        before = json.dumps(prompt)
        probed = _with_probes(prompt, side.graph, OUTPUT_TYPES)
        assert json.dumps(prompt) == before
        reset, probe = probed["bench-reset"], probed["bench-probe"]
        assert (reset["inputs"]["reset_peak"], probe["inputs"]["reset_peak"]) == (True, False)
        readers: list[Any] = [node for node in probed.values() if ["bench-reset", 0] in node["inputs"].values()]
        assert [node["class_type"] for node in readers] in (["KSampler"], ["BatchSpriteSampler"])
        assert probed[probe["inputs"]["value"][0]]["class_type"] == "VAEDecode"
        assert probed["bench-readings"] == {"class_type": "PreviewAny", "inputs": {"source": ["bench-probe", 2]}}


def test_a_prompt_without_pictures_gets_no_reading():
    prompt = {"1": {"class_type": "KSampler", "inputs": {"seed": 1}}}
    assert _with_probes(prompt, prompt, OUTPUT_TYPES) == prompt
