import pytest
from fast_sprites.nodes.engine.errors import BadInputError
from fast_sprites.nodes.engine.sprites.prompts import (
    combinations,
    join_parts,
    prompt_lines,
    shortest_period,
    sprite_prompts,
    written,
)


def lines(prompts, count=0, seed=0, alternatives="pick"):
    return [prompt.line for prompt in sprite_prompts(prompts, "", "", count, seed, alternatives)]


def test_blank_lines_and_comments_are_skipped():
    assert prompt_lines("  sword \n\n# a comment\n   # another\r\nc# book\n") == ["sword", "c# book"]


def test_lines_repeat_for_any_count():
    assert lines("a\nb\nc") == ["a", "b", "c"]
    assert lines("a\nb\nc", count=2) == ["a", "b"]
    assert lines("a\nb\nc", count=7) == ["a", "b", "c", "a", "b", "c", "a"]


def test_pick_is_decided_by_seed_and_index_alone():
    text = "{red|green|blue} potion"
    many = lines(text, count=60, seed=5)
    assert lines(text, count=10, seed=5) == many[:10]
    assert set(many) == {"red potion", "green potion", "blue potion"}
    assert lines(text, count=60, seed=6) != many
    # The lines above do not shift what a later sprite picks.
    assert lines(f"sword\n{text}", count=60, seed=5)[1::2] == many[1::2]


def test_every_combination_in_reading_order():
    assert lines("{a|b} {c|d}\nplain", alternatives="every") == ["a c", "a d", "b c", "b d", "plain"]
    assert lines("{a|b}", count=3, alternatives="every") == ["a", "b", "a"]


def test_alternatives_nest_and_may_be_empty():
    assert combinations("a{ {big|small}|} cat") == ["a big cat", "a small cat", "a cat"]
    assert combinations("{{a|b}|{c|d{e|f}}} | {g|h}") == [f"{x} | {y}" for x in ("a", "b", "c", "de", "df") for y in "gh"]
    assert set(lines("{x{1|2}|y}", count=50)) == {"x1", "x2", "y"}


@pytest.mark.parametrize("line", ["sword", "{#ff0000|#00ff00} potion", "{|}", "{#|} a|b", "#"])
@pytest.mark.parametrize("alternatives", ["pick", "every"])
def test_what_alternatives_come_out_as_can_be_written_again(line, alternatives):
    chosen = sprite_prompts(f"sword\n{line}\nshield" if line != "#" else "{#}", "icon", "", 3, 5, alternatives)
    again = sprite_prompts("\n".join(written(prompt.line) for prompt in chosen), "icon", "", 3, 9, alternatives)
    assert [prompt.text for prompt in again] == [prompt.text for prompt in chosen]


def test_prefix_and_suffix_join_with_commas():
    assert join_parts("pixel art, ", " sword, ", ", plain background") == "pixel art, sword, plain background"
    assert join_parts("", "sword", " ") == "sword"


def test_period_is_the_shortest():
    assert shortest_period(["a", "b", "a", "b", "a"]) == 2
    assert shortest_period(["a", "a", "a"]) == 1
    assert shortest_period(["a", "b", "b"]) == 3


@pytest.mark.parametrize(
    ("prompts", "alternatives", "sentence"),
    [
        ("\n# only this\n", "pick", "prompts holds no prompt; write one per line"),
        ("{red|blue sword", "pick", "The braces in '{red|blue sword' do not pair; write alternatives as {red|blue}."),
        ("red} {blue", "pick", "The braces in 'red} {blue' do not pair"),
        ("{0|1}" * 13, "every", "'" + "{0|1}" * 13 + "' has more than 4096 combinations; set alternatives to pick"),
        ("a", "some", "alternatives is 'some'; allowed are pick, every."),
    ],
)
def test_bad_prompts_get_one_sentence(prompts, alternatives, sentence):
    with pytest.raises(BadInputError) as caught:
        lines(prompts, alternatives=alternatives)
    assert str(caught.value).startswith(sentence)
