"""Join the trained checkpoint's parts into one file: python join.py OUT.safetensors [--parts DIR].

The parts travel below 16 MB each; `tiny_sdxl.json` beside them names them and holds the SHA-256 of the whole.
"""

import argparse
import hashlib
import json
import os
from pathlib import Path

WEIGHTS = Path(__file__).resolve().parent / "weights"
MANIFEST = "tiny_sdxl.json"
PART_BYTES = 15_900_000


def write_parts(data: bytes, folder: Path) -> dict:
    """Split `data` into parts in `folder` and write the manifest last; return it."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for start in range(0, len(data), PART_BYTES):
        parts.append(f"tiny_sdxl.part{len(parts)}")
        (folder / parts[-1]).write_bytes(data[start : start + PART_BYTES])
    manifest = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "parts": parts}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


def join_parts(folder: Path, out: Path) -> Path:
    """Write the whole checkpoint to `out` and return it; raises ValueError if the parts are not those of the manifest.

    The file appears under its name only once it is complete; one that is there already with the right hash stays.
    """
    manifest = json.loads((folder / MANIFEST).read_text())
    if out.is_file() and hashlib.sha256(out.read_bytes()).hexdigest() == manifest["sha256"]:
        out.touch()  # for callers that compare times
        return out
    data = b"".join((folder / part).read_bytes() for part in manifest["parts"])
    if hashlib.sha256(data).hexdigest() != manifest["sha256"]:
        raise ValueError(f"The parts in {folder} do not have the SHA-256 of {MANIFEST}: fetch them again.")
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        aside.write_bytes(data)
        aside.replace(out)
    finally:
        aside.unlink(missing_ok=True)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT.safetensors")
    parser.add_argument("--parts", type=Path, default=WEIGHTS, metavar="DIR")
    arguments = parser.parse_args()
    try:
        print(join_parts(arguments.parts, arguments.out))
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
