"""dev.py's set-up: index pages, downloads, archives, ComfyUI's place, stamps, space."""

import hashlib
import http.server
import io
import json
import os
import sys
import tarfile
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from dev_tools import comfyui as comfyui_module
from dev_tools import environment, workspace
from dev_tools.archive import path_inside, unpack_folder
from dev_tools.comfyui import ComfyUI, find_comfyui, own_python, prepare_pinned
from dev_tools.download import download
from dev_tools.errors import DevError
from dev_tools.index import DEFAULT_INDEX, file_urls, find_file, index_url, require_index, without_credentials
from dev_tools.workspace import Workspace, link_checkpoint, link_folder, require_space


class Index:
    """A package index on the loopback interface; `files` maps paths to (content type, body)."""

    def __init__(self) -> None:
        self.files: dict[str, tuple[str, bytes]] = {}
        self.seen: list[tuple[str, str | None]] = []
        index = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                index.seen.append((self.path, self.headers.get("Authorization")))
                kind, body = index.files.get(self.path, ("text/plain", b""))
                self.send_response(200 if self.path in index.files else 404)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running = Index()
    yield running
    running.close()


def sdist(*members: tuple[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


SDIST_NAME = comfyui_module.SDISTS[comfyui_module.PINNED_VERSION][0]
GOOD_SDIST = sdist(
    ("pkg-1/setup.py", b"no"),
    ("pkg-1/vendor/ComfyUI/main.py", b"print()"),
    ("pkg-1/vendor/ComfyUI/comfyui_version.py", f'__version__ = "{comfyui_module.PINNED_VERSION}"\n'.encode()),
    ("pkg-1/vendor/ComfyUI/comfy/cli_args.py", b""),
)


# --- index


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, DEFAULT_INDEX),
        ({"PIP_INDEX_URL": "https://mirror/simple/"}, "https://mirror/simple"),
        ({"UV_DEFAULT_INDEX": "mine=https://a/simple", "PIP_INDEX_URL": "https://b/simple"}, "https://a/simple"),
        ({"UV_INDEX_URL": "https://c", "UV_DEFAULT_INDEX": " "}, "https://c"),
    ],
)
def test_index_url(variables: dict[str, str], expected: str):
    assert index_url(variables) == expected


def test_credentials_leave_the_url():
    url, headers = without_credentials("https://me:a%40b@host:8080/simple")
    assert url == "https://host:8080/simple"
    assert headers == {"Authorization": "Basic bWU6YUBi"}
    assert without_credentials("https://host/simple") == ("https://host/simple", {})


def test_pages_of_both_forms_give_absolute_urls():
    html = b'<a href="../../files/a%2Bb-1.tar.gz#sha256=00">a+b-1.tar.gz</a><a>no link</a>'
    assert file_urls(html, "text/html", "https://h/simple/a/") == {"a+b-1.tar.gz": "https://h/files/a%2Bb-1.tar.gz"}
    page = json.dumps({"files": [{"filename": "x", "url": "https://f/x-1.tar.gz"}]}).encode()
    assert file_urls(page, "application/vnd.pypi.simple.v1+json", "https://h/") == {"x-1.tar.gz": "https://f/x-1.tar.gz"}


def test_credentials_go_to_the_index_but_to_no_other_host(index: Index):
    here = json.dumps({"files": [{"url": "/f/x.tar.gz"}, {"url": "http://elsewhere/y.tar.gz"}]}).encode()
    index.files["/simple/x/"] = ("application/vnd.pypi.simple.v1+json", here)
    assert find_file(f"http://u:p@{index.host}/simple", "x", "x.tar.gz").headers
    assert not find_file(f"http://u:p@{index.host}/simple", "x", "y.tar.gz").headers
    assert all(authorization for _, authorization in index.seen)
    with pytest.raises(DevError, match=r"does not list z\.tar\.gz"):
        find_file(f"http://u:p@{index.host}/simple", "x", "z.tar.gz")


def test_no_network_is_said_in_one_sentence():
    with pytest.raises(DevError, match=r"^Could not fetch http://127\.0\.0\.1:9/pip/ \(.+\): connect to the network") as refused:
        require_index({"PIP_INDEX_URL": "http://127.0.0.1:9"})
    assert "\n" not in str(refused.value)


# --- download


def test_download_appears_whole(index: Index, tmp_path: Path):
    index.files["/f"] = ("application/gzip", b"content")
    target = tmp_path / "new" / "file"
    download(urllib.request.Request(f"http://{index.host}/f"), target, hashlib.sha256(b"content").hexdigest())
    assert target.read_bytes() == b"content"
    assert [path.name for path in target.parent.iterdir()] == ["file"]


def test_a_wrong_hash_leaves_nothing(index: Index, tmp_path: Path):
    index.files["/f"] = ("application/gzip", b"tampered")
    with pytest.raises(DevError, match=r"has SHA-256 [0-9a-f]{64}, expected 0000") as refused:
        download(urllib.request.Request(f"http://{index.host}/f"), tmp_path / "file", "0" * 64)
    assert "the file was deleted" in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_http_errors_name_url_and_status(index: Index, tmp_path: Path):
    with pytest.raises(DevError, match=r"/gone.*HTTP 404"):
        download(urllib.request.Request(f"http://{index.host}/gone"), tmp_path / "file", "")


def test_a_connection_that_breaks_off_keeps_the_old_state(tmp_path: Path, index: Index, monkeypatch: pytest.MonkeyPatch):
    index.files["/f"] = ("application/gzip", b"content")
    monkeypatch.setattr("dev_tools.console.ProgressLine.advance", _break_off)
    with pytest.raises(DevError, match="run the same command again"):
        download(urllib.request.Request(f"http://{index.host}/f"), tmp_path / "file", "")
    assert not (tmp_path / "file").exists()


def _break_off(*_: object) -> None:
    raise ConnectionResetError("reset by peer")


# --- archive


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("pkg-1/vendor/ComfyUI/main.py", "main.py"),
        ("pkg-1/vendor/ComfyUI/a/b.py", "a/b.py"),
        ("pkg-1/vendor/ComfyUI", None),
        ("pkg-1/vendor/Other/x", None),
        ("pkg-1", None),
        ("vendor/ComfyUI/x", None),
    ],
)
def test_path_inside(name: str, inside: str | None):
    found = path_inside(name, "vendor/ComfyUI")
    assert (found and found.as_posix()) == inside


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "pkg/vendor/ComfyUI/../../../x", "pkg/../x", "pkg/vendor/ComfyUI/C:/x", "pkg/vendor/ComfyUI/..\\x"],
)
def test_paths_that_leave_the_target_are_refused(tmp_path: Path, name: str):
    (tmp_path / "evil.tar.gz").write_bytes(sdist((name, b"evil")))
    with pytest.raises(DevError, match="leaves the target folder"):
        unpack_folder(tmp_path / "evil.tar.gz", "vendor/ComfyUI", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_links_in_the_archive_are_refused(tmp_path: Path):
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        info = tarfile.TarInfo("pkg/vendor/ComfyUI/link")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(info)
    with pytest.raises(DevError, match="neither a file nor a folder"):
        unpack_folder(tmp_path / "evil.tar", "vendor/ComfyUI", tmp_path / "out")


def test_what_an_interrupted_run_left_is_replaced(tmp_path: Path):
    (tmp_path / "good.tar.gz").write_bytes(GOOD_SDIST)
    (tmp_path / "out.part").mkdir()
    (tmp_path / "out.part" / "half").write_text("")
    unpack_folder(tmp_path / "good.tar.gz", "vendor/ComfyUI", tmp_path / "out")
    found = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert found == ["comfy/cli_args.py", "comfyui_version.py", "main.py"]


def test_an_archive_without_the_folder_is_refused(tmp_path: Path):
    (tmp_path / "other.tar.gz").write_bytes(sdist(("pkg/setup.py", b"")))
    with pytest.raises(DevError, match="holds no folder vendor/ComfyUI"):
        unpack_folder(tmp_path / "other.tar.gz", "vendor/ComfyUI", tmp_path / "out")


# --- the pinned ComfyUI, from the index to the unpacked tree


@pytest.fixture
def pinned(index: Index, monkeypatch: pytest.MonkeyPatch) -> Index:
    name = SDIST_NAME
    page = json.dumps({"files": [{"url": f"/files/{name}"}]}).encode()
    index.files[f"/simple/{comfyui_module.SDIST_PROJECT}/"] = ("application/vnd.pypi.simple.v1+json", page)
    index.files[f"/files/{name}"] = ("application/gzip", GOOD_SDIST)
    pins = {comfyui_module.PINNED_VERSION: (name, hashlib.sha256(GOOD_SDIST).hexdigest())}
    monkeypatch.setattr(comfyui_module, "SDISTS", pins)
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://{index.host}/simple")
    return index


def test_pinned_comfyui_is_fetched_once(pinned: Index, tmp_path: Path):
    prepare_pinned(Workspace(tmp_path))
    assert comfyui_module.version_of(tmp_path / "comfyui") == comfyui_module.PINNED_VERSION
    asked = len(pinned.seen)
    prepare_pinned(Workspace(tmp_path))
    assert len(pinned.seen) == asked


def test_a_tampered_sdist_is_not_unpacked(pinned: Index, tmp_path: Path):
    path = f"/files/{SDIST_NAME}"
    pinned.files[path] = ("application/gzip", sdist(("pkg/vendor/ComfyUI/main.py", b"evil")))
    with pytest.raises(DevError, match="do not trust"):
        prepare_pinned(Workspace(tmp_path))
    assert not (tmp_path / "comfyui").exists()


def test_a_half_downloaded_sdist_is_fetched_anew(pinned: Index, tmp_path: Path):
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / SDIST_NAME).write_bytes(GOOD_SDIST[:10])
    prepare_pinned(Workspace(tmp_path))
    assert (tmp_path / "comfyui" / "main.py").is_file()


# --- which ComfyUI


def make_comfyui(path: Path, version: str = "0.36.0") -> Path:
    path.mkdir(parents=True)
    (path / "main.py").write_text("")
    (path / "requirements.txt").write_text("torch\n")
    (path / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    return path


def test_comfyui_is_found_in_the_documented_order(tmp_path: Path):
    named, variable, around = (make_comfyui(tmp_path / name) for name in ("named", "variable", "around"))
    inside, outside = around / "custom_nodes" / "pack", tmp_path / "pack"
    environ, space = {"COMFYUI_PATH": str(variable)}, Workspace(tmp_path / "w")
    assert find_comfyui(named, environ, inside, space) == ComfyUI(named, is_pinned=False)
    assert find_comfyui(None, environ, inside, space) == ComfyUI(variable, is_pinned=False)
    assert find_comfyui(None, {}, inside, space) == ComfyUI(around, is_pinned=False)
    assert find_comfyui(None, {}, outside, space) == ComfyUI(space.comfyui, is_pinned=True)


def test_a_folder_without_comfyui_is_refused(tmp_path: Path):
    with pytest.raises(DevError, match=r"COMFYUI_PATH names .*which holds no ComfyUI"):
        find_comfyui(None, {"COMFYUI_PATH": str(tmp_path)}, tmp_path, Workspace(tmp_path))


def test_an_old_comfyui_is_refused(tmp_path: Path):
    old = make_comfyui(tmp_path / "old", "0.25.9")
    with pytest.raises(DevError, match=r"is ComfyUI 0\.25\.9, 0\.26\.0 or newer is needed"):
        find_comfyui(old, {}, tmp_path, Workspace(tmp_path))


def test_the_oldest_version_is_the_one_in_pyproject():
    text = (workspace.PACK_ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'requires-comfyui = ">={".".join(map(str, comfyui_module.OLDEST_VERSION))}"' in text


@pytest.mark.skipif(sys.platform == "win32", reason="environments are laid out differently on Windows")
def test_own_python_beside_comfyui(tmp_path: Path):
    comfyui = make_comfyui(tmp_path / "ComfyUI")
    assert own_python(comfyui) is None
    for place in (tmp_path / "python_embeded" / "python.exe", comfyui / ".venv/bin/python", comfyui / "venv/bin/python"):
        place.parent.mkdir(parents=True)
        place.write_text("")
        assert own_python(comfyui) == place


# --- the environment


def test_requirements_are_locked_for_the_pinned_comfyui_only(tmp_path: Path):
    pinned_names = [path.name for path in environment.requirement_files(ComfyUI(tmp_path, is_pinned=True), with_tests=True)]
    assert pinned_names == ["requirements.lock", "test-requirements.lock"]
    own_names = [path.name for path in environment.requirement_files(ComfyUI(tmp_path, is_pinned=False), with_tests=True)]
    assert own_names == ["requirements.txt", "requirements.in", "test-requirements.in"]


def test_the_locks_hold_every_pin():
    for name in ("requirements", "test-requirements"):
        asked = (workspace.CI / f"{name}.in").read_text(encoding="utf-8").splitlines()
        locked = (workspace.CI / f"{name}.lock").read_text(encoding="utf-8")
        for line in asked:
            if line and not line.startswith("#"):
                project, _, version = line.partition("==")
                assert f"\n{project.partition('[')[0]}=={version}" in locked, line


def test_stamps_know_what_is_there(tmp_path: Path):
    run, tests = tmp_path / "requirements.lock", tmp_path / "test-requirements.lock"
    run.write_text("torch==2.11.0\n")
    tests.write_text("pytest==9.2.0\n")
    with_tests = environment.wanted_stamp([run, tests])
    environment.write_stamp(tmp_path, with_tests)
    stamp = environment.read_stamp(tmp_path)
    assert environment.is_ready(stamp, with_tests)
    assert environment.is_ready(stamp, environment.wanted_stamp([run])), "the tests' environment also runs the demo"
    assert not environment.is_ready(environment.wanted_stamp([run]), with_tests)
    run.write_text("torch==2.12.0\n")
    assert not environment.is_ready(stamp, environment.wanted_stamp([run]))
    (tmp_path / environment.STAMP).write_text("{ cut off")
    assert environment.read_stamp(tmp_path) == {}


def test_pip_and_uv_get_the_same_index():
    env = environment.tool_environment({"PIP_INDEX_URL": "https://mirror/simple", "PATH": "x"})
    assert env["UV_DEFAULT_INDEX"] == env["PIP_INDEX_URL"] == "https://mirror/simple"
    assert env["PATH"] == "x"
    assert "UV_DEFAULT_INDEX" not in environment.tool_environment({})


def test_a_python_without_ensurepip_says_which_package_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(DevError, match=r"apt install python3\.\d+-venv"):
        environment.prepare_uv(Workspace(tmp_path))


def test_a_python_that_torch_has_no_build_for_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(environment, "NEWEST_PYTHON", (3, 9))
    with pytest.raises(DevError, match=r"run dev\.py with Python 3\.10 to 3\.9"):
        environment.prepare_environment(Workspace(tmp_path), ComfyUI(tmp_path, is_pinned=True), with_tests=False)


def test_a_full_disk_is_said_before_anything_is_fetched(tmp_path: Path):
    with pytest.raises(DevError, match=r"GiB are free on the disk of .*, 9999999 GiB are needed"):
        require_space(tmp_path / "new", 9_999_999)
    require_space(tmp_path / "new", 0)


# --- the base directory


def test_folder_links_are_made_and_moved(tmp_path: Path):
    first, second, link = tmp_path / "first", tmp_path / "second", tmp_path / "link"
    first.mkdir()
    second.mkdir()
    link_folder(first, link)
    link_folder(first, link)
    assert link.resolve() == first.resolve()
    link_folder(second, link)
    assert link.resolve() == second.resolve()
    second.rmdir()
    link_folder(first, link)  # a link that leads nowhere is replaced too
    assert link.resolve() == first.resolve()


def test_checkpoints_are_linked_not_copied(tmp_path: Path):
    checkpoint, folder = tmp_path / "sdxl.safetensors", tmp_path / "checkpoints"
    checkpoint.write_bytes(b"weights")
    folder.mkdir()
    assert link_checkpoint(checkpoint, folder) == "sdxl.safetensors"
    assert link_checkpoint(checkpoint, folder) == "sdxl.safetensors"
    assert os.path.samefile(folder / "sdxl.safetensors", checkpoint)
    assert link_checkpoint(folder / "sdxl.safetensors", folder) == "sdxl.safetensors"
    assert checkpoint.read_bytes() == b"weights"


def test_another_file_of_the_same_name_is_never_removed(tmp_path: Path):
    first, second, folder = tmp_path / "a" / "x.safetensors", tmp_path / "b" / "x.safetensors", tmp_path / "checkpoints"
    for path in (first, second, folder / "x"):
        path.parent.mkdir()
    first.write_bytes(b"first")
    second.write_bytes(b"second")
    link_checkpoint(first, folder)
    link_checkpoint(second, folder)  # our own link is moved
    assert (folder / "x.safetensors").read_bytes() == b"second"
    (folder / "x.safetensors").unlink()
    (folder / "x.safetensors").write_bytes(b"a copy that somebody made")
    with pytest.raises(DevError, match=r"holds another file named x\.safetensors"):
        link_checkpoint(first, folder)
    assert (folder / "x.safetensors").read_bytes() == b"a copy that somebody made"
