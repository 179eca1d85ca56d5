import pytest
from fast_sprites.nodes.engine.errors import BadInputError
from fast_sprites.nodes.engine.sprites.request import SpriteRequest

GOOD = {
    "count": 1, "width": 1024, "height": 768, "seed": 0, "seed_mode": "increment", "steps": 1, "cfg": 8.0, "sampler_name": "euler",
    "scheduler": "karras", "denoise": 1.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("count", 0, "count is 0; set it to 1 or more."),
        ("steps", 0, "steps is 0; set it to 1 or more."),
        ("micro_batch", -1, "micro_batch is -1; set it to 0 or more."),
        ("seed", -5, "seed is -5; set it to 0 or more."),
        ("width", 1020, "width is 1020 pixels, but latents hold whole blocks of 8; set it to 1024."),
        ("height", 3, "height is 3 pixels, but latents hold whole blocks of 8; set it to 8."),
        ("denoise", -0.1, "denoise is -0.1; set it between 0 and 1."),
    ],
)
def test_impossible_values_get_one_sentence(name, value, sentence):
    SpriteRequest(**GOOD)
    with pytest.raises(BadInputError) as caught:
        SpriteRequest(**{**GOOD, name: value})
    assert str(caught.value) == sentence
