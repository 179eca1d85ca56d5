"""File names of sprites: safe on every system, whatever a pattern or a prompt holds."""

import itertools
import os
import re
import time
import unicodedata
from pathlib import Path

from ..errors import BadInputError

FORMATS = ("png", "webp")
"""Of SaveSprites; each is also the extension of its files."""
MAX_COMPONENT_BYTES = 180
"""Of 255 that file systems allow, so that a number and the extension still fit."""

_MAX_SLUG_CHARACTERS = 48
_CLOCK = {"year": "%Y", "month": "%m", "day": "%d", "hour": "%H", "minute": "%M", "second": "%S"}
# Windows' own, controls, half characters, and those that turn the direction of the text around, so that "gnp.exe" shows as "exe.png".
_FORBIDDEN = re.compile(r'[<>:"|?*\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]')
# Of devices, whatever extension follows: https://learn.microsoft.com/windows/win32/fileio/naming-a-file
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\xb9\xb2\xb3]) *(\..*)?", re.IGNORECASE)


def slug(text: str) -> str:
    """Return the prompt as words of letters and digits joined by dashes, at most 48 characters long."""
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", text).lower().replace("_", " "))
    name = "-".join(words)[:_MAX_SLUG_CHARACTERS]
    return name if len("-".join(words)) == len(name) else name.rpartition("-")[0] or name


def sprite_name(pattern: str, index: int, seed: int | None, prompt: str | None, width: int, height: int) -> str:
    """Fill in the pattern for sprite `index` (from 0); returns a relative path with `/` and without extension.

    Tokens without a value vanish with the separator before them. Raises BadInputError for a path that leaves its folder.
    """
    _refuse_outside(pattern, "filename")
    tokens = {
        "prompt": slug(prompt or ""),
        "seed": "" if seed is None else str(seed),
        "index": f"{index + 1:05}",
        "width": str(width),
        "height": str(height),
        # ComfyUI's own names for the clock (folder_paths.get_save_image_path).
        **{name: time.strftime(code) for name, code in _CLOCK.items()},
    }
    filled = pattern
    for token, value in tokens.items():
        filled = filled.replace(f"%{token}%", value) if value else re.sub(f"[_-]?%{token}%", "", filled)
    *folders, name = re.split(r"[\\/]", filled)
    parts = [safe for folder in folders if (safe := _safe_component(folder))]
    return "/".join([*parts, _safe_component(name) or f"sprite_{index + 1:05}"])


def relative_parts(prefix: str, widget: str) -> list[str]:
    """Return the parts of a path below the output folder, each safe on every system; raises BadInputError for one that leaves it."""
    _refuse_outside(prefix, widget)
    return [safe for part in re.split(r"[\\/]", prefix) if (safe := _safe_component(part))]


def _refuse_outside(path: str, widget: str) -> None:
    if path.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", path) or ".." in re.split(r"[\\/]", path):
        raise BadInputError(
            f"{widget} is {path!r}, which leaves ComfyUI's output folder; write a name, or folder/name, without '..' or a drive."
        )


def _safe_component(component: str) -> str:
    """Return a part of a path that Windows, macOS and Linux all accept; it may come out empty."""
    component = _FORBIDDEN.sub("-", unicodedata.normalize("NFC", component)).strip(" ._-")
    component = component.encode()[:MAX_COMPONENT_BYTES].decode(errors="ignore").rstrip(" .")
    return f"_{component}" if _RESERVED.fullmatch(component) else component


def publish(temporary: Path, folder: Path, stem: str, extension: str) -> Path:
    """Give a finished file its name, `stem`, `stem_2`, ...: the first that no file has. Existing files are never replaced."""
    for number in itertools.count(1):
        final = folder / f"{stem}{'' if number == 1 else f'_{number}'}{extension}"
        try:
            os.link(temporary, final)  # unlike rename, this fails where the name is taken
        except FileExistsError:
            continue
        except OSError:  # file systems without hard links, such as exFAT
            try:
                final.open("xb").close()
            except FileExistsError:
                continue
            try:
                os.replace(temporary, final)
            except OSError:
                final.unlink()  # the empty file that held the name
                raise
            return final
        temporary.unlink()
        return final
    raise AssertionError("unreachable")
