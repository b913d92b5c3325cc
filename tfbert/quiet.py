"""Imports TensorFlow without the lines that it prints on every start; real errors still appear.

TensorFlow writes these before its logging is set up, so that no environment variable holds them back:
that oneDNN is on, that there is no CUDA driver, and that logging is not set up yet. What the import
writes is held for its duration and then written again without them.

A program imports this module before any other of ours.
"""

import os
import re
import sys
import tempfile

_NOISE = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog|I\d{4} |To enable the following instructions"
    rb"|E\d{4} .* failed call to cuInit"
)


def _import_tensorflow():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_physical_devices()
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            held.seek(0)
            lines = (line for line in held if not _NOISE.match(line))
            sys.stderr.write(b"".join(lines).decode(errors="replace"))


if "tensorflow" not in sys.modules:
    _import_tensorflow()
