"""The archive of the Comfy registry in a fresh ComfyUI, as a stranger installs it, watched by an audit hook: it draws, and asks nobody."""

import ipaddress
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dev_tools.registry import is_clone, write_archive
from dev_tools.workflow_files import fitted, load_workflows
from dev_tools.workspace import TINY_CHECKPOINT
from fast_sprites.nodes.benchmark.server import ComfyServer

from ..conftest import PACK_ROOT
from .conftest import Comfy, png_texts, server_setup
from .test_pack_on_server import NODE_IDS, TEMPLATES, get

AUDIT = Path(__file__).with_name("audit")
SIZE = 64
STEPS = 2
OLD_CUDA = "You need pytorch with cu130 or higher"  # ComfyUI's own words (comfy/quant_ops.py), for instance to torch 2.8

pytestmark = pytest.mark.skipif(
    not is_clone(PACK_ROOT), reason="the archive is made of what git tracks, and git lists nothing here"
)


def audited(log: Path) -> dict[str, str]:
    """The environment of a process whose doings are noted in `log`."""
    return {"PYTHONPATH": str(AUDIT), "AUDIT_LOG": str(log)}


def noted(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def outside(events: list[dict[str, Any]]) -> list[Any]:
    """What was looked up or connected to beyond this machine."""

    def is_here(subject: Any) -> bool:
        host = str(subject[0] if isinstance(subject, list) else subject)
        if host in ("", "None", "localhost") or host.startswith(("/", "\0")):  # any address to listen on, or a Unix socket
            return True
        try:
            return ipaddress.ip_address(host).is_loopback or host == "0.0.0.0"
        except ValueError:
            return False

    asked = [event["subject"] for event in events if event["event"].startswith("socket.")]
    return [subject for subject in asked if not is_here(subject)]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, comfyui: Path) -> Iterator[tuple[Comfy, Path, Path]]:
    """A server whose pack is the unpacked archive, the folder of that, and the log of the server's doings."""
    base = tmp_path_factory.mktemp("fresh") / "base"
    setup = server_setup(base, comfyui)
    folder, log = base / "custom_nodes" / "fast-sprites", base / "audit.log"
    folder.unlink()  # the link to this clone
    with zipfile.ZipFile(write_archive(PACK_ROOT, base / "node.zip")) as archive:
        archive.extractall(folder)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in audited(log).items():
            patch.setenv(name, value)
        server = ComfyServer(setup)
        server.start()
    try:
        yield Comfy(server), folder, log
    finally:
        server.stop()


def test_the_audit_would_notice(tmp_path: Path):
    code = (
        "import socket, subprocess, sys; s = socket.socket(); s.settimeout(0.001)\n"
        "try: s.connect(('192.0.2.1', 9))\nexcept OSError: pass\nsubprocess.run([sys.executable, '-c', ''])"
    )
    log = tmp_path / "audit.log"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **audited(log)}, check=True)
    events = noted(log)
    assert outside(events) == [["192.0.2.1", 9]]
    assert {"started", "subprocess.Popen"} <= {event["event"] for event in events}


def test_the_audit_tells_the_packs_doings_from_those_of_what_it_imports(tmp_path: Path):
    ours, foreign = tmp_path / "custom_nodes" / "fast-sprites" / "ours.py", tmp_path / "foreign.py"
    ours.parent.mkdir(parents=True)
    start = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', ''])\n"
    foreign.write_text(f"{start}def run():\n    subprocess.run([sys.executable, '-c', ''])\n", encoding="utf-8")
    ours.write_text(f"import foreign\n{start}foreign.run()\n", encoding="utf-8")
    log = tmp_path / "audit.log"
    path = os.pathsep.join(map(str, (AUDIT, tmp_path, ours.parent)))
    subprocess.run([sys.executable, "-c", "import ours"], env={**os.environ, **audited(log), "PYTHONPATH": path}, check=True)
    assert [event["ours"] for event in noted(log) if event["event"] == "subprocess.Popen"] == [False, True, True]


def test_everything_is_there_and_the_log_is_quiet(installed: tuple[Comfy, Path, Path]):
    comfy, _, _ = installed
    assert set(NODE_IDS) <= set(comfy.info)
    assert sorted(json.loads(get(comfy, "/api/workflow_templates")[1])["fast-sprites"]) == TEMPLATES
    assert get(comfy, "/extensions/fast-sprites/docs/SaveSprites.md")[1]
    log = re.sub(r"\x1b\[[0-9;]*m", "", comfy.server.log_text()).partition("To see the GUI go to")[0]
    assert "FAILED" not in log
    warnings = [line for line in log.splitlines() if re.match(r"\[(WARNING|ERROR|CRITICAL)\]", line)]
    assert [line for line in warnings if OLD_CUDA not in line] == []


@pytest.mark.parametrize("name", ["batch_optimized", "sprite_sheet", "sprites_to_disk"])
def test_a_bundled_workflow_is_drawn(installed: tuple[Comfy, Path, Path], name: str):
    comfy, folder, _ = installed
    (workflow,) = load_workflows(folder / "workflows", [name])
    workflow = fitted(workflow, TINY_CHECKPOINT, SIZE)
    for node in workflow.prompt.values():
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = STEPS

    async def draw(client: Any) -> bytes:
        _, history = await client.run(workflow.prompt, workflow.ui)
        assert history.images
        return await client.image(history.images[-1])

    assert {"prompt", "workflow"} <= set(png_texts(comfy.ask(draw)))


def command(folder: Path, log: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nodes.benchmark", *words],
        cwd=folder,
        env={**os.environ, **audited(log)},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )


def test_its_commands_ask_the_named_server_and_nobody_else(installed: tuple[Comfy, Path, Path], tmp_path: Path):
    comfy, folder, _ = installed
    log = tmp_path / "audit.log"
    (workflow,) = load_workflows(folder / "workflows", ["sprites_to_disk"])
    prompt = fitted(workflow, TINY_CHECKPOINT, SIZE).prompt
    for node in prompt.values():
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = STEPS
    (tmp_path / "workflow.json").write_text(json.dumps(prompt), encoding="utf-8")
    (tmp_path / "prompts.txt").write_text("iron sword\nred potion\n", encoding="utf-8")
    files = ["--prompts", str(tmp_path / "prompts.txt"), "--workflow", str(tmp_path / "workflow.json")]
    drawn = command(
        folder, log, "generate", *files, "--server", comfy.server.address, "--output", str(tmp_path / "out"), "--seed", "1"
    )
    assert drawn.returncode == 0, drawn.stderr
    assert len(list((tmp_path / "out").glob("*.png"))) == 2
    examined = command(folder, log, "doctor")
    assert examined.returncode == 0, examined.stderr
    events = noted(log)
    assert ["127.0.0.1", comfy.server.port] in [event["subject"] for event in events if event["event"] == "socket.connect"]
    assert outside(events) == []
    assert [event for event in events if event["ours"] and not event["event"].startswith("socket.")] == []


def test_the_server_has_asked_nobody_and_run_nothing(installed: tuple[Comfy, Path, Path]):
    """The last of this module: everything above is behind it."""
    events = noted(installed[2])
    started = [event["subject"] for event in events if event["event"] == "started"]
    assert any("main.py" in Path(word).name for words in started for word in words)  # the hook was in ComfyUI's process
    assert outside(events) == []
    assert [event for event in events if event["ours"]] == []
