"""The files that tests/web/engines gives to the engines' parsers are what the pack writes.

After a change on purpose: python tests/unit/pixel/test_engine_fixtures.py writes them again.
"""

import sys
from pathlib import Path

import pytest

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import conftest  # noqa: F401  makes the pack importable

from fast_sprites.nodes.engine.pixel.sheet import plan_layout
from fast_sprites.nodes.engine.pixel.sheet_json import FrameNames, frame_names, sheet_json

FIXTURES = Path(__file__).resolve().parents[2] / "web" / "engines"
STYLES: tuple[FrameNames, ...] = ("name_index", "index")


def written(style: FrameNames) -> str:
    layout = plan_layout(3, (16, 8), columns=2, padding=2, extrude=1)
    facts = {"native": {"w": 16, "h": 8}, "pitch": 16.0, "palette": ["#1a1c2c"], "seeds": [1, 2, 3]}
    names = frame_names("knight", 3, style)
    return (
        sheet_json(layout, names, animation="knight", image="knight.png", indexed=False, frame_ms=120, sprite_facts=facts) + "\n"
    )


@pytest.mark.parametrize("style", STYLES)
def test_fixture_is_what_the_pack_writes(style):
    assert (FIXTURES / f"knight_{style}.json").read_text(encoding="utf-8") == written(style)


if __name__ == "__main__":
    for style in STYLES:
        (FIXTURES / f"knight_{style}.json").write_text(written(style), encoding="utf-8")
