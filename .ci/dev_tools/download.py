"""Fetches one file: aside first, then checked, then renamed."""

import hashlib
import http.client
import urllib.error
import urllib.request
from pathlib import Path

from dev_tools.console import ProgressLine
from dev_tools.errors import DevError

TIMEOUT_S = 60
BLOCK_BYTES = 1 << 18


def unreachable(url: str, reason: object) -> DevError:
    """The sentence for a network that does not answer."""
    return DevError(
        f"Could not fetch {url} ({reason}): connect to the network, or set PIP_INDEX_URL to a mirror (and HTTPS_PROXY behind a "
        "proxy), and run the same command again; what is already there is kept."
    )


def open_url(request: urllib.request.Request) -> http.client.HTTPResponse:
    """Open `request`; raises DevError with the URL and the reason."""
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        raise unreachable(request.full_url, f"HTTP {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise unreachable(request.full_url, error.reason) from error
    except OSError as error:
        raise unreachable(request.full_url, error) from error


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def download(request: urllib.request.Request, target: Path, sha256: str) -> None:
    """Fetch `request` into `target`, which appears only when it is complete and has the right hash."""
    part = target.with_name(target.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    with open_url(request) as response, part.open("wb") as file:
        total = int(response.headers.get("Content-Length", 0))
        with ProgressLine(f"Fetching {target.name}", total, unit="MB", scale=1e6) as line:
            try:
                while block := response.read(BLOCK_BYTES):
                    file.write(block)
                    line.advance(len(block))
            except (http.client.HTTPException, TimeoutError, ConnectionError) as error:
                raise unreachable(request.full_url, error or type(error).__name__) from error
    got = file_sha256(part)
    if got != sha256:
        part.unlink()
        raise DevError(
            f"{target.name} from {request.full_url} has SHA-256 {got}, expected {sha256}: the file was deleted; "
            "try again, and if it happens again do not trust that index or proxy."
        )
    part.replace(target)
