"""What ComfyUI's page says about the nodes, in every language: locales/<language>/nodeDefs.json and the help pages in web/docs."""

import json
import re
from typing import Any

import pytest

from ..conftest import PACK_ROOT

LOCALES = PACK_ROOT / "locales"
HELP = PACK_ROOT / "web" / "docs"
TRANSLATIONS = ["zh", "ja"]
# vue-i18n compiles names and descriptions, on older frontends tooltips too: these signs would be read as its syntax.
SYNTAX = re.compile(r"[{}|@\\\\]")


def read(language: str) -> dict[str, Any]:
    return json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8"))


def said(socket: Any) -> dict[str, str]:
    """Name and tooltip; a tooltip with vue-i18n's signs is left to the schema, from where the page takes it as it is."""
    words = {"name": socket.display_name or socket.id, "tooltip": socket.tooltip}
    return {key: text for key, text in words.items() if not SYNTAX.search(text)}


def english(node: Any) -> dict[str, Any]:
    schema = node.GET_SCHEMA()
    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": {socket.id: said(socket) for socket in schema.inputs},
        "outputs": {str(index): said(socket) for index, socket in enumerate(schema.outputs)},
    }


@pytest.fixture(scope="module")
def ours(pack_nodes: dict[str, Any]) -> dict[str, Any]:
    nodes = {name: node for name, node in pack_nodes.items() if getattr(node, "GET_SCHEMA", None)}
    return {name: node for name, node in sorted(nodes.items()) if "Fast Sprites" in node.CATEGORY}


def texts(part: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    if isinstance(part, str):
        return {path: part}
    return {leaf: text for key, value in part.items() for leaf, text in texts(value, (*path, key)).items()}


def test_english_is_what_the_nodes_say(ours, request):
    current = {name: english(node) for name, node in ours.items()}
    if request.config.getoption("--update-node-surface"):
        (LOCALES / "en" / "nodeDefs.json").write_text(json.dumps(current, indent=2) + "\n", encoding="utf-8")
        pytest.skip("locales/en/nodeDefs.json written anew; translate what changed, then commit")
    assert read("en") == current, "run pytest tests/comfy --update-node-surface and translate what changed"


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_translations_cover_every_word(ours, language: str):
    """Also the tooltips that the English file leaves to the schema."""
    wanted = texts({name: english(node) for name, node in ours.items()}).keys()
    for name, node in ours.items():
        wanted |= {(name, "inputs", socket.id, "tooltip") for socket in node.GET_SCHEMA().inputs}
    translated = texts(read(language))
    assert translated.keys() == wanted
    assert [path for path, text in translated.items() if not text.strip() or SYNTAX.search(text)] == []


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_translations_are_translated(language: str):
    in_english = texts(read("en"))
    same = [
        path
        for path, text in texts(read(language)).items()
        if path[-1] in ("description", "tooltip", "display_name") and text == in_english.get(path)
    ]
    assert same == []


@pytest.mark.parametrize("language", ["en", *TRANSLATIONS])
def test_help_pages_explain_every_input(ours, language: str):
    """A row of the table names each input by its id; the page's title is the node's."""
    for name, node in ours.items():
        path = HELP / (f"{name}.md" if language == "en" else f"{name}/{language}.md")
        title, *lines = path.read_text(encoding="utf-8").splitlines()
        assert title == f"# {read(language)[name]['display_name']}", path
        named = {word for line in lines if line.startswith("|") for word in re.findall(r"\w+", line.split("|")[1])}
        assert {socket.id for socket in node.GET_SCHEMA().inputs} <= named, path


def test_no_help_page_is_left_over(ours):
    pages = {path.relative_to(HELP).as_posix() for path in HELP.rglob("*.md")}
    assert pages == {f"{name}{end}" for name in ours for end in (".md", *(f"/{language}.md" for language in TRANSLATIONS))}
