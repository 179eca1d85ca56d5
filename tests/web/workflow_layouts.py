"""The bundled workflows as data: which nodes stand in which group and column, and how they are linked."""

from dataclasses import dataclass, field
from typing import Any

CHECKPOINT = "sd_xl_base_1.0.safetensors"
# As in ComfyUI's own SDXL templates: the page then offers the file to whoever lacks it.
CHECKPOINT_MODELS = [
    {
        "name": CHECKPOINT,
        "url": f"https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/{CHECKPOINT}?download=true",
        "directory": "checkpoints",
    }
]


@dataclass(frozen=True)
class Node:
    """One node; `inputs` maps an input to (node key, output name), sizes are pixels and grow to what the widgets need.

    `models` are the files that it needs, as the page's own templates name them.
    """

    type: str
    title: str = ""
    widgets: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, tuple[str, str]] = field(default_factory=dict)
    width: int = 300
    height: int = 0
    models: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Column:
    """Nodes from top to bottom, the first at `top` pixels."""

    top: int
    nodes: dict[str, Node]


@dataclass(frozen=True)
class Group:
    """Columns from left to right in one coloured frame; `below` puts it under the node of that key."""

    title: str
    color: str
    columns: list[Column]
    below: str | None = None


@dataclass(frozen=True)
class Bend:
    """A point that a link passes, in pixels right of and below a node's corner."""

    node: str
    right: int
    below: int


@dataclass(frozen=True)
class Workflow:
    """One file in `workflows/`; `detours` leads links, named by target and input, round what stands in their way."""

    name: str
    groups: list[Group]
    detours: dict[tuple[str, str], list[Bend]] = field(default_factory=dict)

    def nodes(self) -> dict[str, Node]:
        """All nodes by key."""
        return {key: node for group in self.groups for column in group.columns for key, node in column.nodes.items()}

    def links(self) -> list[dict[str, Any]]:
        """Every link with the bends on its way."""
        return [
            {"target": key, "input": name, "source": source, "output": output, "bends": self.detours.get((key, name), [])}
            for key, node in self.nodes().items()
            for name, (source, output) in node.inputs.items()
        ]


# Group colours that carry their title: those of ComfyUI's own colour menu, its purple lightened.
BLUE, GREEN, PURPLE, YELLOW, CYAN, RED = "#88A", "#8A8", "#a78bc0", "#b58b2a", "#8AA", "#A88"

SPRITE_PROMPT = "game sprite of a knight with a blue cape, full body, centered, facing right, clean outline, flat colors, plain white background"
SPRITE_NEGATIVE = "blurry, photo, text, watermark, frame, cropped, several characters, busy background, gradient background"
PIXEL_PROMPT = (
    "pixel art sprite of a knight with a blue cape, 16-bit game, full body, centered, facing right, sharp square pixels, "
    "limited palette, hard edges, black outline, plain white background"
)
PIXEL_NEGATIVE = (
    "blurry, smooth, anti-aliasing, soft edges, gradient, depth of field, jpeg artifacts, photo, 3d render, text, "
    "watermark, cropped, several characters, busy background"
)
ITEMS = """iron sword
wooden shield
{red|blue|green} potion
golden key
leather boots
treasure chest
magic scroll
ruby ring"""
SPRITE_SUFFIX = "game sprite, centered, clean outline, flat colors, plain white background"
ITEM_SUFFIX = "pixel art game item icon, centered, sharp square pixels, limited palette, black outline, plain white background"
SEED = 42

SINGLE_NOTE = """**1. Checkpoint** Pick your SDXL file; until then the page may call SDXL's own one missing.

**2. What to draw** Keep *plain white background* for sprites.

**3. Run** and read the reports on the nodes: what was applied to the model and the VAE, what was refused and why.

The seed changes after every run. Set *control after generate* to *fixed* to keep a sprite you like."""

BATCH_NOTE = """**1. Checkpoint** Pick your SDXL file; until then the page may call SDXL's own one missing.

**2. What to draw** Keep *plain white background* for sprites.

**3. count** in *Draw the batch*: how many sprites. Each has its own seed (seed, seed + 1, ...) and is the picture that this seed draws alone.

*micro_batch* 0 draws as many at once as fit into the memory."""

PIXEL_NOTE = """**1. Checkpoint** Pick your SDXL file; until then the page may call SDXL's own one missing. A pixel-art LoRA goes between it and *Optimize Model*.

**2. What to draw** Keep the words about pixels and the plain background.

**3. native_width** in *Pixel Grid Snap*: 0 finds the size of the drawn pixels; 64 asks for 64.

**4. source** in *Pixel Palette*: colours found in the pictures, or a console's.

The sheet and its JSON are saved in *output/sprites*."""

SHEET_NOTE = """**1. Checkpoint** Pick your SDXL file; until then the page may call SDXL's own one missing.

**2. prompts** in *Sprite Prompts*: one item per line. {a|b} stands for alternatives; prefix and suffix stand around every line.

**3. Run.** As many sprites as lines are drawn, each with its own seed, cut out and laid out in one sheet.

The sheet and its JSON, with the seeds, are saved in *output/sprites*."""

TO_DISK_NOTE = """**1. Checkpoint** Pick your SDXL file; until then the page may call SDXL's own one missing.

**2. prompts** in *Sprite Prompts*: one sprite per line. {a|b} stands for alternatives; prefix and suffix stand around every line.

**3. count** in *Sprite Prompts*: 0 draws one per line, 200 draws 200, beginning anew after the last line.

Every micro-batch is decoded and saved before the next one is drawn, in *output/sprites*."""

BASELINE_NOTE = """The same picture settings as in *{twin}*, on ComfyUI's own nodes alone: run both to see what the optimised one saves.

**1. Checkpoint** Pick your SDXL file; until then the page may call SDXL's own one missing.

**2. What to draw** Keep *plain white background* for sprites."""


def load_group(text: str, top: int) -> Group:
    checkpoint = Node("CheckpointLoaderSimple", "SDXL checkpoint", {"ckpt_name": CHECKPOINT}, width=290, models=CHECKPOINT_MODELS)
    note = Node("MarkdownNote", "Change these first", {"text": text}, width=290, height=330)
    return Group("Load", BLUE, [Column(top, {"checkpoint": checkpoint, "note": note})])


def prompt_group(top: int, positive: str, negative: str, batch_size: int | None = None, below: str | None = None) -> Group:
    """The two prompts and, with `batch_size`, the empty latent."""

    def prompt(title: str, text: str) -> Node:
        return Node("CLIPTextEncode", title, {"text": text}, {"clip": ("checkpoint", "CLIP")}, width=340, height=100)

    nodes = {"positive": prompt("What to draw", positive), "negative": prompt("What to avoid", negative)}
    if batch_size is not None:
        widgets = {"width": 1024, "height": 1024, "batch_size": batch_size}
        nodes["size"] = Node("EmptyLatentImage", "Size and number", widgets, width=340)
    return Group("Prompt", GREEN, [Column(top, nodes)], below)


def optimize_model_group() -> Group:
    node = Node("OptimizeModel", "", {}, {"model": ("checkpoint", "MODEL")}, width=340, height=340)
    return Group("Optimize the model", PURPLE, [Column(0, {"optimize_model": node})])


def optimize_vae_group(top: int) -> Group:
    node = Node("OptimizeVAE", "", {}, {"vae": ("checkpoint", "VAE")}, width=340, height=250)
    return Group("Optimize the VAE", PURPLE, [Column(top, {"optimize_vae": node})], "optimize_model")


def sample_group(top: int, node: Node) -> Group:
    return Group("Sample", YELLOW, [Column(top, {"sample": node})])


def ksampler(model: tuple[str, str]) -> Node:
    widgets = {"seed": SEED, "control_after_generate": "randomize", "steps": 20, "cfg": 8.0, "denoise": 1.0}
    widgets |= {"sampler_name": "euler_ancestral", "scheduler": "karras"}
    conditioning = {"positive": ("positive", "CONDITIONING"), "negative": ("negative", "CONDITIONING")}
    return Node("KSampler", "Draw", widgets, {"model": model, **conditioning, "latent_image": ("size", "LATENT")}, width=280)


def batch_sampler(steps: int, cfg: float, count: tuple[str, str] | None = None, draw: str = "now") -> Node:
    widgets = {"count": 8, "width": 1024, "height": 1024, "seed": SEED, "control_after_generate": "randomize"}
    widgets |= {"seed_mode": "increment", "steps": steps, "cfg": cfg, "denoise": 1.0}
    widgets |= {"sampler_name": "euler_ancestral", "scheduler": "karras", "draw": draw}
    if count is None:
        inputs = {"positive": ("positive", "CONDITIONING"), "negative": ("negative", "CONDITIONING")}
    else:
        inputs = {"positive": ("prompts", "positive"), "negative": ("prompts", "negative"), "count": count}
    inputs = {"model": ("optimize_model", "model"), **inputs}
    return Node("BatchSpriteSampler", "Draw the batch", widgets, inputs, width=300, height=640)


def measure_group(top: int, value: tuple[str, str]) -> Group:
    node = Node("MemoryProbe", "", {"label": "after sampling"}, {"value": value}, width=340, height=500)
    return Group("Measure", CYAN, [Column(top, {"probe": node})])


def decode_group(decode_top: int, save_top: int, latent: tuple[str, str], vae: tuple[str, str], prefix: str) -> Group:
    decode = Node("VAEDecode", "", {}, {"samples": latent, "vae": vae}, width=220)
    save = Node("SaveImage", "", {"filename_prefix": prefix}, {"images": ("decode", "IMAGE")}, width=440, height=520)
    return Group("Decode and save", RED, [Column(decode_top, {"decode": decode}), Column(save_top, {"save": save})])


def sprite_optimized() -> Workflow:
    return Workflow(
        "sprite_optimized",
        [
            load_group(SINGLE_NOTE, 520),
            optimize_model_group(),
            prompt_group(450, SPRITE_PROMPT, SPRITE_NEGATIVE, batch_size=1, below="optimize_model"),
            optimize_vae_group(980),
            sample_group(520, ksampler(("optimize_model", "model"))),
            measure_group(380, ("sample", "LATENT")),
            decode_group(920, 400, ("probe", "value"), ("optimize_vae", "vae"), "sprite"),
        ],
    )


def batch_optimized() -> Workflow:
    return Workflow(
        "batch_optimized",
        [
            load_group(BATCH_NOTE, 520),
            optimize_model_group(),
            prompt_group(450, SPRITE_PROMPT, SPRITE_NEGATIVE, below="optimize_model"),
            optimize_vae_group(980),
            sample_group(330, batch_sampler(20, 8.0)),
            measure_group(300, ("sample", "latent")),
            decode_group(930, 350, ("probe", "value"), ("optimize_vae", "vae"), "batch"),
        ],
    )


def pixel_groups(sheet_prefix: str, sheet_inputs: dict[str, tuple[str, str]], below_snap: dict[str, Node]) -> list[Group]:
    """From the batch's latent to the sheet: decode, snap, recolour, cut out, save."""
    decode = Node("VAEDecode", "", {}, {"samples": ("sample", "latent"), "vae": ("optimize_vae", "vae")}, width=220)
    snap = Node("PixelGridSnap", "", {}, {"image": ("decode", "IMAGE")}, width=300, height=330)
    palette = Node("PixelPalette", "", {}, {"image": ("snap", "native")}, width=300)
    background = Node("SpriteBackground", "", {}, {"image": ("palette", "image")}, width=300)
    links = {"image": ("background", "sprite"), "palette": ("palette", "palette"), "grid": ("snap", "grid"), **sheet_inputs}
    sheet = Node("SpriteSheet", "", {"filename_prefix": sheet_prefix}, links, width=380, height=760)
    columns = [
        Column(760, {"snap": snap, **below_snap}),
        Column(340, {"palette": palette}),
        Column(30, {"background": background}),
    ]
    return [
        Group("Decode", RED, [Column(970, {"decode": decode})]),
        Group("Make real pixels of them", CYAN, columns),
        Group("Save for the game", RED, [Column(200, {"sheet": sheet})]),
    ]


def pixel_art() -> Workflow:
    drawn = Node("PreviewImage", "As drawn", {}, {"images": ("decode", "IMAGE")}, width=300, height=330)
    return Workflow(
        "pixel_art_workflow",
        [
            load_group(PIXEL_NOTE, 520),
            optimize_model_group(),
            prompt_group(450, PIXEL_PROMPT, PIXEL_NEGATIVE, below="optimize_model"),
            optimize_vae_group(980),
            sample_group(350, batch_sampler(25, 9.0)),
            *pixel_groups("sprites/knight", {}, {"drawn": drawn}),
        ],
    )


def sprite_sheet() -> Workflow:
    widgets = {"prompts": ITEMS, "suffix": ITEM_SUFFIX, "negative": PIXEL_NEGATIVE, "control_after_generate": "randomize"}
    prompts = Node("SpritePrompts", "", widgets, {"clip": ("checkpoint", "CLIP")}, width=340, height=500)
    return Workflow(
        "sprite_sheet",
        [
            load_group(SHEET_NOTE, 460),
            optimize_model_group(),
            Group("Prompts", GREEN, [Column(450, {"prompts": prompts})], below="optimize_model"),
            optimize_vae_group(1060),
            sample_group(340, batch_sampler(25, 9.0, count=("prompts", "count"))),
            *pixel_groups("sprites/items", {"seeds": ("sample", "seeds")}, {}),
        ],
        # Under everything: only the wire into VAE Decode is in its way.
        {
            ("sheet", "seeds"): [
                Bend("sample", 318, 120),
                Bend("sample", 318, 740),
                Bend("snap", 0, 380),
                Bend("background", 316, 1110),
            ]
        },
    )


def sprites_to_disk() -> Workflow:
    widgets = {"prompts": ITEMS, "suffix": SPRITE_SUFFIX, "negative": SPRITE_NEGATIVE, "control_after_generate": "randomize"}
    prompts = Node("SpritePrompts", "", widgets, {"clip": ("checkpoint", "CLIP")}, width=340, height=500)
    sampler = batch_sampler(20, 8.0, count=("prompts", "count"), draw="while saving")
    links = {"prompts": ("prompts", "prompts"), "sprites": ("sample", "sprites"), "vae": ("optimize_vae", "vae")}
    save = Node("SaveSprites", "", {}, links, width=440, height=640)
    return Workflow(
        "sprites_to_disk",
        [
            load_group(TO_DISK_NOTE, 460),
            optimize_model_group(),
            Group("Prompts", GREEN, [Column(450, {"prompts": prompts})], below="optimize_model"),
            optimize_vae_group(1060),
            sample_group(340, sampler),
            Group("Decode and save", RED, [Column(400, {"save": save})]),
        ],
        # Both go round under the sampler.
        {
            ("save", "prompts"): [Bend("sample", -20, 740), Bend("sample", 320, 740)],
            ("save", "vae"): [Bend("sample", -60, 850), Bend("sample", 340, 850)],
        },
    )


def baseline(name: str, twin: str, batch_size: int) -> Workflow:
    return Workflow(
        name,
        [
            load_group(BASELINE_NOTE.format(twin=twin), 0),
            prompt_group(90, SPRITE_PROMPT, SPRITE_NEGATIVE, batch_size),
            sample_group(0, ksampler(("checkpoint", "MODEL"))),
            decode_group(480, 0, ("sample", "LATENT"), ("checkpoint", "VAE"), name),
        ],
        # The VAE's wire goes round under the prompts.
        {("decode", "vae"): [Bend("size", -64, 0), Bend("size", -20, 150), Bend("size", 364, 150)]},
    )


WORKFLOWS = [
    sprite_optimized(),
    batch_optimized(),
    pixel_art(),
    sprite_sheet(),
    sprites_to_disk(),
    baseline("baseline_single", "sprite_optimized", 1),
    baseline("baseline_batch", "batch_optimized", 8),
]

# No drawing without these crossings exists: the sampler's latent and the VAE meet in VAE Decode and so enclose the seeds; negative and
# count, which both end in the sampler, enclose the prompts.
UNAVOIDABLE = {
    "Optimize VAE -> VAE Decode.vae crosses Draw the batch -> Sprite Sheet.seeds",
    "Sprite Prompts -> Draw the batch.count crosses Sprite Prompts -> Save Sprites.prompts",
}
