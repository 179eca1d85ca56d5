import copy

import pytest
from fast_sprites.nodes.engine.sprites.prompts import sprite_prompts
from fast_sprites.nodes.engine.sprites.restore import edit_prompt, edit_workflow, is_page_graph, single_sprite_edits
from fast_sprites.nodes.engine.sprites.seeds import sprite_seeds


@pytest.fixture
def prompt():
    return {
        "1": {"class_type": "PrimitiveInt", "inputs": {"value": 40}},
        "3": {"class_type": "SpritePrompts", "inputs": {"prompts": "sword\n{red|blue} potion", "count": 0, "seed": 1}},
        "4": {
            "class_type": "BatchSpriteSampler",
            "inputs": {"count": ["3", 3], "seed": ["1", 0], "seed_mode": "random", "steps": 20, "positive": ["3", 0]},
        },
        "9": {"class_type": "SaveSprites", "inputs": {"images": ["8", 0], "seeds": ["4", 1], "prompts": ["3", 2]}},
    }


@pytest.fixture
def workflow():
    return {
        "nodes": [
            {"id": 1, "type": "PrimitiveInt", "outputs": [{"links": [5, 6]}], "widgets_values": [40]},
            {
                "id": 3,
                "type": "SpritePrompts",
                "inputs": [{"name": "clip", "link": 2}],
                "outputs": [{"links": []}, {}, {}, {"links": [7]}],
                "widgets_values": ["sword\n{red|blue} potion", "", "", "blurry", 0, "pick", 1, "randomize"],
            },
            {
                "id": 4,
                "type": "BatchSpriteSampler",
                "inputs": [
                    {"name": "count", "link": 7, "widget": {"name": "count"}},
                    {"name": "seed", "link": 5, "widget": {"name": "seed"}},
                    {"name": "steps", "link": 6, "widget": {"name": "steps"}},
                ],
                "widgets_values": [8, 1024, 1024, 0, "randomize", "random", 20, 8.0, "euler", "karras", 1.0, 0, ""],
            },
        ],
        "links": [[2, 2, 0, 3, 0, "CLIP"], [5, 1, 0, 4, 1, "INT"], [6, 1, 0, 4, 2, "INT"], [7, 3, 3, 4, 0, "INT"]],
    }


def test_edits_follow_the_links_of_the_save_node(prompt):
    edits = single_sprite_edits(prompt, "9", 2, 1, 77, "red potion")
    assert [(edit.node_id, edit.values["count"]) for edit in edits] == [("4", 1), ("3", 1)]
    assert single_sprite_edits(prompt, "9", 2, 1, None, None) == []
    assert single_sprite_edits(prompt, "8", 2, 1, 77, "red potion") == []
    prompt["4"]["class_type"] = "AnotherSampler"
    assert [edit.node_id for edit in single_sprite_edits(prompt, "9", 2, 1, 77, "red potion")] == ["3"]


def test_api_graph_draws_that_sprite_alone(prompt):
    before = copy.deepcopy(prompt)
    edited = edit_prompt(prompt, single_sprite_edits(prompt, "9", 2, 1, 77, "red potion"))
    assert edited["4"]["inputs"] == {
        "count": 1, "seed": 77, "seed_mode": "increment", "seed_list": "", "steps": 20, "positive": ["3", 0], "first_picture": 3,
    }  # fmt: skip
    assert edited["3"]["inputs"] == {"prompts": "red potion", "count": 1, "seed": 1}
    assert prompt == before


@pytest.mark.parametrize("seed", [2**53, 2**53 + 1, 2**64 - 1])
def test_a_seed_that_a_page_would_round_is_written_as_text(prompt, seed):
    edited = edit_prompt(prompt, single_sprite_edits(prompt, "9", 2, 1, seed, None))
    inputs = {name: float(value) if isinstance(value, int) else value for name, value in edited["4"]["inputs"].items()}
    assert sprite_seeds(inputs["seed_mode"], int(inputs["seed"]), inputs["seed_list"], 1) == (seed,)


@pytest.mark.parametrize(("first", "third"), [(0, 3), (1, 3), (9, 11), (["1", 0], 3)])
def test_pictures_of_the_batch_are_counted_from_its_first(prompt, first, third):
    prompt["4"]["inputs"]["first_picture"] = first
    edited = edit_prompt(prompt, single_sprite_edits(prompt, "9", 2, 1, 77, None))
    assert edited["4"]["inputs"]["first_picture"] == third


def test_a_line_that_would_be_read_as_a_comment_is_written_so_that_it_is_not(prompt):
    edited = edit_prompt(prompt, single_sprite_edits(prompt, "9", 2, 1, None, "#ff0000 potion"))
    assert [line.line for line in sprite_prompts(edited["3"]["inputs"]["prompts"], "", "", 1, 0, "pick")] == ["#ff0000 potion"]


def test_browsers_graph_draws_that_sprite_alone(prompt, workflow):
    before = copy.deepcopy(workflow)
    edited = edit_workflow(workflow, single_sprite_edits(prompt, "9", 2, 1, 77, "red potion"))
    primitive, prompts, sampler = edited["nodes"]
    assert sampler["widgets_values"] == [1, 1024, 1024, 77, "fixed", "increment", 20, 8.0, "euler", "karras", 1.0, 0, ""]
    assert prompts["widgets_values"] == ["red potion", "", "", "blurry", 1, "pick", 1, "fixed"]
    assert [socket["link"] for socket in sampler["inputs"]] == [None, None, 6]
    assert [link[0] for link in edited["links"]] == [2, 6]
    assert primitive["outputs"][0]["links"] == [6]
    assert prompts["outputs"][3]["links"] == []
    assert workflow == before


def test_values_that_newer_pages_keep_by_name_are_edited_too(prompt, workflow):
    workflow["nodes"][1]["widgets_values_named"] = {"prompts": "sword\n{red|blue} potion", "count": 0, "negative": "blurry"}
    before = copy.deepcopy(workflow)
    _, prompts, sampler = edit_workflow(workflow, single_sprite_edits(prompt, "9", 2, 1, 77, "red potion"))["nodes"]
    named = {"prompts": "red potion", "count": 1, "negative": "blurry", "control_after_generate": "fixed"}
    assert prompts["widgets_values_named"] == named
    assert "widgets_values_named" not in sampler
    assert workflow == before


def test_nodes_inside_subgraphs_are_found(prompt, workflow):
    inner = {"id": "abc", "nodes": workflow["nodes"], "links": [{"id": 5, "origin_id": 1}, {"id": 6, "origin_id": 1}]}
    outer = {"nodes": [{"id": 2, "type": "abc"}], "links": [], "definitions": {"subgraphs": [inner]}}
    renamed = {f"2:{name}": node for name, node in prompt.items()}
    renamed["2:9"]["inputs"] = {"seeds": ["2:4", 1]}
    edited = edit_workflow(outer, single_sprite_edits(renamed, "2:9", 2, 1, 77, None))
    inside = edited["definitions"]["subgraphs"][0]
    assert inside["nodes"][2]["widgets_values"][3:6] == [77, "fixed", "increment"]
    assert inside["links"] == [{"id": 6, "origin_id": 1}]


def test_unknown_nodes_leave_the_workflow_as_it_is(prompt):
    foreign = {"nodes": [{"id": 4, "type": "BatchSpriteSampler", "widgets_values": {"seed": 1}}]}
    assert edit_workflow(foreign, single_sprite_edits(prompt, "9", 2, 1, 77, "x")) == foreign
    assert edit_workflow({"nodes": []}, single_sprite_edits(prompt, "9", 2, 1, 77, "x")) == {"nodes": []}


def nested(levels):
    value: list[object] = []
    for _ in range(levels):
        value = [value]
    return value


def test_what_a_client_nests_inside_a_graph_is_not_followed(prompt, workflow):
    workflow["extra"] = workflow["nodes"][2]["properties"] = nested(20_000)
    assert is_page_graph(workflow)
    edited = edit_workflow(workflow, single_sprite_edits(prompt, "9", 2, 1, 77, "red potion"))
    assert edited["nodes"][2]["widgets_values"][3] == 77


@pytest.mark.parametrize(
    "foreign",
    [
        None,
        "text",
        {},
        {"nodes": {}},
        {"nodes": [{"id": 6}]},
        {"nodes": [{"id": [], "type": "A"}]},
        {"nodes": [{"id": 1, "type": "A", "inputs": ["a"]}]},
        {"nodes": [{"id": 1, "type": "A", "inputs": [{"widget": "a"}]}]},
        {"nodes": [{"id": 1, "type": "A", "inputs": [{"widget": {"name": []}}]}]},
        {"nodes": [{"id": 1, "type": "A", "outputs": [{"links": 5}]}]},
        {"nodes": [], "links": [[]]},
        {"nodes": [], "links": [{}]},
        {"nodes": [], "links": 5},
        {"nodes": [], "definitions": [1]},
        {"nodes": [], "definitions": {"subgraphs": [{"nodes": []}]}},
        {"nodes": [], "definitions": {"subgraphs": [{"id": "a"}]}},
    ],
)
def test_what_no_page_saves_is_told_from_a_graph(foreign, workflow):
    assert is_page_graph(workflow)
    assert not is_page_graph(foreign)
