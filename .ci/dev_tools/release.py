"""The release checklist: what has to be true before a version goes to the Comfy registry, each point checked by the machine."""

import json
import re
import shutil
import struct
import subprocess
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from dev_tools import registry
from dev_tools.console import say
from dev_tools.errors import DevError

STAMP = "checked.json"
MAX_ICON_PX = 400
BANNER_RATIO = 21 / 9
CHANGELOG_HEADING = re.compile(r"^## (\S+) - (.+)$", re.MULTILINE)


def _git(root: Path, *arguments: str) -> str:
    try:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, check=True, encoding="utf-8"
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def project(root: Path) -> dict[str, Any]:
    """pyproject.toml."""
    try:
        import tomllib
    except ModuleNotFoundError as error:
        raise DevError("The release checklist needs Python 3.11 or newer: run dev.py with a newer one.") from error
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


def source_tree(root: Path) -> str:
    """The hash of everything committed, empty where something is not committed or there is no git."""
    return "" if _git(root, "status", "--porcelain") else _git(root, "rev-parse", "HEAD^{tree}")


def write_stamp(workspace: Path, tree: str) -> None:
    """Remember that every check passed for this tree."""
    stamp = {"tree": tree, "passed_utc": datetime.now(timezone.utc).isoformat(timespec="seconds")}
    (workspace / STAMP).write_text(json.dumps(stamp) + "\n", encoding="utf-8")


def changelog_problems(root: Path) -> list[str]:
    """The newest heading is this version's and has a date."""
    version = project(root)["project"]["version"]
    found = CHANGELOG_HEADING.search((root / "CHANGELOG.md").read_text(encoding="utf-8"))
    if re.fullmatch(r"\d+\.\d+\.\d+", version) is None:
        return [f"pyproject.toml has version {version!r}, the registry takes three numbers"]
    if found is None or found.group(1) != version:
        return [f"CHANGELOG.md begins with {found.group(1) if found else 'no version'}, pyproject.toml has {version}"]
    if re.fullmatch(r"\d{4}-\d{2}-\d{2}", found.group(2)) is None:
        return [f"CHANGELOG.md calls {version} {found.group(2)!r}: write the day of the release"]
    if (tagged := _git(root, "rev-list", "-n", "1", f"v{version}")) and tagged != _git(root, "rev-parse", "HEAD"):
        return [f"the tag v{version} is on another commit: raise the version"]
    return []


def picture_size(png: bytes) -> tuple[int, int]:
    """Width and height in a PNG's header; (0, 0) if it is none."""
    return struct.unpack(">II", png[16:24]) if png.startswith(b"\x89PNG\r\n\x1a\n") else (0, 0)


def metadata_problems(root: Path) -> list[str]:
    """What the registry reads of pyproject.toml."""
    content = project(root)
    comfy: Mapping[str, str] = content["tool"]["comfy"]
    repository: str = content["project"]["urls"]["Repository"]
    problems = [
        f"[tool.comfy] has no {name}"
        for name in ("PublisherId", "DisplayName", "Icon", "Banner", "requires-comfyui")
        if not comfy.get(name)
    ]
    if not ({"file", "text"} & set(content["project"]["license"])):
        problems.append("license must be a table with file or text")
    for name in ("Icon", "Banner"):
        address = comfy.get(name, "")
        path = root / address.removeprefix(f"{repository}/raw/main/")
        width, height = picture_size(path.read_bytes()) if path.is_file() else (0, 0)
        fits = width == height <= MAX_ICON_PX if name == "Icon" else abs(width - BANNER_RATIO * height) < 1
        if not width or not fits:
            problems.append(
                f"{name} is {address} with {width}x{height} pixels; it must be a PNG of this repository, square up to 400, or 21:9"
            )
    if any(name.startswith("Environment ::") for name in content["project"]["classifiers"]):
        problems.append("a classifier names accelerators, which warns everybody who has another")
    if any(requirement.startswith(("torch", "pynvml")) for requirement in content["project"]["dependencies"]):
        problems.append("torch or pynvml is a dependency: the one replaces the user's CUDA build, the other is a redirector")
    if "web" in comfy:
        problems.append("[tool.comfy] web and WEB_DIRECTORY would load every script twice")
    return problems


def origin_problems(root: Path) -> list[str]:
    """The repository that users are sent to is the one that this clone comes from."""
    repository: str = project(root)["project"]["urls"]["Repository"]
    origin = _git(root, "remote", "get-url", "origin").removesuffix(".git").replace("git@github.com:", "https://github.com/")
    return [] if origin == repository else [f"pyproject.toml names {repository}, and origin is {origin or 'not set'}"]


def surface_problems(root: Path) -> list[str]:
    """The frozen node surface lists the nodes that there are; that each is up to date, tests/comfy compares."""
    ids = {
        found.group(1)
        for path in (root / "nodes").glob("*.py")
        if (found := re.search(r'node_id="(\w+)"', path.read_text(encoding="utf-8")))
    }
    frozen = set(json.loads((root / "tests" / "comfy" / "node_surface.json").read_text(encoding="utf-8")))
    return [f"node_surface.json and nodes/ differ in {', '.join(sorted(ids ^ frozen))}"] if ids != frozen else []


def benchmark_problems(root: Path) -> list[str]:
    """A whole record of `fast-sprites bench` of this version on a GPU lies in docs/benchmarks."""
    version = project(root)["project"]["version"]
    for path in sorted((root / "docs" / "benchmarks").glob("*.json")):
        record: Any = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict) or record.get("schema") != "fast-sprites-bench":
            continue
        devices = record["machine"].get("devices", ())
        on_gpu = any(device.get("type") == "cuda" for device in devices)
        if record["pack_version"] == version and on_gpu and record["scenarios"] and not record["partial"]:
            return (
                [] if path.with_suffix(".md").is_file() else [f"{path.name} has no Markdown beside it: fast-sprites bench report"]
            )
    return [f"docs/benchmarks holds no whole record of {version} on a GPU: fast-sprites bench run --json FILE"]


def tier_problems(root: Path) -> list[str]:
    """Every check passed, none left out, on exactly what is committed."""
    tree = source_tree(root)
    if not tree:
        return ["something is not committed"]
    stamp = root / ".workspace" / STAMP
    if not stamp.is_file() or json.loads(stamp.read_text(encoding="utf-8"))["tree"] != tree:
        return ["the checks have not passed on what is committed: CI=true python3 dev.py test"]
    return []


def tool_problems(root: Path) -> list[str]:
    """comfy-cli finds nothing to complain about, and packs the same files."""
    comfy = shutil.which("comfy")
    if comfy is None:
        return ["comfy is not on the search path: pip install comfy-cli"]
    with tempfile.TemporaryDirectory() as temporary:
        clone = Path(temporary) / "clone"
        _git(root, "clone", "--quiet", str(root), str(clone))
        packed = ""
        for command in ("validate", "pack"):
            ended = subprocess.run(
                [comfy, "--skip-prompt", "--no-enable-telemetry", "node", command],
                cwd=clone,
                capture_output=True,
                encoding="utf-8",
                check=False,
            )
            packed += ended.stdout + ended.stderr
            if ended.returncode != 0 or "warning" in packed.lower():
                return [f"comfy node {command}: {packed.strip()}"]
        with zipfile.ZipFile(clone / "node.zip") as archive:
            differing = set(archive.namelist()) ^ set(registry.packed_files(clone))
    return [f"comfy node pack and dev.py differ in {', '.join(sorted(differing))}"] if differing else []


def advisory_problems(root: Path) -> list[str]:
    """No known vulnerability in the locked requirements; needs the advisory database on the network."""
    audit = shutil.which("pip-audit")
    if audit is None:
        return ["pip-audit is not on the search path: pip install pip-audit"]
    problems: list[str] = []
    for lock in ("requirements.lock", "test-requirements.lock"):
        command = [
            audit,
            "--disable-pip",
            "--no-deps",
            "--progress-spinner=off",
            "--format=json",
            "--requirement",
            str(root / ".ci" / lock),
        ]
        ended = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
        try:
            audited = json.loads(ended.stdout)["dependencies"]
        except ValueError:
            return [f"pip-audit did not answer for {lock}: {ended.stderr.strip().splitlines()[-1:]}"]
        problems += [f"{lock}: {found['name']} {flaw['id']}" for found in audited for flaw in found.get("vulns", ())]
        unknown = [found["name"] for found in audited if "skip_reason" in found]
        problems += [f"{lock}: {len(unknown)} of {len(audited)} packages could not be looked up"] if unknown else []
    return problems


CHECKLIST: Mapping[str, Callable[[Path], list[str]]] = {
    "version and changelog": changelog_problems,
    "registry metadata": metadata_problems,
    "repository": origin_problems,
    "node surface": surface_problems,
    "archive": registry.archive_problems,
    "registry scanner": registry.scan_problems,
    "benchmark record": benchmark_problems,
    "checks": tier_problems,
    "comfy-cli": tool_problems,
    "advisories": advisory_problems,
}


def run_checklist(root: Path) -> int:
    """Print every point; 0 if the version can be published."""
    ready = True
    for name, problems_of in CHECKLIST.items():
        problems = problems_of(root)
        ready = ready and not problems
        say(f"{name:<22} {'; '.join(problems) or 'ok'}")
    version = project(root)["project"]["version"]
    say(f"{version} can be published: comfy node publish" if ready else f"{version} cannot be published yet.")
    return 0 if ready else 1
