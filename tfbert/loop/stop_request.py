"""Signals that end a run after the step at hand, saved."""

import os
import signal
import sys
import threading

import tensorflow as tf


class StopRequest:
    """While open as a context, SIGTERM and SIGINT ask the loop to stop instead of ending the process.

    A Python signal handler would wait until the graph call returns, many steps later. So the
    interpreter's C handler writes the signal's number to a pipe (`signal.set_wakeup_fd`), and a thread
    that reads it sets a variable that the graph's loop looks at before each step. A second signal ends
    the process at once, unsaved.

    Several processes that train together must stop at the same step. So there a signal to one of them counts once
    all have been told, in the collective operation of a step: `Trainer` and `Evaluator` do that.

    Args:
        shared: Whether other processes train with this one.

    Attributes:
        variable: bool tf.Variable, whether this process was asked.
        agreed: bool tf.Variable, whether the loop is to end; alone it is `variable`.
        signal: The number of the signal to this process, or None.
    """

    def __init__(self, shared=False):
        with tf.device("CPU:0"):  # one copy, on the host, whatever the strategy
            self.variable = tf.Variable(False, trainable=False)
            self.agreed = tf.Variable(False, trainable=False) if shared else self.variable
        self.signal = None

    @property
    def asked(self):
        """Whether training is to end here, for all processes alike."""
        return bool(self.agreed.numpy())

    def __enter__(self):
        self._in_charge = threading.current_thread() is threading.main_thread()  # only there can signals be set
        if self._in_charge:
            self._read, self._write = os.pipe()
            os.set_blocking(self._write, False)
            self._handlers = {s: signal.signal(s, lambda *_: None) for s in (signal.SIGTERM, signal.SIGINT)}
            self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
            self._thread = threading.Thread(target=self._watch, daemon=True, name="signals")
            self._thread.start()
        return self

    def __exit__(self, *_):
        if self._in_charge:
            signal.set_wakeup_fd(self._wakeup)
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            os.close(self._write)  # the thread reads the end of the pipe
            self._thread.join()
            os.close(self._read)

    def _watch(self):
        while number := os.read(self._read, 1):
            if number[0] not in self._handlers:
                continue
            if self.signal is not None:
                os._exit(128 + number[0])
            self.signal = number[0]
            self.variable.assign(True)
            name = signal.Signals(self.signal).name
            print(f"\n{name}: saving after this step; once more ends at once, unsaved.", file=sys.stderr, flush=True)
