"""Passwords in URLs: used, and shown, logged and written nowhere."""

from pathlib import Path
from typing import Any

import pytest
from fast_sprites.nodes.benchmark.cli import main
from fast_sprites.nodes.benchmark.commands import generate as command
from fast_sprites.nodes.benchmark.commands.bench_measure import _shareable
from fast_sprites.nodes.benchmark.generate import run, storage
from fast_sprites.nodes.benchmark.generate.manifest import Manifest
from fast_sprites.nodes.benchmark.generate.request import GenerateRequest
from fast_sprites.nodes.benchmark.urls import without_password

SECRET = "hunter2"  # noqa: S105 - the one that is looked for


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"s3://user:{SECRET}@host/a", "s3://user:***@host/a"),
        (f"sftp://:{SECRET}@host:22/a@b", "sftp://:***@host:22/a@b"),
        (f"simplecache::ftp://user:@{SECRET}@@host", "simplecache::ftp://user:***@host"),
        (f"s3://key:a/{SECRET}/b@bucket/items", "s3://key:***@bucket/items"),
        (f"user:{SECRET}@studio:8188", "user:***@studio:8188"),
        (f"/user:{SECRET}@store/items", "/user:***@store/items"),
        (f"--server=http://user:{SECRET}@studio:8188", "--server=http://user:***@studio:8188"),
        (
            f"Neither 'ftp://u:{SECRET}@a' nor 'ftp://v:{SECRET}@b' answers.",
            "Neither 'ftp://u:***@a' nor 'ftp://v:***@b' answers.",
        ),
        *[
            (text, text)
            for text in ("webhdfs://name:9870/me@studio/a", "s3://bucket/a:b@c", "s3://user@bucket/a", "http://[::1]:8188/")
        ],
    ],
)
def test_passwords_are_told_from_ports_and_paths(text: str, shown: str):
    assert without_password(text) == shown


@pytest.fixture
def url(tmp_path: Path) -> str:
    pytest.importorskip("fsspec", reason="a batch at a URL needs fsspec: pip install fsspec")
    return f"memory://user:{SECRET}@store{tmp_path}/batch"


def test_a_batch_at_a_url_with_a_password_is_stopped_resumed_and_refused(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    async def draw_one_and_stop(manifest: Manifest, *_: object) -> None:
        manifest.add(manifest.request.sprite(manifest.num_finished), b"picture", ".png")
        if manifest.num_finished < 3:
            raise run.StoppedError(f"{manifest.folder} cannot be written ({url} is full).")

    async def require_no_server(*_: object) -> None:
        pass

    monkeypatch.setattr(run, "generate", draw_one_and_stop)
    monkeypatch.setattr(run, "require_server", require_no_server)
    (tmp_path / "prompts.txt").write_text("sword\nshield\npotion\n")
    server = ["--server", f"http://user:{SECRET}@127.0.0.1:9"]
    begun = ["generate", "--prompts", str(tmp_path / "prompts.txt"), "--output", url, *server]
    assert [main(begun), main([*begun, "--resume"]), main(["generate", "--output", url, "--resume"])] == [1, 1, 0]
    assert main(begun) == main([*begun, "--resume", "--seed", "1"]) == 1
    said = capsys.readouterr()
    assert SECRET not in said.out + said.err
    shown = storage.UrlFolder(url)
    assert f"into {shown}" in said.out
    assert f"go on with: {command._resume_command(_options(server[1]), str(shown))}" in said.err
    assert "--server 'http://user:***@127.0.0.1:9'" in said.err
    assert f"{shown} already holds a batch" in said.err
    assert f"{shown} holds another request" in said.err
    lines = storage.UrlFolder(url).read(storage.NAME)
    assert lines.count(b'"kind": "sprite"') == 3
    assert SECRET.encode() not in lines


def _options(server: str) -> Any:
    return command.argparse.Namespace(server=server, cluster=None)


def test_what_a_file_system_says_of_a_url_is_shown_without_it(url: str, monkeypatch: pytest.MonkeyPatch):
    with Manifest.create(url, GenerateRequest(workflow={"1": {}}, prompts="sword", count=1, seed=0)) as manifest:

        def fail(*_: object, **__: object) -> None:
            raise ValueError(f"cannot connect to {url}")

        monkeypatch.setattr(manifest.folder._system, "pipe_file", fail)  # type: ignore[union-attr] - a UrlFolder
        with pytest.raises(OSError, match="cannot connect to memory") as error:
            manifest.add(manifest.request.sprite(0), b"picture", ".png")
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    "server", [f"http://user:{SECRET}@127.0.0.1:1", f"user:{SECRET}@127.0.0.1:1", f"user:{SECRET}@host:port"]
)
@pytest.mark.parametrize("words", [["generate", "--prompts", "PROMPTS", "--output", "OUTPUT"], ["bench", "run"]])
def test_a_server_that_cannot_be_used_is_named_without_it(
    server: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "prompts.txt").write_text("sword\n")
    files = {"PROMPTS": "prompts.txt", "OUTPUT": "sprites"}
    words = [str(tmp_path / files[word]) if word in files else word for word in words]
    assert main([*words, "--server", server]) == 1
    error = capsys.readouterr().err
    assert "user:***@" in error
    assert SECRET not in error


def test_a_record_holds_none(tmp_path: Path):
    command = ["bench", f"--server=http://user:{SECRET}@studio:8188", "--server", f"http://user:{SECRET}@studio:8188"]
    assert SECRET not in " ".join(_shareable(command))
