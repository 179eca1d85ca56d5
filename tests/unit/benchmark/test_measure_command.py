"""`fast-sprites bench run` before any server answers: what is linked, what is refused, what goes into the record."""

import importlib.util
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from fast_sprites.nodes.benchmark import cli
from fast_sprites.nodes.benchmark.commands import bench_measure

from ...conftest import PACK_ROOT


def said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a refused command prints."""
    assert cli.main(["bench", "run", *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--start", "nowhere"], "nowhere is no ComfyUI folder (it has no main.py): name one with --start."),
        (["--start", ".", "--server", "http://127.0.0.1:8188"], "--server and --start were both given: choose one."),
        (["--server-flags=--fast"], "--server-flags and --pack are for a server that this command starts"),
        (["--server", "localhost:8188"], "--server localhost:8188 is no address: write http://HOST:PORT."),
        (["--server", "http://localhost:port"], "The server is 'http://localhost:port'; name it as host:port"),
        (["--server", "http://127.0.0.1:1"], "No ComfyUI answers at http://127.0.0.1:1"),
        (["--model", "fp8"], "'fp8' is no setting: write NAME=VALUE"),
        (["--scenarios", "singel"], "There is no scenario 'singel'"),
        (["--budget-s", "nan"], "--budget-s nan, --tight-pct 1, --max-rounds 40: seconds and percent must be at least 0"),
        (["--max-rounds", "0"], "--max-rounds 0: seconds and percent must be at least 0, rounds at least 1."),
        (["--server", "http://127.0.0.1:1", "--json", "x.md"], "--json x.md is a folder, or would be overwritten by what is"),
        (["--server", "http://127.0.0.1:1", "--json", "x.png"], "--json x.png is a folder, or would be overwritten by what is"),
        (["--server", "http://127.0.0.1:1", "--json", "."], "--json . is a folder, or would be overwritten by what is"),
    ],
)
def test_what_cannot_be_started_gets_one_sentence(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert says in said(arguments, capsys)
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_are_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    found: Any = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "PIL" else found(name))
    assert "Comparing pictures needs Pillow" in said([], capsys)


def options(**values: Any) -> Namespace:
    return Namespace(**{"pack": None, "checkpoint": None, "lora": None, "controlnet": None, **values})


def test_a_base_folder_of_its_own_links_what_was_named(tmp_path: Path):
    for name in ("sdxl.safetensors", "pixel.safetensors"):
        (tmp_path / name).write_bytes(b"weights")
    base = tmp_path / "base"
    base.mkdir()
    chosen = options(pack=[PACK_ROOT], checkpoint=str(tmp_path / "sdxl.safetensors"), lora=str(tmp_path / "pixel.safetensors"))
    bench_measure._own_base(chosen, base)
    assert (base / "custom_nodes" / PACK_ROOT.name / "__init__.py").is_file()
    assert (base / "models" / "checkpoints" / "sdxl.safetensors").read_bytes() == b"weights"
    assert (base / "models" / "loras" / "pixel.safetensors").is_file()
    assert list((base / "models" / "controlnet").iterdir()) == []


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(bench_measure.BadInputError, match=r"There is no file none\.safetensors: with --pack, --lora is the path"):
        bench_measure._own_base(options(pack=[PACK_ROOT], lora="none.safetensors"), tmp_path)


def test_a_system_that_makes_no_links_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def refuse(link: Path, target: Path, target_is_directory: bool = False) -> None:
        raise OSError(22, "A required privilege is not held by the client", str(target), 1314, str(link))

    monkeypatch.setattr(Path, "symlink_to", refuse)
    with pytest.raises(
        bench_measure.PackError, match=r"cannot be linked .*not held by the client\): Windows wants its Developer"
    ):
        bench_measure._own_base(options(pack=[PACK_ROOT]), tmp_path)


def test_server_flags_keep_the_backslashes_of_windows(monkeypatch: pytest.MonkeyPatch):
    flags = r'--lowvram --output-directory "C:\My pictures"'
    assert bench_measure._words(flags) == ["--lowvram", "--output-directory", "C:\\My pictures"]
    monkeypatch.setattr(bench_measure.sys, "platform", "win32")
    for flags in (r'--lowvram --output-directory "C:\My pictures\new"', r"--lowvram --output-directory C:\new"):
        assert bench_measure._words(flags)[2] in (r"C:\My pictures\new", r"C:\new")


def test_the_record_s_command_holds_no_folders():
    arguments = [
        "bench",
        "run",
        "--start",
        "/home/me/ComfyUI",
        "--checkpoint",
        "C:\\models\\sdxl.safetensors",
        "--server",
        "http://host:8188",
    ]
    assert bench_measure._shareable(arguments) == [
        *("bench", "run", "--start", "ComfyUI", "--checkpoint", "sdxl.safetensors", "--server", "http://host:8188")
    ]
    assert "/" not in " ".join(bench_measure._shareable(["--server-flags=--front-end-root /home/me/web --fast"]))


@pytest.mark.parametrize("kind", ["run", "ladder", "scaling", "compare", "report"])
def test_every_kind_explains_itself(kind: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", kind, "--help"])
    assert ended.value.code == 0
    assert "usage: fast-sprites bench " + kind in capsys.readouterr().out
