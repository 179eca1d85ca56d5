"""What README and docs/ say: links lead somewhere, commands parse, quoted sentences are the code's, GB10's plan is the planner's."""

import ast
import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from dev_tools import command_line
from fast_sprites.nodes.benchmark import cli
from fast_sprites.nodes.benchmark.commands import doctor

from ..conftest import PACK_ROOT
from .machines import GB10

PAGES = [PACK_ROOT / "README.md", *sorted((PACK_ROOT / "docs").rglob("*.md"))]
ALL_PAGES = [*PAGES, PACK_ROOT / "CHANGELOG.md", *sorted((PACK_ROOT / "web" / "docs").rglob("*.md"))]
PROGRAMS = re.compile(
    r"^(?:python3? dev\.py|dev\.py|fast-sprites|python3? -m nodes\.benchmark|(?=bench (?:run|ladder|scaling|compare|report)\b))"
)


def name_of(path: Path) -> str:
    return path.relative_to(PACK_ROOT).as_posix()


def prose(text: str) -> str:
    """A page without its fenced code."""
    return re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(path.read_text(encoding="utf-8")), flags=re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).lower()).replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("page", ALL_PAGES, ids=name_of)
def test_links_and_pictures_are_there(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text(encoding="utf-8"))):
        if re.match(r"https?:|mailto:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path), target


def test_every_page_can_be_reached_from_readme():
    """By links to pages, and to folders of them."""
    seen: set[Path] = set()
    waiting = [PACK_ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md" or not page.is_file():
            continue
        seen.add(page)
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
            path = (page.parent / target).resolve()
            waiting += path.glob("*.md") if path.is_dir() else [path]
    assert [name_of(page) for page in PAGES if page not in seen] == []


def complete_commands(text: str) -> Iterator[str]:
    """The lines of fenced code that run a command of this pack."""
    for block in re.findall(r"^( *)```\w*\n(.*?)^\1```$", text, flags=re.DOTALL | re.MULTILINE):
        for line in block[1].replace("\\\n", " ").splitlines():
            if PROGRAMS.match(line.strip()):
                yield line.strip()


def named_commands(text: str) -> Iterator[str]:
    """The commands in running text and tables, which may leave out what they are run on."""
    return (span for span in re.findall(r"`([^`\n]+)`", prose(text)) if PROGRAMS.match(span))


def refusal(command: str) -> str:
    """What the program's own parser has against a command, "" when nothing."""
    words = shlex.split(command.partition(" > ")[0], comments=True)
    shown = io.StringIO()
    try:
        with contextlib.redirect_stderr(shown), contextlib.redirect_stdout(shown):
            if "dev.py" in words[0:2]:
                command_line.parse(words[words.index("dev.py") + 1 :])
            else:
                cli.parser().parse_args(words if words[0] == "bench" else words[3 if "-m" in words[:2] else 1 :])
    except SystemExit as ended:
        return shown.getvalue() if ended.code else ""
    return ""


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_are_understood(page: Path):
    text = page.read_text(encoding="utf-8")
    refused = {command: why for command in complete_commands(text) if (why := refusal(command))}
    for command in named_commands(text):
        why = refusal(command)
        if why and "the following arguments are required" not in why and "expected one argument" not in why:
            refused[command] = why
    assert refused == {}


def sentences() -> Iterator[str]:
    """Every text in the pack's code, with an ellipsis for each value in it."""
    for path in (PACK_ROOT / "nodes").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
            elif isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "\u2026" for part in node.values)


def test_quoted_sentences_are_the_codes():
    """A quotation is a line that begins with `>`; its ellipses stand for values, the ends may be left out."""
    known = list(sentences())
    for name in ("troubleshooting.md", "dgx-spark.md"):
        quoted = re.findall(r"^ *> `(.+)`$", (PACK_ROOT / "docs" / name).read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert quoted, name
        for sentence in quoted:
            if sentence == "FP8 is known to lose to fp16 on NVIDIA GB10; choose engine fast by name to use it all the same":
                continue  # tests/unit/engine/test_model_plan.py has it, values included
            pattern = re.compile(".*".join(re.escape(part) for part in sentence.split("\u2026")))
            assert any(pattern.search(text) for text in known), f"{name}: {sentence}"


def test_gb10s_plan_is_the_planners(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "test_kernels", lambda machine, device: ())
    attentions: dict[str, str] = {}
    printed = doctor.as_text(doctor.plans(GB10, attentions, doctor.machine_facts(GB10, attentions), "cuda")).splitlines()
    page = (PACK_ROOT / "docs" / "dgx-spark.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```text\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)
    assert [line for line in shown.splitlines() if line not in printed] == []
    decisions = [line for line in printed if line.startswith(("  applied", "  kept", "  refused"))]
    assert [line for line in decisions if line not in shown] == []
    without = replace(GB10, triton_missing="is not installed")
    assert doctor.plans(without, attentions, {}, "cuda").model_decisions[0].reason.startswith("eager")
