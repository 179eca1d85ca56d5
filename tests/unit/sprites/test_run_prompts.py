import pytest
import torch
from fast_sprites.nodes.engine.errors import BadInputError
from fast_sprites.nodes.engine.sprites.run_prompts import batched


def encoded(num_tokens: int, **options):
    return [[torch.rand(1, num_tokens, 8), {"pooled_output": torch.rand(1, 4), **options}]]


def test_whole_chunks_of_clip_are_repeated_to_one_length():
    short, long, third = encoded(77), encoded(154), encoded(231)
    ((cross, options),) = batched([short, long, third])
    assert cross.shape == (3, 462, 8)
    assert torch.equal(cross[1, 154:308], long[0][0][0])
    assert torch.equal(options["pooled_output"][2:], third[0][1]["pooled_output"])


def test_what_other_encoders_give_is_refused_where_it_differs():
    masks = torch.ones(1, 256), torch.zeros(1, 256)
    assert batched([encoded(256, attention_mask=masks[0]), encoded(256, attention_mask=masks[0])])[0][0].shape[0] == 2
    with pytest.raises(
        BadInputError, match=r"not SDXL's, gives the prompts 256 to 300 tokens, so they cannot be drawn in one batch"
    ):
        batched([encoded(256), encoded(300)])
    with pytest.raises(BadInputError, match=r"gives the prompts each its attention_mask, so"):
        batched([encoded(256, attention_mask=mask) for mask in masks])
