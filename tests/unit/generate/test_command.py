"""`fast-sprites generate` on other systems: the command that goes on, and what is printed into a pipe."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fast_sprites.nodes.benchmark.commands import generate as command
from fast_sprites.nodes.benchmark.generate.manifest import Manifest
from fast_sprites.nodes.benchmark.generate.request import GenerateRequest

from ...conftest import PACK_ROOT

OPTIONS = argparse.Namespace(server=command.DEFAULT_SERVER, cluster=None)


@pytest.mark.parametrize(
    ("platform", "started", "words"),
    [
        ("linux", "/usr/bin/fast-sprites", "fast-sprites generate --output 'a b' --resume"),
        ("linux", "/clone/nodes/benchmark/__main__.py", "python -m nodes.benchmark generate --output 'a b' --resume"),
        ("linux", "nodes/benchmark", f"{sys.executable} nodes/benchmark generate --output 'a b' --resume"),
        ("win32", "fast-sprites", 'fast-sprites generate --output "a b" --resume'),
    ],
)
def test_the_command_that_goes_on_is_one_for_this_system(
    platform: str, started: str, words: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(sys, "argv", [started])
    assert command._resume_command(OPTIONS, "a b") == words


def test_folders_of_windows_need_no_quotes_in_its_shells(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(sys, "argv", ["fast-sprites"])
    assert command._resume_command(OPTIONS, "C:\\sprites\\new").endswith("--output C:\\sprites\\new --resume")


def test_a_folder_with_letters_that_the_code_page_lacks_is_told_all_the_same(tmp_path: Path):
    request = GenerateRequest(workflow={"1": {}}, prompts="sword", count=1)
    folder = tmp_path / "\u5251"
    with Manifest.create(folder, request) as manifest:
        manifest.add(request.sprite(0), b"picture", ".png")
    done = subprocess.run(
        [sys.executable, "-m", "nodes.benchmark", "generate", "--output", str(folder), "--resume"],
        cwd=PACK_ROOT,
        env={**os.environ, "PYTHONIOENCODING": "cp1252"},
        capture_output=True,
        encoding="cp1252",
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "1 sprites, 1 of them finished" in done.stdout
    assert done.stdout.endswith("\\u5251\n")
