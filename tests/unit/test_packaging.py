"""What `pip install .` installs."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")

ROOT = Path(__file__).resolve().parents[2]


def test_every_folder_of_the_pack_is_installed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    folders = sorted(path.parent.relative_to(ROOT) for path in (ROOT / "nodes").rglob("__init__.py"))
    assert listed == ["fast_sprites", *(".".join(["fast_sprites", *folder.parts]) for folder in folders)]


def test_the_command_needs_no_more_than_the_dependencies():
    absent = ("numpy", "PIL", "torch", "matplotlib", "rich", "ray", "pynvml")
    code = f"import sys; sys.modules.update(dict.fromkeys({absent})); from nodes.benchmark.cli import main; main(['generate', '--help'])"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    assert "--resume" in run.stdout, run.stderr


@pytest.mark.parametrize("started", [["-m", "nodes.benchmark"], ["-I", "nodes/benchmark"]], ids=["module", "folder"])
def test_the_command_runs_from_a_clone(started: list[str]):
    """Portable ComfyUI's Python is isolated, as by -I, and finds modules of the current folder no more than that."""
    run = subprocess.run([sys.executable, *started, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    assert "doctor" in run.stdout


ENSUREPIP = importlib.util.find_spec("ensurepip")  # Debian ships it apart
PIP_WHEELS = sorted(Path(ENSUREPIP.origin or "").parent.glob("_bundled/pip-*.whl")) if ENSUREPIP else []


@pytest.mark.skipif(not PIP_WHEELS, reason="this Python comes without ensurepip's copy of pip")
def test_pip_installs_a_console_command_into_a_fresh_environment(tmp_path: Path):
    """`pip install .`, offline: with the setuptools that is there, and the dependencies of the environment that runs the test."""
    ignored = shutil.ignore_patterns(".*", "tests", "docs", "__pycache__", "output", "build", "*.egg-info")
    shutil.copytree(ROOT, tmp_path / "clone", ignore=ignored)
    venv.create(tmp_path / "fresh", with_pip=False, symlinks=os.name != "nt")
    scripts = tmp_path / "fresh" / ("Scripts" if os.name == "nt" else "bin")
    packages = sysconfig.get_path("purelib", vars={"base": str(tmp_path / "fresh"), "platbase": str(tmp_path / "fresh")})
    (Path(packages) / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}

    def run(*words: str | Path) -> str:
        done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    options = ("--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet")
    run(scripts / "python", PIP_WHEELS[-1] / "pip", "install", *options, tmp_path / "clone")
    assert "doctor" in run(scripts / "fast-sprites", "--help")
    code = "from fast_sprites.nodes.benchmark.pack import WORKFLOWS, pack_version; print(pack_version(), *sorted(p.name for p in WORKFLOWS.iterdir()))"
    version, *workflows = run(scripts / "python", "-I", "-c", code).split()
    assert version == tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert workflows == sorted(path.name for path in (ROOT / "workflows" / "api").iterdir())
