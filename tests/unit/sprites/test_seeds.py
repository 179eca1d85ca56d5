import pytest
from fast_sprites.nodes.engine.errors import BadInputError
from fast_sprites.nodes.engine.sprites.seeds import MAX_SEED, sprite_seeds


def test_increment_counts_up_and_wraps():
    assert sprite_seeds("increment", 7, "", 3) == (7, 8, 9)
    assert sprite_seeds("increment", MAX_SEED, "", 2) == (MAX_SEED, 0)


def test_random_seeds_follow_from_the_seed_and_begin_alike():
    few, many = sprite_seeds("random", 7, "", 4), sprite_seeds("random", 7, "", 200)
    assert many[:4] == few
    assert sprite_seeds("random", 8, "", 4) != few
    assert len(set(many)) == 200
    assert max(many) < 2**53  # exact in the browser


@pytest.mark.parametrize("text", ["1,2,3", " 1 2\n3 ", "1;2;;3,", "1, 2, 3, 4, 5"])
def test_list_takes_the_first_seeds(text):
    assert sprite_seeds("list", 99, text, 3) == (1, 2, 3)


@pytest.mark.parametrize(
    ("mode", "text", "sentence"),
    [
        ("list", "1 2", "seed_list holds 2 seeds for 3 sprites; add 1 more, lower count to 2 or set seed_mode to increment."),
        ("list", "", "seed_list holds 0 seeds for 3 sprites; add 3 more, lower count to 1"),
        ("list", "1 -2 3", "seed_list holds '-2'; write whole numbers from 0 to 18446744073709551615"),
        ("list", "1 18446744073709551616 3", "seed_list holds '18446744073709551616'"),
        ("list", "1 2.5 3", "seed_list holds '2.5'"),
        ("shuffle", "", "seed_mode is 'shuffle'; allowed are increment, random, list."),
    ],
)
def test_bad_seeds_get_one_sentence(mode, text, sentence):
    with pytest.raises(BadInputError) as caught:
        sprite_seeds(mode, 0, text, 3)
    assert str(caught.value).startswith(sentence)
