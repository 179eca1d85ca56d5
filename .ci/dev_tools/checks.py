"""What `dev.py test` runs: lint, types, and the tiers of tests."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dev_tools.console import say
from dev_tools.processes import SHARE_THE_CPU, run
from dev_tools.workspace import CI, PACK_ROOT

TIERS = ("unit", "comfy", "server", "web")
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PACKAGE_MANAGERS = {
    "apt-get": (("apt-get", "update", "-qq"), ("apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium")),
    "dnf": (("dnf", "install", "-y", "-q", "chromium"),),
    "apk": (("apk", "add", "--quiet", "chromium"),),
    "pacman": (("pacman", "-Sy", "--noconfirm", "--needed", "chromium"),),
}


@dataclass(frozen=True)
class Outcome:
    """How one check ended; `reason` says why it was skipped or did not pass."""

    name: str
    passed: bool
    reason: str = ""
    skipped: bool = False

    def line(self) -> str:
        """One line of the summary."""
        word = "skipped" if self.skipped else "passed" if self.passed else "FAILED"
        return f"{self.name:<14} {word}{': ' + self.reason if self.reason else ''}"


def skipped(name: str, reason: str, must_run: bool) -> Outcome:
    """A check that this machine cannot run: a failure where every check must run."""
    return Outcome(name, passed=not must_run, reason=reason, skipped=not must_run)


def find_chromium() -> str | None:
    """Chromium or Chrome on the search path."""
    return next((found for name in CHROMIUM_NAMES if (found := shutil.which(name))), None)


def install_chromium(is_root: bool) -> str:
    """Install Chromium by the system's package manager; the reason why it is still missing, empty if it is there."""
    if find_chromium():
        return ""
    manager = next((name for name in PACKAGE_MANAGERS if shutil.which(name)), None)
    if manager is None:
        return "no Chromium on the search path, and none of apt-get, dnf, apk and pacman to install it with"
    if not is_root:
        return f"no Chromium on the search path; as root, {' '.join(PACKAGE_MANAGERS[manager][-1])} installs it"
    say(f"Installing Chromium with {manager}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    failed = any(run(command, env=env) != 0 for command in PACKAGE_MANAGERS[manager])
    return (
        "" if find_chromium() else f"{manager} {'failed' if failed else 'ran, but there is still no Chromium on the search path'}"
    )


def install_node_packages(folder: Path) -> str:
    """Install what a folder's package.json names, once per content; the reason why it is missing, empty if it is there."""
    wanted = (folder / "package.json").read_text(encoding="utf-8")
    stamp = folder / "node_modules" / ".installed"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return ""
    npm = shutil.which("npm")
    if npm is None:
        return f"no npm on the search path for the packages of {folder.name}"
    say(f"Installing the packages of {folder.name} with npm")
    quiet = ("--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock", "--loglevel=error")
    if run([npm, "install", *quiet], cwd=folder) != 0:
        return f"npm could not install the packages of {folder.name}"
    stamp.write_text(wanted, encoding="utf-8")
    return ""


def node_tests(tests: Path, must_run: bool) -> Outcome:
    """Run the JavaScript tests of a folder, and of its sub-folders with packages of their own, with Node's own runner."""
    name = "node --test"
    files = sorted(tests.glob("*.test.mjs"))
    for package in sorted(tests.glob("*/package.json")):
        if reason := install_node_packages(package.parent):
            if must_run:
                return skipped(name, reason, must_run)
            say(f"skipped {package.parent.name}: {reason}")
        else:
            files += sorted(package.parent.glob("*.test.mjs"))
    if not files:
        return skipped(name, f"{tests} holds no *.test.mjs", must_run)
    node = shutil.which("node")
    if node is None:
        return skipped(name, "no node on the search path", must_run)
    ended = subprocess.run(
        [node, "--test", "--test-reporter=spec", *map(str, files)], stdout=subprocess.PIPE, encoding="utf-8", check=False
    )
    print(ended.stdout, end="", flush=True)
    counts = {word: int(number) for word, number in re.findall(r"(?m)^\S+ (pass|fail) (\d+)$", ended.stdout)}
    if ended.returncode == 0 and counts.get("pass", 0) == 0:
        return skipped(name, "no test ran", must_run)
    return Outcome(name, ended.returncode == 0, f"{counts.get('pass', 0)} passed, {counts.get('fail', 0)} failed")


def has_cuda(python: Path) -> bool:
    """Whether torch sees a CUDA device; asked of the prepared Python, since ours has no torch."""
    command = [str(python), "-c", "import sys, torch; sys.exit(0 if torch.cuda.is_available() else 1)"]
    return subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode == 0


def names_tests(arguments: Sequence[str]) -> bool:
    """Whether arguments for pytest pick files or folders themselves."""
    return any((PACK_ROOT / argument.partition("::")[0]).exists() for argument in arguments if not argument.startswith("-"))


def run_pytest(python: Path, arguments: Sequence[str], tiers: Sequence[str], env: Mapping[str, str]) -> int:
    """Run pytest; each of `tiers` has to have at least one test that ran to its end."""
    guard = ["-p", "dev_tools.pytest_tiers", *(f"--required-tier={tier}" for tier in tiers)]
    return run([python, "-m", "pytest", *guard, *arguments], cwd=PACK_ROOT, env=env)


def run_all(python: Path, comfyui: Path, pytest_arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run every check; 0 if all that ran passed. pytest comes last, so that its summary is the last line."""
    must_run = environment.get("CI", "").lower() in ("1", "true")
    python_path = os.pathsep.join(filter(None, (str(CI), environment.get("PYTHONPATH"))))
    env = {**environment, "COMFYUI_PATH": str(comfyui), "PYTHONPATH": python_path}
    env.setdefault(*SHARE_THE_CPU)
    outcomes: list[Outcome] = []
    if not pytest_arguments:
        for name, command in {
            "ruff check": ("ruff", "check", "."),
            "ruff format": ("ruff", "format", "--check", "."),
            "pyright": ("pyright", "--pythonpath", python),
        }.items():
            say(f"--- {name}")
            outcomes.append(Outcome(name, run([python, "-m", *command], cwd=PACK_ROOT, env=env) == 0))
        say("--- node --test")
        outcomes.append(node_tests(PACK_ROOT / "tests" / "web", must_run))
    needs_browser = not names_tests(pytest_arguments) or any("tests/web" in argument for argument in pytest_arguments)
    reason = install_chromium(is_root=hasattr(os, "geteuid") and os.geteuid() == 0) if needs_browser else ""
    if reason:
        outcomes.append(skipped("browser tests", reason, must_run))
    else:
        env["CHROMIUM_PATH"] = env.get("CHROMIUM_PATH") or find_chromium() or ""
    if not pytest_arguments and has_cuda(python):
        say("--- pytest tests/gpu")
        outcomes.append(Outcome("tests/gpu", run_pytest(python, ["tests/gpu"], ["gpu"] if must_run else [], env) == 0))
    for outcome in outcomes:
        say(outcome.line())
    say("--- pytest")
    folders = [] if names_tests(pytest_arguments) else [f"tests/{tier}" for tier in TIERS]
    required = TIERS if must_run and not pytest_arguments else ()
    status = run_pytest(python, [*folders, *pytest_arguments], required, env)
    bad = [outcome for outcome in outcomes if not outcome.passed]
    for outcome in bad:
        say(outcome.line())
    return status or (1 if bad else 0)
