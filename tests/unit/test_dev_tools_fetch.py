"""What dev.py fetches: from which index, checked, unpacked, and whole or not at all."""

import hashlib
import http.server
import io
import json
import tarfile
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from dev_tools import comfyui as comfyui_module
from dev_tools.archive import path_inside, unpack_folder
from dev_tools.comfyui import prepare_pinned
from dev_tools.download import download
from dev_tools.errors import DevError
from dev_tools.index import DEFAULT_INDEX, file_urls, find_file, index_url, require_index, without_credentials
from dev_tools.workspace import Workspace


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
