"""What a long preparation says while it works."""

import sys
import time

WIDTH = 24  # characters of the bar


class Progress:
    """A line on stderr every few seconds; on a terminal the line is written over.

    Args:
        seconds: Least time between two lines.
    """

    def __init__(self, seconds=5.0):
        self._terminal = sys.stderr.isatty()
        self._every = min(seconds, 1.0) if self._terminal else seconds
        self._started = self._last = time.monotonic()
        self._work = self._began = None

    def __call__(self, text, done=None, total=None):
        """Prints a line if it is time for one.

        Args:
            text: What is at work, and how fast.
            done: How much of it is done, in any measure; None if nobody can tell.
            total: How much there is.
        """
        now = time.monotonic()
        name = text.split(":")[0]
        if name != self._work:
            self._work, self._began = name, (now, done or 0)
        if now - self._last >= self._every:
            self._last = now
            bar = _bar(done, total, now, *self._began) if total else ""
            end = "\x1b[K\r" if self._terminal else "\n"
            print(f"{now - self._started:6.0f} s  {bar}{text}", end=end, file=sys.stderr, flush=True)

    def seconds(self):
        """Since the start."""
        return time.monotonic() - self._started


def _bar(done, total, now, began, done_then):
    """[######------]  42 %, 0:35 left."""
    share = min(1.0, done / total)
    full = int(share * WIDTH)
    left = ""
    if done > done_then:
        seconds = round((total - done) * (now - began) / (done - done_then))
        left = f", {seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"
    return f"[{'#' * full}{'-' * (WIDTH - full)}] {100 * share:3.0f} %{left}  "
