"""One line of progress over a batch: sprites done, pace and time left."""

import sys
import time
from typing import TextIO

LINE_EVERY_S = 10.0
DRAW_EVERY_S = 0.2


def duration(seconds: float) -> str:
    """A time as a person would say it: 42 s, 3 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


class Progress:
    """Redraws its line in a terminal; elsewhere prints a new one every ten seconds."""

    def __init__(self, num_sprites: int, num_finished: int, out: TextIO | None = None) -> None:
        """Begin with what an earlier run has finished; `out` is stdout if it is not named."""
        self._total, self._first, self._finished = num_sprites, num_finished, num_finished
        self._out = out or sys.stdout
        self._live = self._out.isatty()
        self._started_at = time.monotonic()
        self._shown_at = self._started_at
        self._width = 0

    def show(self, num_finished: int, drawing: float = 0.0) -> None:
        """Take into account that so many sprites are on disk, and so many more (with a fraction) drawn in the running jobs."""
        now = time.monotonic()
        is_last = num_finished == self._total != self._finished
        self._finished = num_finished
        if is_last or now - self._shown_at >= (DRAW_EVERY_S if self._live else LINE_EVERY_S):
            self._shown_at = now
            self._print(self.text(now, drawing))

    def text(self, now: float, drawing: float) -> str:
        """The line."""
        seconds = now - self._started_at
        done = self._finished - self._first + drawing
        words = f"{self._finished} of {self._total} sprites, {100 * self._finished // self._total} %"
        if done <= 0 or seconds <= 0:
            return words
        pace = done / seconds
        rate = f"{pace:.1f} a second" if pace >= 1 else f"{60 * pace:.1f} a minute"
        left_s = (self._total - self._first - done) / pace
        return f"{words}, {rate}, " + (f"{duration(left_s)} left" if self._finished < self._total else f"in {duration(seconds)}")

    def _print(self, text: str) -> None:
        if not self._live:
            print(text, file=self._out, flush=True)
            return
        print("\r" + text.ljust(self._width), end="", file=self._out, flush=True)
        self._width = len(text)

    def end(self) -> None:
        """Leave the line on the screen."""
        if self._live and self._width:
            print(file=self._out, flush=True)
