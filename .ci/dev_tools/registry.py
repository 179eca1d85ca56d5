"""The archive for the Comfy registry: what goes in, and what the registry's scanner would say about it."""

import re
import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from dev_tools.errors import DevError

MAX_ARCHIVE_BYTES = 2 * 1024 * 1024
MAX_FILE_BYTES = 256 * 1024
"""Of one file: nothing that a person has written is larger."""

TOP_LEVEL = {"CHANGELOG.md", "LICENSE", "README.md", "__init__.py", "locales", "nodes", "pyproject.toml", "web", "workflows"}
WHOLE_FOLDERS = ("locales/", "nodes/", "web/", "workflows/")
"""Of these every file is packed."""
SUFFIXES = {"", ".css", ".js", ".jpg", ".json", ".md", ".mjs", ".py", ".toml"}

# The registry's YARA rules are not public, but each finding names its rule and what matched
# (https://api.comfy.org/nodes/ID/versions?include_status_reason=true). These are the ones that people have reported, which match
# text without regard to the language: Comfy-Org/registry-backend issues 192, 215, 216 and 223, Comfy-Org/ComfyUI-Manager issue 3059.
_EVERYWHERE = {
    "python_network_operations": r"\bsocket\.socket\s*\(|\.(?:connect|bind|listen|send|sendall|recv)\s*\(|\brequests\.\w+\s*\("
    r"|\burllib\.request\b|\bhttp\.client\b|\baiohttp\s*\.\s*ClientSession",
    "contains_blacklisted_url": r"raw\.githubusercontent\.com|pastebin\.com|discord(?:app)?\.com/api/webhooks|transfer\.sh",
    "python_privilege_escalation": r"\b(?:sudo|pkexec|setuid)\b",
}
_PYTHON = {
    "python_command_injection_risk": r"\bsubprocess\.(?:run|call|Popen|check_\w+)\b|\bos\.(?:system|popen|startfile|exec\w+|spawn\w+)\s*\(",
    "python_environment_manipulation": r"\bos\.(?:environ|getenv|putenv)\b",
    "python_dynamic_execution": r"(?<![\w.])(?:eval|exec)\s*\(",
    "python_bytecode_manipulation": r"__import__|\bimportlib\.import_module\b|(?<![\w.])compile\s*\(|\b(?:marshal|pickle|dill)\b",
    "python_sensitive_file_access": r"\bPath\([^()]*\)\.read_(?:bytes|text)\s*\(|/etc/(?:passwd|shadow)|\.ssh\b",
    "windows_process_manipulation": r"\bOpenProcess\b|\bVirtualAlloc\b|\bWriteProcessMemory\b",
}

ACCEPTED = {
    (
        "nodes/benchmark/bench/machine.py",
        "python_bytecode_manipulation",
    ): "nvidia-ml-py is optional and imported by its fixed name",
    ("nodes/benchmark/bench/machine.py", "python_command_injection_risk"): "nvidia-smi with a list of fixed arguments",
    ("nodes/benchmark/bench/plots.py", "python_bytecode_manipulation"): "matplotlib is optional and imported by its fixed name",
    ("nodes/benchmark/client.py", "python_network_operations"): "the command talks to the ComfyUI that its user named",
    ("nodes/benchmark/generate/cluster.py", "python_bytecode_manipulation"): "Ray is optional and imported by its fixed name",
    ("nodes/benchmark/generate/storage.py", "python_bytecode_manipulation"): "fsspec is optional and imported by its fixed name",
    (
        "nodes/benchmark/generate/cluster.py",
        "python_environment_manipulation",
    ): "switches off the reports of a Ray that it starts",
    (
        "nodes/benchmark/server.py",
        "python_command_injection_risk",
    ): "the command starts the ComfyUI that its user named, without a shell",
    (
        "nodes/benchmark/server.py",
        "python_network_operations",
    ): "finds a free port of the loopback interface and asks it for ComfyUI",
    (
        "nodes/comfy_adapters/internals.py",
        "python_bytecode_manipulation",
    ): "imports modules of ComfyUI that not every version has, by the names in its table",
    ("nodes/engine/facts.py", "python_environment_manipulation"): "reads CC, the compiler that Triton would take",
    (
        "nodes/engine/kernels/ops.py",
        "python_bytecode_manipulation",
    ): "imports two modules of the pack that need Triton, by fixed names",
}
"""Matches that stay, with the reason. All but the last three lie in the command line, which ComfyUI never imports."""


def _git_files(root: Path, *options: str) -> list[str]:
    command = ["git", "-C", str(root), "ls-files", "-z", *options]
    try:
        listed = subprocess.run(command, capture_output=True, check=True, encoding="utf-8").stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise DevError(f"{root} is packed from what git tracks, and git does not list it ({error}): use a clone.") from error
    return [name for name in listed.split("\0") if name]


def is_clone(root: Path) -> bool:
    """Whether git is there and lists what it tracks in `root`; in a clone of another user it does not."""
    try:
        return bool(_git_files(root))
    except DevError:
        return False


def packed_files(root: Path) -> list[str]:
    """The files that `comfy node publish` packs: those that git tracks and .comfyignore, which has gitignore's syntax, does not name."""
    ignored = set(_git_files(root, "--cached", "--ignored", f"--exclude-from={root / '.comfyignore'}"))
    return [name for name in _git_files(root) if name not in ignored]


def write_archive(root: Path, archive: Path) -> Path:
    """Write the registry's archive and return its path."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in packed_files(root):
            packed.write(root / name, name)
    return archive


def content_problems(names: Sequence[str], tracked: Sequence[str]) -> list[str]:
    """What is packed and should not be, and what should be and is not."""
    foreign = [name for name in names if name.split("/")[0] not in TOP_LEVEL or PurePosixPath(name).suffix not in SUFFIXES]
    wanted = [name for name in tracked if name.startswith(WHOLE_FOLDERS) or name in TOP_LEVEL]
    return [f"{name} is packed and must not be" for name in foreign] + [
        f"{name} is not packed" for name in wanted if name not in names
    ]


def archive_problems(root: Path) -> list[str]:
    """What is wrong with the content and the size of the archive of a clone."""
    names = packed_files(root)
    problems = content_problems(names, _git_files(root))
    sizes = {name: (root / name).stat().st_size for name in names if (root / name).is_file()}
    problems += [f"{name} has {size} bytes, more than {MAX_FILE_BYTES}" for name, size in sizes.items() if size > MAX_FILE_BYTES]
    total = sum(sizes.values())
    if total > MAX_ARCHIVE_BYTES:
        problems.append(f"the packed files have {total} bytes, more than {MAX_ARCHIVE_BYTES}")
    return problems


def findings(name: str, text: str) -> dict[str, str]:
    """The scanner's rules that match a packed file, each with the first match."""
    rules = {**_EVERYWHERE, **(_PYTHON if name.endswith(".py") else {})}
    matches = {rule: re.search(pattern, text) for rule, pattern in rules.items()}
    return {rule: match.group() for rule, match in matches.items() if match is not None}


def scan_problems(root: Path) -> list[str]:
    """Findings in the packed files that nobody has accepted, and accepted ones that are gone."""
    found = {
        (name, rule): match
        for name in packed_files(root)
        if not name.endswith(".jpg")
        for rule, match in findings(name, (root / name).read_text(encoding="utf-8")).items()
    }
    new = [f"{name}: {rule} matches {match!r}" for (name, rule), match in found.items() if (name, rule) not in ACCEPTED]
    return new + [f"{name}: {rule} is accepted and matches no longer" for name, rule in ACCEPTED if (name, rule) not in found]
