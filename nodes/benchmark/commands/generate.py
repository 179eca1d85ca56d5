"""`fast-sprites generate`: draws any number of sprites on a ComfyUI server, and goes on where it was stopped."""

import argparse
import asyncio
import random
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...engine.errors import BadInputError, PackError
from ...engine.sprites.prompts import ALTERNATIVES
from ..documents import read_workflow
from ..urls import without_password

if TYPE_CHECKING:
    from ..generate.cluster import ClusterSpec
    from ..generate.manifest import Manifest
    from ..generate.request import GenerateRequest

DEFAULT_SERVER = "127.0.0.1:8188"
DEFAULT_JOB_SIZE = 8
MAX_JOB_SIZE = 4096
RANDOM_SEED_BITS = 50  # as the "random" mode of the nodes: numbers above 2**53 lose digits in the browser

EXAMPLES = """\
examples:
  fast-sprites generate --prompts items.txt --checkpoint sdxl.safetensors --output items
  fast-sprites generate --prompts goblin.txt --count 40 --seed 7 --output goblins
  fast-sprites generate --output goblins --resume        after a stop, a crash or a kill: only what is missing
"""


def add_parser(commands: Any) -> None:
    """Add the command's arguments to the subparsers `commands`."""
    command = commands.add_parser(
        "generate",
        help="draw any number of sprites on a ComfyUI server, resumable at any point",
        description="Draws sprites on a running ComfyUI, a few at a time, fetches each as soon as it is finished, and keeps a manifest.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "--output", type=_output, required=True, metavar="DIR", help="folder for sprites and manifest, or a URL that fsspec knows"
    )
    command.add_argument("--resume", action="store_true", help="go on with the batch in DIR; everything else is in its manifest")
    command.add_argument("--server", metavar="HOST:PORT", default=DEFAULT_SERVER, help=f"ComfyUI (default {DEFAULT_SERVER})")
    command.add_argument(
        "--job-size", type=int, metavar="N", default=DEFAULT_JOB_SIZE, help=f"sprites a job (default {DEFAULT_JOB_SIZE})"
    )
    what = command.add_argument_group("what to draw")
    what.add_argument("--prompts", type=Path, metavar="FILE", help="one prompt a line; # comments; {a|b} alternatives")
    what.add_argument("--count", type=int, metavar="N", help="how many sprites (default: one a line)")
    what.add_argument("--alternatives", choices=ALTERNATIVES, help="pick one by seed (default), or draw every combination")
    what.add_argument("--prefix", metavar="TEXT", help="stands before every prompt (default: the workflow's)")
    what.add_argument("--suffix", metavar="TEXT", help="stands after every prompt (default: the workflow's)")
    what.add_argument("--negative", metavar="TEXT", help="what none shall show (default: the workflow's)")
    what.add_argument("--checkpoint", metavar="NAME", help="file in ComfyUI's models/checkpoints (default: the workflow's)")
    what.add_argument(
        "--workflow", type=Path, metavar="FILE", help="your own, in API format (default: the pack's sprites_to_disk)"
    )
    seeds = what.add_mutually_exclusive_group()
    seeds.add_argument("--seed", type=int, metavar="N", help="seeds N, N + 1, ... (default: from a random N, which is shown)")
    seeds.add_argument("--seeds", metavar="LIST", help="these seeds: 7,12,99")
    seeds.add_argument("--random-seeds", action="store_true", default=None, help="unrelated random seeds, kept in the manifest")
    _add_cluster(command)
    command.set_defaults(run=run)


def _add_cluster(command: argparse.ArgumentParser) -> None:
    cluster = command.add_argument_group("on a Ray cluster (docs/cluster.md)")
    cluster.add_argument("--cluster", metavar="ADDRESS", help="auto, local, HOST:PORT or ray://HOST:PORT")
    cluster.add_argument("--workers", type=int, metavar="N", default=0, help="how many (default: as many as there is room for)")
    cluster.add_argument("--gpus-per-worker", type=float, metavar="N", default=1.0, help="GPUs that a worker takes (default 1)")
    cluster.add_argument(
        "--worker-resource",
        type=_resource,
        action="append",
        metavar="NAME=N",
        default=[],
        help="Ray resources that it takes besides",
    )
    cluster.add_argument(
        "--comfyui", metavar="DIR", help="ComfyUI's folder on every node, to start (default: use --server on each)"
    )
    cluster.add_argument("--comfyui-base", metavar="DIR", help="its folder of models and custom nodes, if that is another")
    cluster.add_argument("--comfyui-python", metavar="FILE", help="the Python that it runs on (default: Ray's)")
    cluster.add_argument("--comfyui-flag", action="append", metavar="FLAG", default=[], help="as --comfyui-flag=--lowvram")


def _output(text: str) -> Path | str:
    """A folder of this machine, or a URL as it stands."""
    return text if "://" in text else Path(text)


def _resource(text: str) -> tuple[str, float]:
    name, _, amount = text.partition("=")
    return name, float(amount)


def run(options: argparse.Namespace) -> int:
    """Draw; 0 when every sprite is on disk. Raises PackError with one sentence, and the command that goes on where that helps."""
    from ..client import base_url
    from ..generate.cluster import generate_on_cluster, open_cluster
    from ..generate.manifest import Manifest
    from ..generate.progress import Progress
    from ..generate.run import StoppedError, generate, require_server
    from ..generate.storage import folder_at

    if not 1 <= options.job_size <= MAX_JOB_SIZE:
        raise BadInputError(f"--job-size is {options.job_size}; set it between 1 and {MAX_JOB_SIZE}.")
    address = base_url(options.server)
    cluster = None if options.cluster is None else _cluster(options, address)

    def require(request: "GenerateRequest") -> Any:
        """Ray's module, connected, or None for a server that can draw the request."""
        return asyncio.run(require_server(address, request)) if cluster is None else open_cluster(cluster)

    ray = None
    is_kept = options.resume and (folder_at(options.output).has_manifest() or options.prompts is None)
    if is_kept:
        manifest = Manifest.resume(options.output)
    else:
        request = _request(options)
        ray = require(request)
        manifest = Manifest.create(options.output, request)
    with manifest:
        request = manifest.request
        if options.resume:
            _refuse_other_request(options, manifest)
        missing = len(request) - manifest.num_finished
        kept = f", {manifest.num_finished} of them finished" if manifest.num_finished else ""
        print(f"{len(request)} sprites{kept}, seeds {_seed_words(request)}, into {manifest.folder}")
        if not missing:
            return 0
        if is_kept:
            ray = require(request)
        progress = Progress(len(request), manifest.num_finished)
        go_on = _resume_command(options, str(manifest.folder))
        try:
            if cluster is None:
                asyncio.run(generate(manifest, address, options.job_size, progress))
            else:
                generate_on_cluster(ray, manifest, cluster, options.job_size, progress)
        except StoppedError as error:
            progress.end()
            raise PackError(
                f"{error} {manifest.num_finished} of {len(request)} sprites are finished; go on with: {go_on}"
            ) from error
        except KeyboardInterrupt:
            progress.end()
            print(f"{manifest.num_finished} of {len(request)} sprites are finished; go on with: {go_on}", file=sys.stderr)
            raise
        progress.end()
    return 0


def _request(options: argparse.Namespace) -> "GenerateRequest":
    """The request that the options make."""
    from ..generate.request import GenerateRequest, read_prompts
    from ..generate.workflow import DEFAULT_WORKFLOW, configured

    if options.prompts is None:
        raise BadInputError("No prompts are given: name a file with one prompt a line by --prompts FILE.")
    if options.count is not None and options.count < 1:
        raise BadInputError(f"--count is {options.count}; ask for 1 or more, or leave it out for one a line.")
    seed = options.seed
    if seed is None:
        seed = 0 if options.seeds is not None else random.getrandbits(RANDOM_SEED_BITS)
    request = GenerateRequest(
        workflow=read_workflow(options.workflow or DEFAULT_WORKFLOW),
        prompts=read_prompts(options.prompts),
        count=options.count or 0,
        seed_mode="list" if options.seeds is not None else "random" if options.random_seeds else "increment",
        seed=seed,
        seed_list=options.seeds or "",
        alternatives=options.alternatives or ALTERNATIVES[0],
        prefix=options.prefix,
        suffix=options.suffix,
        negative=options.negative,
        checkpoint=options.checkpoint,
    )
    configured(request)  # refuses what no server could draw
    return request


def _cluster(options: argparse.Namespace, address: str) -> "ClusterSpec":
    """The cluster that the options name."""
    from ..generate.cluster import ClusterSpec
    from ..generate.worker import WorkerSpec

    flags = tuple(options.comfyui_flag)
    worker = WorkerSpec(address, options.comfyui, options.comfyui_base, options.comfyui_python, flags)
    return ClusterSpec(options.cluster, worker, options.workers, options.gpus_per_worker, dict(options.worker_resource))


def _refuse_other_request(options: argparse.Namespace, manifest: "Manifest") -> None:
    """Raise BadInputError if an option that is given asks for something else than the manifest's request."""
    from ..generate.request import read_prompts

    request = manifest.request
    given = {
        "count": options.count,
        "seed": options.seed,
        "seed list": options.seeds,
        "alternatives": options.alternatives,
        "prefix": options.prefix,
        "suffix": options.suffix,
        "negative": options.negative,
        "checkpoint": options.checkpoint,
    }
    kept = {name: getattr(request, name.replace(" ", "_")) for name in given}
    kept["count"] = len(request)
    others = [f"{name} is {kept[name]!r}, not {value!r}" for name, value in given.items() if value not in (None, kept[name])]
    if options.random_seeds and request.seed_mode != "random":
        others.append("seeds are not random ones")
    if options.prompts is not None and read_prompts(options.prompts) != request.prompts:
        others.append(f"prompts are not those of {options.prompts}")
    if options.workflow is not None and read_workflow(options.workflow) != request.workflow:
        others.append(f"workflow is not {options.workflow}")
    if others:
        raise BadInputError(
            f"{manifest.folder} holds another request: its {'; its '.join(others)}. Resume it with --output and --resume alone, or choose "
            "another --output."
        )


def _seed_words(request: "GenerateRequest") -> str:
    first, last = request.seeds[0], request.seeds[-1]
    if request.seed_mode == "increment":
        return f"{first} to {last}" if len(request) > 1 else str(first)
    return f"drawn from {request.seed}" if request.seed_mode == "random" else "as listed"


def _resume_command(options: argparse.Namespace, output: str) -> str:
    words = [*_program(Path(sys.argv[0])), "generate", "--output", output, "--resume"]
    if options.server != DEFAULT_SERVER:
        words += ["--server", without_password(options.server)]
    if options.cluster is not None:
        words += _cluster_words(options)
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)


def _program(started: Path) -> list[str]:
    """How this command was started, as a person would type it."""
    if started.name == "benchmark":
        return [sys.executable, str(started)]
    return ["python", "-m", "nodes.benchmark"] if started.parts[-2:] == ("benchmark", "__main__.py") else ["fast-sprites"]


def _cluster_words(options: argparse.Namespace) -> list[str]:
    """The cluster's options as they were given."""
    words = ["--cluster", options.cluster, "--gpus-per-worker", f"{options.gpus_per_worker:g}"]
    for name in ("comfyui", "comfyui_base", "comfyui_python"):
        if getattr(options, name) is not None:
            words += [f"--{name.replace('_', '-')}", getattr(options, name)]
    words += ["--workers", str(options.workers)] if options.workers else []
    words += [f"--comfyui-flag={flag}" for flag in options.comfyui_flag]
    return words + [f"--worker-resource={name}={amount:g}" for name, amount in options.worker_resource]
