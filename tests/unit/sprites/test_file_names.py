import os
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from fast_sprites.nodes.engine.errors import BadInputError
from fast_sprites.nodes.engine.sprites import file_names
from fast_sprites.nodes.engine.sprites.file_names import MAX_COMPONENT_BYTES, publish, slug


def sprite_name(pattern, index, seed, prompt):
    return file_names.sprite_name(pattern, index, seed, prompt, 1024, 768)


PATTERN = "sprites/%prompt%_%seed%_%index%"


def test_tokens_are_filled_in():
    assert sprite_name(PATTERN, 4, 77, "Iron Sword, ornate") == "sprites/iron-sword-ornate_77_00005"


def test_missing_values_take_their_separator_along():
    assert sprite_name(PATTERN, 0, None, None) == "sprites/00001"
    assert sprite_name("a-%seed%-b", 0, None, None) == "a-b"
    assert sprite_name("%prompt%", 2, 1, "?!") == "sprite_00003"


def test_comfyuis_own_tokens_work():
    assert re.fullmatch(r"20\d\d-[01]\d-[0-3]\d/1024x768", sprite_name("%year%-%month%-%day%/%width%x%height%", 0, 1, ""))


def test_slug_ends_at_a_word():
    assert (
        slug("a very long prompt about a golden sword with many ornate details") == "a-very-long-prompt-about-a-golden-sword-with"
    )
    assert slug("x" * 100) == "x" * 48
    assert slug("Ärger_im Großen　Haus 剣") == "ärger-im-großen-haus-剣"


@pytest.mark.parametrize("name", ["con", "NUL", "com1", "lpt9.old", "Aux"])
def test_reserved_windows_names_are_marked(name):
    assert sprite_name(name, 0, 1, "") == f"_{name}"
    assert sprite_name(f"{name}/a", 0, 1, "") == f"_{name}/a"


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ('a<b>c:d"e|f?g*h', "a-b-c-d-e-f-g-h"),
        ("tab\tline\nzero\0", "tab-line-zero"),
        ("ends with dots. . .", "ends with dots"),
        (".hidden/.also", "hidden/also"),
        ("a//b\\c", "a/b/c"),
        ("folder/", "folder/sprite_00001"),
    ],
)
def test_names_are_safe_on_every_system(pattern, name):
    assert sprite_name(pattern, 0, 1, "") == name


def test_long_names_are_cut_at_whole_characters():
    name = sprite_name("剣" * 300, 0, 1, "")
    assert set(name) == {"剣"}
    assert MAX_COMPONENT_BYTES - 3 < len(name.encode()) <= MAX_COMPONENT_BYTES


@pytest.mark.parametrize("pattern", ["../a", "a/../../b", "/etc/a", "C:\\a", "c:a", "\\\\server\\a", "a\\..\\b"])
def test_leaving_the_folder_is_refused(pattern):
    with pytest.raises(BadInputError, match="leaves ComfyUI's output folder"):
        sprite_name(pattern, 0, 1, "")


def test_a_prompt_cannot_lead_out():
    assert sprite_name("%prompt%/a", 0, 1, "../../etc/passwd") == "etc-passwd/a"


@pytest.fixture(params=["links", "no links"])
def file_system(request, monkeypatch):
    if request.param == "no links":

        def refuse(*_):
            raise OSError("Operation not supported")

        monkeypatch.setattr(os, "link", refuse)


def test_existing_files_are_never_replaced(tmp_path, file_system):
    (tmp_path / "a.png").write_text("old")

    def save(i):
        temporary = tmp_path / f".{i}.tmp"
        temporary.write_text(str(i))
        return publish(temporary, tmp_path, "a", ".png")

    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(save, range(40)))
    assert (tmp_path / "a.png").read_text() == "old"
    assert {path.name for path in paths} == {f"a_{n}.png" for n in range(2, 42)}
    assert [path.read_text() for path in paths] == [str(i) for i in range(40)]
    assert not list(tmp_path.glob(".*"))
