"""Save paths: whatever pattern, prompt or prefix a graph holds, a name stays in its folder and is one that every system takes."""

import os
import re
import unicodedata
from pathlib import Path, PureWindowsPath

import pytest

pytest.importorskip("hypothesis", reason="the fuzz tests need hypothesis: pip install hypothesis")

from fast_sprites.nodes.benchmark.generate.request import GenerateRequest, Sprite
from fast_sprites.nodes.engine.errors import BadInputError
from fast_sprites.nodes.engine.sprites.file_names import publish, relative_parts, slug, sprite_name
from hypothesis import example, given
from hypothesis import strategies as st

from .hostile import texts

needs_links = pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
RESERVED = {"con", "prn", "aux", "nul", "conin$", "conout$"} | {
    f"{name}{digit}" for name in ("com", "lpt") for digit in "0123456789\u00b9\u00b2\u00b3"
}
LONGEST_ADDITION = len("_12345.webp")


def assert_plain(component: str) -> None:
    """Linux, macOS and Windows all take this as the name of one file, and show it as it is."""
    assert component not in ("", ".", "..")
    assert not re.search(r'[<>:"/\\|?*]', component)
    assert not any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in component)
    assert not re.search("[\u200e\u200f\u202a-\u202e\u2066-\u2069]", component)
    assert component == component.rstrip(" .")
    assert component.split(".")[0].rstrip().lower() not in RESERVED
    assert len(component.encode()) + LONGEST_ADDITION <= 255


@given(pattern=texts, prompt=texts, seed=st.one_of(st.none(), st.integers(0, 2**64 - 1)), index=st.integers(0, 10**7))
@example(pattern=".%prompt%.", prompt="", seed=None, index=0)
@example(pattern="%prompt%", prompt="con", seed=None, index=0)
@example(pattern="COM\u00b9", prompt="", seed=None, index=0)
@example(pattern="aux .v2", prompt="", seed=None, index=0)
@example(pattern="a\ud800b", prompt="", seed=None, index=0)
@example(pattern="sword\u202egnp.exe", prompt="", seed=None, index=0)
def test_a_sprites_name_stays_in_its_folder(tmp_path: Path, pattern: str, prompt: str, seed: int | None, index: int):
    try:
        name = sprite_name(pattern, index, seed, prompt, 1024, 1024)
    except BadInputError:
        return
    for component in name.split("/"):
        assert_plain(component)
    assert (tmp_path / name).resolve().is_relative_to(tmp_path.resolve())
    windows = PureWindowsPath("C:/out", name)
    assert windows.is_relative_to("C:/out")
    assert ".." not in windows.parts


@given(prefix=texts)
def test_a_sheets_prefix_stays_in_its_folder(prefix: str):
    try:
        parts = relative_parts(prefix, "filename_prefix")
    except BadInputError:
        return
    for component in parts:
        assert_plain(component)


@given(prompt=texts)
def test_a_prompts_slug_is_words_and_dashes(prompt: str):
    assert re.fullmatch(r"(\w+(-\w+)*)?", slug(prompt))


@given(
    line=texts.filter(lambda text: text.strip() and not text.strip().startswith("#")),
    seed=st.integers(0, 2**64 - 1),
    index=st.integers(0, 10**7 - 1),
)
def test_generates_files_stay_in_the_output_folder(line: str, seed: int, index: int):
    request = GenerateRequest(workflow={}, prompts="sword", count=1)
    for component in request.file_stem(Sprite(index, seed, line)).split("/"):
        assert_plain(component)


@needs_links
@given(stem=texts.map(lambda text: sprite_name("%prompt%", 0, None, text, 8, 8)))
def test_a_published_file_replaces_none(tmp_path: Path, stem: str):
    folder = Path(os.path.realpath(tmp_path / "out"))
    folder.mkdir(exist_ok=True)
    outside = tmp_path / "outside.png"
    outside.write_bytes(b"kept")
    before = {path: path.read_bytes() for path in folder.iterdir() if not path.is_symlink()}
    if not (folder / f"{stem}.png").exists():
        (folder / f"{stem}.png").symlink_to(outside)
    (folder / "made.tmp").write_bytes(b"new")
    final = publish(folder / "made.tmp", folder, stem, ".png")
    assert final.parent == folder
    assert (final.read_bytes(), outside.read_bytes()) == (b"new", b"kept")
    assert {path: path.read_bytes() for path in before} == before
    final.unlink()


@needs_links
def test_a_dangling_link_is_not_followed(tmp_path: Path):
    (tmp_path / "sword.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "made.tmp").write_bytes(b"new")
    assert publish(tmp_path / "made.tmp", tmp_path, "sword", ".png").name == "sword_2.png"
    assert not (tmp_path / "nowhere.png").exists()
