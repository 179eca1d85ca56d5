import dataclasses

import pytest
from fast_sprites.nodes.engine.errors import OutOfMemoryError
from fast_sprites.nodes.engine.sprites.micro_batches import (
    GIB,
    MAX_AUTO_SIZE,
    MIB,
    RememberedSizes,
    SamplingFacts,
    graph_key,
    halve,
    plan_micro_batches,
    samples_per_sprite,
    sprite_bytes,
)

SDXL = SamplingFacts(is_sdxl=True, latent_area=128 * 128, element_size=2, memory_usage_factor=0.8)


def plan(count=64, asked=0, free_gib=100.0, remembered=None, coupled=None):
    return plan_micro_batches(count, asked, int(free_gib * GIB), sprite_bytes(SDXL, 2), remembered, coupled)


def test_estimate_is_the_measured_one_with_slack():
    assert sprite_bytes(SDXL, 2) == pytest.approx(316 * 1.25 * MIB)


def test_estimate_grows_with_area_and_dtype_and_halves_without_cfg():
    base = sprite_bytes(SDXL, 2)
    assert sprite_bytes(dataclasses.replace(SDXL, latent_area=4 * SDXL.latent_area), 2) == pytest.approx(4 * base)
    assert sprite_bytes(dataclasses.replace(SDXL, element_size=4), 2) == pytest.approx(2 * base)
    assert sprite_bytes(SDXL, 1) == pytest.approx(base / 2)


def test_cfg_doubles_the_samples():
    assert [samples_per_sprite(cfg, "euler") for cfg in (1.0, 8.0)] == [1, 2]
    assert samples_per_sprite(1.0, "euler_cfg_pp") == 2


def test_other_models_take_comfyuis_own_estimate():
    other = dataclasses.replace(SDXL, is_sdxl=False, memory_usage_factor=2.5)
    assert sprite_bytes(other, 2) == pytest.approx(2 * 128 * 128 * 2 * 0.01 * 2.5 * MIB)


@pytest.mark.parametrize(
    ("count", "free_gib", "size"),
    [
        (64, 100.0, MAX_AUTO_SIZE),
        (3, 100.0, 3),
        (9, 100.0, 5),  # 5 + 4, not 8 + 1
        (256, 100.0, 8),
        (64, 1.0, 2),
        (64, 0.0, 1),
        (1, 100.0, 1),
    ],
)
def test_size_comes_from_free_memory_count_and_cap(count, free_gib, size):
    assert plan(count, free_gib=free_gib).size == size


def test_reason_names_the_figures():
    assert plan(free_gib=3).reason == "7 fit into 3.0 GiB at 0.39 GiB each"


def test_asked_size_is_taken_and_never_above_count():
    assert (plan(asked=12).size, plan(asked=12).reason) == (12, "as set")
    assert plan(count=4, asked=12).size == 4


def test_remembered_size_only_lowers():
    assert plan(remembered=2).size == 2
    assert "an earlier run was short of memory" in plan(remembered=2).reason
    assert plan(remembered=64).size == MAX_AUTO_SIZE
    assert plan(asked=6, remembered=3).size == 3


def test_coupled_sprites_are_drawn_alone_whatever_is_asked():
    assert plan(asked=8, coupled="why") == plan(coupled="why")
    assert (plan(coupled="why").size, plan(coupled="why").reason) == (1, "one at a time: why")


def test_halving_ends_at_one_with_what_is_missing():
    assert [halve(size, 0, 0, "") for size in (8, 5, 3, 2)] == [4, 2, 1, 1]
    with pytest.raises(OutOfMemoryError) as caught:
        halve(1, 3 * GIB, GIB, "CUDA out of memory.")
    assert str(caught.value) == (
        "One sprite needs about 3.0 GiB beside the model and 1.0 GiB are free, so at least 2.0 GiB are missing; "
        "lower width and height, close other programs or start ComfyUI with --lowvram. torch says: CUDA out of memory."
    )


def test_remembered_sizes_are_bounded():
    sizes = RememberedSizes(capacity=2)
    for key, size in (("a", 1), ("b", 2), ("a", 4), ("c", 3)):
        sizes.remember(key, size)
    assert (sizes.get("a"), sizes.get("b"), sizes.get("c")) == (4, None, 3)


def test_graph_key_knows_nodes_and_links_and_ignores_widgets():
    graph = {
        "1": {"class_type": "Loader", "inputs": {"name": "x"}},
        "7": {"class_type": "S", "inputs": {"model": ["1", 0], "seed": 3}},
    }
    key = graph_key("7", graph, (4, 128, 128))
    other_seed = {**graph, "7": {"class_type": "S", "inputs": {"model": ["1", 0], "seed": 4}}}
    other_link = {**graph, "7": {"class_type": "S", "inputs": {"model": ["2", 0], "seed": 3}}}
    assert graph_key("7", other_seed, (4, 128, 128)) == key
    assert (
        len(
            {
                key,
                graph_key("7", other_link, (4, 128, 128)),
                graph_key("8", graph, (4, 128, 128)),
                graph_key("7", graph, (4, 64, 64)),
            }
        )
        == 4
    )
    assert graph_key("7", None, (4, 128, 128)) != key
