"""How long training stands still for a checkpoint: python -m tests.checkpoint_stall base, a size of `config.PRESETS`.

Prints, as JSON, medians over five checkpoints of weights and AdamW's moments: the seconds until they are on the disk
and read back, and the seconds that `save` takes in the background.
"""

import json
import os
import statistics
import sys
import tempfile
import time

from tfbert import quiet  # noqa: F401 (first)

# isort: split
from tfbert import config, heads
from tfbert.loop import checkpoints
from tfbert.optimizers import adamw

TIMES = 5


def main(size):
    """Measures and prints."""
    model = heads.build_pretrainer(config.preset(size))
    optimizer = adamw.AdamW(1e-4, 0.01, decays=lambda path: True)
    optimizer.build(model.trainable_variables)
    seconds = {"written": [], "save in the background": []}
    with tempfile.TemporaryDirectory(dir=".") as folder:
        at_once = checkpoints.Checkpoints(folder, model, optimizer, keep=1)
        behind = checkpoints.Checkpoints(folder, model, optimizer, keep=1, background=True)
        for step in range(0, 2 * TIMES, 2):
            for saver, name in ((at_once, "written"), (behind, "save in the background")):
                begin = time.perf_counter()
                prefix = saver.save(step + (saver is behind))
                seconds[name].append(time.perf_counter() - begin)
                saver.wait()
        megabytes = os.path.getsize(prefix + ".data-00000-of-00001") / 1e6
        behind.close()
    medians = {name: round(statistics.median(values), 3) for name, values in seconds.items()}
    print(json.dumps({"model": size, "megabytes": round(megabytes), **medians}))


if __name__ == "__main__":
    main(*sys.argv[1:])
