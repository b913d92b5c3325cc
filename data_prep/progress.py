"""What a long preparation says while it works."""

import sys
import time


class Progress:
    """A line on stderr every few seconds.

    Args:
        seconds: Least time between two lines.
    """

    def __init__(self, seconds=5.0):
        self._every = seconds
        self._started = self._last = time.monotonic()

    def __call__(self, text):
        """Prints a line if it is time for one."""
        now = time.monotonic()
        if now - self._last >= self._every:
            self._last = now
            print(f"{now - self._started:6.0f} s  {text}", file=sys.stderr, flush=True)

    def seconds(self):
        """Since the start."""
        return time.monotonic() - self._started
