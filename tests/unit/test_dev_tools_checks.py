"""`dev.py test`: skips say why, and a tier that must run and does not is a failure."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from dev_tools import checks
from dev_tools.workspace import CI

PASSES = "def test_it():\n    pass\n"
SKIPS = "import pytest\n\ndef test_it():\n    pytest.skip('no server')\n"
SKIPS_EARLY = "import pytest\n\n@pytest.fixture\ndef server():\n    pytest.skip('no server')\n\ndef test_it(server):\n    pass\n"
FAILS = "def test_it():\n    assert False\n"


def run_tiers(root: Path, tiers: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """pytest with the plugin over tests/<tier>/test_<tier>.py."""
    (root / "pytest.ini").write_text("[pytest]\naddopts = -ra --import-mode=importlib\n")
    for name, content in tiers.items():
        (root / "tests" / name).mkdir(parents=True)
        (root / "tests" / name / f"test_{name}.py").write_text(content)
    env = {**os.environ, "PYTHONPATH": str(CI), "PYTEST_ADDOPTS": ""}
    command = [sys.executable, "-m", "pytest", "-p", "dev_tools.pytest_tiers", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=root, env=env, capture_output=True, encoding="utf-8", check=False)


def required(*tiers: str) -> list[str]:
    return [f"--required-tier={tier}" for tier in tiers]


def test_tiers_that_ran_pass(tmp_path: Path):
    ended = run_tiers(tmp_path, {"unit": PASSES, "server": PASSES}, *required("unit", "server"))
    assert ended.returncode == 0, ended.stdout
    assert "1 passed" not in ended.stdout.splitlines()[-1]
    assert "2 passed" in ended.stdout.splitlines()[-1]


@pytest.mark.parametrize("content", [SKIPS, SKIPS_EARLY, "# nothing to collect\n"], ids=["skipped", "fixture skipped", "empty"])
def test_a_required_tier_that_did_not_run_fails(tmp_path: Path, content: str):
    ended = run_tiers(tmp_path, {"unit": PASSES, "server": content}, *required("unit", "server"))
    assert ended.returncode == 1
    assert "REQUIRED TIER MISSING: no test of tests/server ran" in ended.stdout


def test_a_missing_folder_fails(tmp_path: Path):
    ended = run_tiers(tmp_path, {"unit": PASSES}, *required("unit", "web"))
    assert ended.returncode == 1
    assert "tests/web" in ended.stdout


def test_skips_are_fine_where_nothing_is_required(tmp_path: Path):
    ended = run_tiers(tmp_path, {"unit": PASSES, "server": SKIPS})
    assert ended.returncode == 0
    assert "no server" in ended.stdout


def test_a_failing_tier_counts_as_run(tmp_path: Path):
    ended = run_tiers(tmp_path, {"unit": FAILS}, *required("unit"))
    assert ended.returncode == 1
    assert "MISSING" not in ended.stdout


def test_node_tests_need_files(tmp_path: Path):
    assert checks.node_tests(tmp_path, must_run=False).line().endswith("holds no *.test.mjs")
    assert checks.node_tests(tmp_path, must_run=False).passed
    assert not checks.node_tests(tmp_path, must_run=True).passed


def test_node_tests_need_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.test.mjs").write_text("")
    monkeypatch.setattr(checks.shutil, "which", lambda _: None)
    assert checks.node_tests(tmp_path, must_run=False).line() == "node --test    skipped: no node on the search path"


@pytest.mark.skipif(checks.shutil.which("node") is None, reason="no node on the search path")
@pytest.mark.parametrize(
    ("body", "passed", "reason"), [("", True, "1 passed, 0 failed"), ("throw 1", False, "0 passed, 1 failed")]
)
def test_node_tests_are_counted(tmp_path: Path, body: str, passed: bool, reason: str, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "a.test.mjs").write_text(f"import test from 'node:test';\ntest('a', () => {{ {body} }});\n")
    outcome = checks.node_tests(tmp_path, must_run=True)
    assert (outcome.passed, outcome.reason) == (passed, reason)
    assert "tests 1" in capsys.readouterr().out


def test_packages_of_javascript_tests_are_installed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls: list[object] = []

    def npm(command: list[object], cwd: Path | None = None, env: dict[str, str] | None = None) -> int:
        calls.append(cwd)
        (tmp_path / "node_modules").mkdir(exist_ok=True)
        return 0

    monkeypatch.setattr(checks, "run", npm)
    monkeypatch.setattr(checks.shutil, "which", lambda name: name)
    (tmp_path / "package.json").write_text("{}")
    assert [checks.install_node_packages(tmp_path), checks.install_node_packages(tmp_path)] == ["", ""]
    assert calls == [tmp_path]
    (tmp_path / "package.json").write_text('{"dependencies": {}}')
    assert checks.install_node_packages(tmp_path) == ""
    assert len(calls) == 2


def test_javascript_packages_without_npm_fail_in_ci_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines" / "package.json").write_text("{}")
    monkeypatch.setattr(checks.shutil, "which", lambda name: None)
    outcome = checks.node_tests(tmp_path, must_run=True)
    assert (outcome.passed, outcome.reason) == (False, "no npm on the search path for the packages of engines")


def test_chromium_is_only_installed_by_root(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checks.shutil, "which", lambda name: "/usr/bin/dnf" if name == "dnf" else None)
    ran: list[object] = []
    monkeypatch.setattr(checks, "run", lambda command, env: ran.append(command) or 1)
    assert (
        checks.install_chromium(is_root=False)
        == "no Chromium on the search path; as root, dnf install -y -q chromium installs it"
    )
    assert ran == []
    assert checks.install_chromium(is_root=True) == "dnf failed"
    assert ran == [("dnf", "install", "-y", "-q", "chromium")]


def test_without_a_package_manager_the_reason_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checks.shutil, "which", lambda _: None)
    assert "none of apt-get, dnf, apk and pacman" in checks.install_chromium(is_root=True)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["-k", "grid"], False),
        (["tests/unit"], True),
        (["tests/unit/test_layering.py::test_x"], True),
        (["-x", "--lf"], False),
        ([], False),
    ],
)
def test_named_tests_replace_the_tiers(arguments: list[str], named: bool):
    assert checks.names_tests(arguments) is named


class Recorded:
    """Stands in for the programs that `run_all` starts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failing: str = "", no_chromium: str = "") -> None:
        self.commands: list[list[str]] = []
        self._failing = failing
        monkeypatch.setattr(checks, "run", self._run)
        monkeypatch.setattr(checks, "has_cuda", lambda _: False)
        monkeypatch.setattr(checks, "install_chromium", lambda is_root: no_chromium)
        monkeypatch.setattr(checks, "node_tests", lambda tests, must_run: checks.Outcome("node --test", passed=True))

    def _run(self, command: list[object], cwd: Path | None = None, env: dict[str, str] | None = None) -> int:
        self.commands.append([str(part) for part in command])
        return 1 if self._failing and self._failing in self.commands[-1] else 0


def run_all(environment: dict[str, str], *arguments: str) -> int:
    return checks.run_all(Path("python"), Path("comfyui"), arguments, environment)


def test_every_tier_is_required_in_ci_alone(monkeypatch: pytest.MonkeyPatch):
    recorded = Recorded(monkeypatch)
    assert run_all({"CI": "true"}) == 0
    assert [command[2] for command in recorded.commands] == ["ruff", "ruff", "pyright", "pytest"]
    assert recorded.commands[-1][-8:] == required(*checks.TIERS) + [f"tests/{tier}" for tier in checks.TIERS]
    assert run_all({}) == 0
    assert not any("--required-tier" in part for part in recorded.commands[-1])


@pytest.mark.parametrize("failing", ["check", "--check", "pyright", "pytest"])
def test_one_failing_check_fails_all(monkeypatch: pytest.MonkeyPatch, failing: str):
    Recorded(monkeypatch, failing)
    assert run_all({}) == 1


def test_missing_chromium_fails_in_ci_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    Recorded(monkeypatch, no_chromium="apt-get failed")
    assert run_all({}) == 0
    assert "browser tests  skipped: apt-get failed" in capsys.readouterr().out
    assert run_all({"CI": "true"}) == 1


def test_pytest_arguments_run_pytest_alone(monkeypatch: pytest.MonkeyPatch):
    recorded = Recorded(monkeypatch)
    assert run_all({"CI": "true"}, "tests/unit", "-x") == 0
    (command,) = recorded.commands
    assert command[-2:] == ["tests/unit", "-x"]
    assert not any(part.startswith("--required-tier") for part in command)


@pytest.mark.parametrize(
    ("arguments", "asked"), [(["tests/unit"], False), (["tests/web"], True), (["-k", "page"], True), ([], True)]
)
def test_a_browser_is_only_looked_for_where_it_is_used(monkeypatch: pytest.MonkeyPatch, arguments: list[str], asked: bool):
    Recorded(monkeypatch)
    looked: list[bool] = []
    monkeypatch.setattr(checks, "install_chromium", lambda is_root: looked.append(is_root) or "")
    assert run_all({}, *arguments) == 0
    assert bool(looked) is asked
