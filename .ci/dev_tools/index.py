"""Finds a file in a Python package index (PEP 503 and PEP 691)."""

import base64
import html.parser
import json
import re
import urllib.parse
import urllib.request
from collections.abc import Mapping

from dev_tools.download import open_url
from dev_tools.errors import DevError

DEFAULT_INDEX = "https://pypi.org/simple"


def index_url(environment: Mapping[str, str]) -> str:
    """The index that uv or pip is told to use in `environment`, else PyPI; without a trailing slash."""
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"):
        value = environment.get(name, "").strip()
        if value:
            return re.sub(r"^[\w.-]+=(?=\w+:)", "", value).rstrip("/")  # uv also takes NAME=URL
    return DEFAULT_INDEX


def without_credentials(url: str) -> tuple[str, dict[str, str]]:
    """Split `https://user:secret@host/` into the plain URL and the header that carries the secret."""
    parts = urllib.parse.urlsplit(url)
    if parts.username is None:
        return url, {}
    pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
    host = parts.netloc.rpartition("@")[2]
    header = {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
    return urllib.parse.urlunsplit(parts._replace(netloc=host)), header


class _Links(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found.extend(value for name, value in attrs if name == "href" and value)


def file_urls(page: bytes, content_type: str, page_url: str) -> dict[str, str]:
    """File name -> absolute URL, from a project page of either form."""
    if content_type.endswith("json"):
        links = [entry["url"] for entry in json.loads(page)["files"]]
    else:
        parser = _Links()
        parser.feed(page.decode("utf-8", "replace"))
        links = parser.found
    urls = [urllib.parse.urljoin(page_url, link.partition("#")[0]) for link in links]
    return {urllib.parse.unquote(urllib.parse.urlsplit(url).path.rpartition("/")[2]): url for url in urls}


def find_file(index: str, project: str, filename: str) -> urllib.request.Request:
    """The request that fetches `filename` of `project`; raises DevError if the index has no such file."""
    page_url, headers = without_credentials(f"{index}/{project}/")
    accept = {"Accept": "application/vnd.pypi.simple.v1+json, text/html;q=0.5"}
    with open_url(urllib.request.Request(page_url, headers=headers | accept)) as page:
        urls = file_urls(page.read(), page.headers.get_content_type(), page_url)
    if filename not in urls:
        raise DevError(f"{page_url} does not list {filename}: point PIP_INDEX_URL to an index or mirror that has it.")
    same_host = urllib.parse.urlsplit(urls[filename]).netloc == urllib.parse.urlsplit(page_url).netloc
    return urllib.request.Request(urls[filename], headers=headers if same_host else {})


def require_index(environment: Mapping[str, str]) -> None:
    """Raise DevError with the reason if the package index does not answer."""
    url, headers = without_credentials(index_url(environment) + "/pip/")
    with open_url(urllib.request.Request(url, headers=headers)):
        pass
