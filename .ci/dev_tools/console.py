"""What dev.py prints while it works."""

import shutil
import sys
import time
from types import TracebackType

REDRAW_S = 0.1


def say(text: str) -> None:
    """Print one line at once, also into a pipe."""
    print(text, flush=True)


def bar(fraction: float, width: int = 24) -> str:
    """`[####----]` for a fraction from 0 to 1."""
    full = round(min(max(fraction, 0.0), 1.0) * width)
    return "[" + "#" * full + "-" * (width - full) + "]"


class ProgressLine:
    """One line that counts up: redrawn in place on a terminal, printed once at the end elsewhere."""

    def __init__(self, title: str, total: int, unit: str, scale: float = 1.0) -> None:
        """`total` 0 means unknown; shown numbers are divided by `scale`."""
        self._title, self._total, self._unit, self._scale = title, total, unit, scale
        self._done = 0
        self._live = sys.stdout.isatty()
        self._drawn_at = 0.0

    def __enter__(self) -> "ProgressLine":
        """Start with an empty bar."""
        return self

    def advance(self, count: int) -> None:
        """Add `count` and redraw, ten times a second at most."""
        self._done += count
        now = time.monotonic()
        if self._live and now - self._drawn_at > REDRAW_S:
            self._drawn_at = now
            draw_over(self._text())

    def _text(self) -> str:
        done = f"{self._done / self._scale:.1f}"
        if not self._total:
            return f"{self._title}  {done} {self._unit}"
        return f"{self._title}  {bar(self._done / self._total)} {done}/{self._total / self._scale:.1f} {self._unit}"

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Leave the last state on the screen."""
        if self._live:
            draw_over(self._text())
            print(flush=True)
        else:
            say(self._text())


def draw_over(text: str) -> None:
    """Replace the current line of a terminal."""
    columns = shutil.get_terminal_size().columns
    print("\r" + text[: columns - 1].ljust(columns - 1), end="", flush=True)
