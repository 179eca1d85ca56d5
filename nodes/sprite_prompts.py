"""SpritePrompts: a list of prompts as one batched conditioning."""

from typing import Any

from comfy_api.latest import io

from .engine.sprites.prompts import ALTERNATIVES, sprite_prompts
from .engine.sprites.run_prompts import encode_prompts
from .engine.sprites.seeds import MAX_SEED

SpritePromptList = io.Custom("SPRITE_PROMPTS")


class SpritePrompts(io.ComfyNode):
    """Encode one prompt per line, to be drawn together by BatchSpriteSampler."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Declare the sockets and widgets."""
        return io.Schema(
            node_id="SpritePrompts",
            display_name="Sprite Prompts",
            category="Fast Sprites",
            description="One prompt per line, drawn together in one batch. Sprite 1 takes line 1 and so on, beginning anew after the last line.",
            search_aliases=["prompt list", "batch prompt", "wildcard", "many prompts"],
            has_intermediate_output=True,  # the prompts are also shown when the node's result is cached
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder of the checkpoint that draws."),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default="iron sword\nwooden shield\n# lines like this one are skipped\n{red|blue|green} potion",
                    tooltip="One prompt per line. {a|b} stands for alternatives.",
                ),
                io.String.Input("prefix", default="", tooltip="Stands before every line."),
                io.String.Input("suffix", default="", tooltip="Stands after every line."),
                io.String.Input("negative", multiline=True, default="", tooltip="What none of the sprites shall show."),
                io.Int.Input("count", default=0, min=0, max=4096, tooltip="How many sprites; 0 makes one per line."),
                io.Combo.Input(
                    "alternatives",
                    options=list(ALTERNATIVES),
                    default="pick",
                    tooltip="pick: each sprite takes one alternative, by seed; every: a line becomes all its combinations.",
                ),
                io.Int.Input(
                    "seed", default=0, min=0, max=MAX_SEED, control_after_generate=True, tooltip="For alternatives: pick."
                ),
            ],
            outputs=[
                io.Conditioning.Output("positive", display_name="positive", tooltip="One conditioning row a sprite."),
                io.Conditioning.Output("negative", display_name="negative", tooltip="One row for all sprites."),
                SpritePromptList.Output("prompts", display_name="prompts", tooltip="The chosen prompts, for Save Sprites."),
                io.Int.Output("count", display_name="count", tooltip="Number of sprites, for Batch Sprite Sampler."),
            ],
        )

    @classmethod
    def execute(
        cls, clip: Any, prompts: str, prefix: str, suffix: str, negative: str, count: int, alternatives: str, seed: int
    ) -> io.NodeOutput:
        """Choose and encode the prompts; raises BadInputError for text without a prompt."""
        chosen = sprite_prompts(prompts, prefix, suffix, count, seed, alternatives)
        positive_rows, negative_row = encode_prompts(clip, chosen, negative)
        listing = "\n".join(f"{i + 1}: {prompt.text}" for i, prompt in enumerate(chosen))
        return io.NodeOutput(positive_rows, negative_row, tuple(chosen), len(chosen), ui={"text": [listing]})
