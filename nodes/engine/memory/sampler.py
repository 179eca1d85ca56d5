"""The thread that samples the memory while somebody watches, and only then."""

import logging
import threading
from collections.abc import Callable

from .samples import Sample, now_s
from .timeline import Timeline

RATES_HZ = (1, 2, 4, 10)
"""Rates that a watcher may ask for; while a prompt runs it is five times as much, at most MAX_RATE_HZ."""
BUSY_FACTOR = 5
MAX_RATE_HZ = 50
WATCH_S = 90.0
"""A watcher counts this long; browsers let hidden tabs ask again only once a minute."""
CONNECT_S = 10.0
"""A page asks for the history before its WebSocket is open."""
PUBLISH_S = 0.2

log = logging.getLogger("fast_sprites")


class Sampler:
    """Samples into a timeline; its thread starts with the first watcher and ends with the last."""

    def __init__(
        self,
        timeline: Timeline,
        take: Callable[[], Sample],
        publish: Callable[[int, int], bool],
        num_tabs: Callable[[], int],
    ) -> None:
        """Use `take` for a sample, `publish(seq, changes)` to send what is newer than that, False when the server is gone."""
        self._timeline = timeline
        self._take = take
        self._publish = publish
        self._num_tabs = num_tabs
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._watched_until_s: dict[int, float] = {}
        self._last_watch_s = 0.0
        self._is_busy = False
        self._is_stopped = False
        self._thread: threading.Thread | None = None
        self._last_problem = ""

    def watch(self, rate_hz: int) -> None:
        """Sample at one of RATES_HZ for the next 90 seconds; the fastest of several watchers wins."""
        with self._lock:
            self._last_watch_s = now_s()
            self._watched_until_s[rate_hz] = self._last_watch_s + WATCH_S
            self._start()

    def _start(self) -> None:
        if self._thread is None and not self._is_stopped:
            self._thread = threading.Thread(target=self._run, name="fast-sprites-memory", daemon=True)
            self._thread.start()

    def set_busy(self, is_busy: bool) -> None:
        """Say whether a prompt runs; the thread begins again for a tab that connected after CONNECT_S."""
        with self._lock:
            self._is_busy = is_busy
            if self.interval_s() is not None:
                self._start()
        self._wake.set()

    def stop(self) -> None:
        """End the thread for good and wait for it."""
        with self._lock:
            self._is_stopped = True
            thread = self._thread
        self._wake.set()
        if thread is not None:
            thread.join(timeout=2)

    @property
    def is_running(self) -> bool:
        """Whether the thread is there."""
        return self._thread is not None

    def interval_s(self) -> float | None:
        """Return the time to the next sample, None when nobody watches."""
        now = now_s()
        rates = [rate for rate, until in self._watched_until_s.items() if until > now]
        if not rates or (now - self._last_watch_s > CONNECT_S and self._num_tabs() == 0):
            return None
        return 1 / min(max(rates) * (BUSY_FACTOR if self._is_busy else 1), MAX_RATE_HZ)

    def _run(self) -> None:
        sent, sent_s = self._timeline.position, 0.0
        while True:
            with self._lock:
                interval = self.interval_s()
                if interval is None or self._is_stopped:
                    self._thread = None
                    return
            sample = self._take()
            self._timeline.add(sample)
            self._complain_once(sample.problem)
            if sample.time_s - sent_s >= PUBLISH_S:
                position = self._timeline.position
                if not self._publish(*sent):
                    with self._lock:
                        self._thread = None
                    return
                sent, sent_s = position, sample.time_s
            self._wake.wait(interval)
            self._wake.clear()

    def _complain_once(self, problem: str) -> None:
        if problem and problem != self._last_problem:
            log.warning("The memory of the device cannot be read: %s", problem)
            self._last_problem = problem
