"""Measures the speed of training: the real step, on real records or made-up ones.

    python -m tfbert.benchmark --model=base --train_batch_size=32 --max_seq_length=128 --mixed_precision=bfloat16

Prints JSON lines: first the machine and how fast it multiplies matrices, then one line for each model and batch
size. Each of those has a process of its own, and their windows take turns, so that a disturbance of the machine
meets all alike. A step is that of pre-training: input pipeline, both objectives, dropout, clipping and AdamW.
"""

from tfbert import quiet  # noqa: F401 (first: it imports TensorFlow without its start-up noise)

# isort: split
import concurrent.futures
import contextlib
import dataclasses
import itertools
import json
import multiprocessing
import os
import resource
import statistics
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf

from tfbert import checks, config, features, heads, held_out, input_pipeline, record_sets
from tfbert import machine as machine_lib
from tfbert.config import field
from tfbert.loop import distribution, stop_request
from tfbert.loop import trainer as trainer_lib
from tfbert.optimizers import adamw, param_groups

SHAPES = ((2048, 768, 3072), (4096, 512, 2048), (4096, 1024, 4096))  # rows, depth, columns of the matrices multiplied
SECONDS = 1.0  # of one window, at least
ROWS = 256  # of made-up records
FLATNESS = 10  # times that memory is looked at with --steps
LEARNING_RATE, WEIGHT_DECAY, CLIP_NORM = 1e-4, 0.01, 1.0  # what is not measured


@dataclasses.dataclass(frozen=True)
class Config:
    """The flags."""

    model: tuple[str, ...] = field(("base",), f"Published sizes, of {', '.join(config.PRESETS)}.")
    num_hidden_layers: tuple[str, ...] = field((), "Layers in place of the model's own number; e.g. 2,4,8.")
    train_batch_size: tuple[str, ...] = field(("32",), "Rows an optimizer step; e.g. 8,32.")
    gradient_accumulation_steps: int = field(1, "Parts that a step's batch is computed in.", lower_bound=1)
    max_seq_length: int = field(128, "Wordpieces a row.", lower_bound=4)
    max_predictions_per_seq: int = field(20, "Masked wordpieces a row.", lower_bound=1)
    mixed_precision: str = field("float32", "What layers compute in.", choices=("float32", "bfloat16"))
    hidden_dropout_prob: float = field(0.1, "Of hidden states.", lower_bound=0.0, upper_bound=1.0)
    attention_probs_dropout_prob: float = field(0.1, "Of attention.", lower_bound=0.0, upper_bound=1.0)
    rematerialize: bool = field(False, "Compute each layer again in the backward pass, for less memory.")
    input_file: tuple[str, ...] = field((), "Globs of records to train on; none: made-up ones.")
    repeats: int = field(7, "Windows of each, of which the median counts.", lower_bound=1)
    steps: int = field(0, "Do so many steps, and tell memory along the way, in place of windows.", lower_bound=0)

    def __post_init__(self):
        config.check_bounds(self)
        unknown = sorted(set(self.model) - set(config.PRESETS))
        checks.require(not unknown, f"model must be of {', '.join(config.PRESETS)}", f"model={','.join(unknown)}")
        checks.require(self.train_batch_size, "train_batch_size must not be empty", "train_batch_size=")
        for name in ("num_hidden_layers", "train_batch_size"):
            values = getattr(self, name)
            checks.require(
                all(n.isdecimal() and int(n) for n in values),
                f"{name} must be positive integers with commas between them",
                f"{name}={','.join(values)}",
            )

    def encoder(self, model, layers=None):
        """The `EncoderConfig` of a published size, with another number of layers if one is given."""
        rates = {n: getattr(self, n) for n in ("hidden_dropout_prob", "attention_probs_dropout_prob")}
        longest = max(self.max_seq_length, config.EncoderConfig().max_position_embeddings)
        layers = {"num_hidden_layers": layers} if layers else {}
        return config.preset(model, max_position_embeddings=longest, **rates, **layers)

    def runs(self):
        """(model, layers or None, batch size) of each."""
        layers = [int(n) for n in self.num_hidden_layers] or [None]
        return list(itertools.product(self.model, layers, [int(n) for n in self.train_batch_size]))


def step_flops(encoder, length, predictions):
    """Floating-point operations of one row's training step: three times those of its forward matrix products.

    Args:
        encoder: The `EncoderConfig`.
        length: L.
        predictions: P, the positions that are scored.
    """
    hidden, wide = encoder.hidden_size, encoder.intermediate_size
    layer = 8 * length * hidden**2 + 4 * length * hidden * wide + 4 * length**2 * hidden
    masked_lm = predictions * (2 * hidden**2 + 2 * hidden * encoder.vocab_size)
    next_sentence = 2 * hidden**2 + 4 * hidden
    return 3 * (encoder.num_hidden_layers * layer + masked_lm + next_sentence)


def _matmul_flops(dtype):
    """The best median, over `SHAPES`, of floating-point operations a second of one matrix product."""
    best = 0.0
    for rows, depth, columns in SHAPES:
        a, b = (tf.cast(tf.random.uniform(shape), dtype) for shape in ((rows, depth), (depth, columns)))
        times = []
        while len(times) < 10:
            began = time.perf_counter()
            tf.matmul(a, b)[0, 0].numpy()
            times.append(time.perf_counter() - began)
        best = max(best, 2 * rows * depth * columns / statistics.median(times))
    return best


def machine(dtype):
    """What the numbers hang on, beside the code."""
    return {
        **machine_lib.of_benchmark(),
        "keras": keras.__version__,
        "mixed_precision": dtype,
        "matmul_gflop_s": round(_matmul_flops(dtype) / 1e9, 1),
    }


def _memory_mb():
    """(resident now, its peak) of this process."""
    with open("/proc/self/statm", encoding="ascii") as f:
        resident = int(f.read().split()[1]) * resource.getpagesize()
    return resident / 1e6, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def write_records(path, cfg, vocab_size):
    """Writes `ROWS` rows of random wordpieces in Google's layout, between 78 % and 100 % full."""
    rng = np.random.default_rng(0)
    length, predictions = cfg.max_seq_length, cfg.max_predictions_per_seq
    lengths = rng.integers(max(predictions, round(0.78 * length)), length + 1, ROWS)
    mask = np.arange(length) < lengths[:, None]
    positions = [np.sort(rng.permutation(n)[:predictions]) for n in lengths]
    batch = {
        "input_ids": rng.integers(1000, vocab_size, mask.shape) * mask,
        "input_mask": mask,
        "segment_ids": mask & (np.arange(length) >= length // 2),
        "masked_lm_positions": np.stack(positions),
        "masked_lm_ids": rng.integers(1000, vocab_size, (ROWS, predictions)),
        "masked_lm_weights": np.ones((ROWS, predictions), np.float32),
        "next_sentence_labels": rng.integers(0, 2, (ROWS, 1)),
    }
    layout = features.Layout(length, predictions)
    batch = {f.name: batch[f.name].astype(f.dtype) for f in layout.features}
    with tf.io.TFRecordWriter(path) as file:
        for record in features.serialize_batch(batch, layout):
            file.write(record)


class Training:
    """One model's training, to be measured window by window.

    Args:
        cfg: The `Config`.
        model: Its size.
        layers: Its number of layers; None: the size's own.
        batch_size: Rows a step.
        patterns: Globs of records.
    """

    def __init__(self, cfg, model, layers, batch_size, patterns):
        self.encoder, self.batch_size = cfg.encoder(model, layers), batch_size
        keras.utils.set_random_seed(0)
        keras.config.set_dtype_policy("mixed_bfloat16" if cfg.mixed_precision == "bfloat16" else "float32")
        records = record_sets.open_records(patterns, cfg.max_seq_length, cfg.max_predictions_per_seq)
        strategy = distribution.make_strategy("default")
        with strategy.scope():
            built = heads.build_pretrainer(self.encoder, records.packed, cfg.rematerialize)
            decays = param_groups.decay_mask([v.path for v in built.trainable_variables])
            optimizer = adamw.AdamW(LEARNING_RATE, WEIGHT_DECAY, decays=decays.__getitem__)
            optimizer.build(built.trainable_variables)
        micro_batches, objective = cfg.gradient_accumulation_steps, held_out.objective(records)
        self._trainer = trainer_lib.Trainer(strategy, built, optimizer, objective, micro_batches, CLIP_NORM)

        def make_dataset(*pipeline):
            return input_pipeline.train_dataset(records, batch_size, micro_batches, 0, 0, records.total, *pipeline)

        self._batches = iter(distribution.distribute(strategy, make_dataset))
        self._stop = stop_request.StopRequest()
        began = time.perf_counter()
        self.run(1)
        first = time.perf_counter() - began
        self.seconds = self.run(1)  # of a step
        self.compile_s = first - self.seconds

    def run(self, count):
        """Does steps: returns the seconds that they took."""
        began = time.perf_counter()
        loss, _ = self._trainer.run(self._batches, count, self._stop)
        took = time.perf_counter() - began
        checks.require(np.isfinite(loss), "loss must be finite", f"loss={loss}", f"step {self._trainer.step}")
        return took

    def window(self):
        """Rows a second, over `SECONDS` or one step if that is longer."""
        count = max(1, round(SECONDS / self.seconds))
        took = self.run(count)
        self.seconds = took / count
        return count * self.batch_size / took

    def real_share(self):
        """Share of the wordpieces, of all steps since the last call, that are not padding."""
        return 1 - self._trainer.take_report()[trainer_lib.PADDING_SHARE]


_training = None  # in a process: its `Training`


def _begin(*args):
    global _training
    _training = Training(*args)
    return _training.compile_s


def _window():
    return _training.window()


def _end():
    return _training.real_share(), _memory_mb()[1]


def _grow(steps):
    """Does `steps` in `FLATNESS` parts: returns [[steps done, seconds a step, resident MB]]."""
    found, done = [], 0
    for part in range(1, FLATNESS + 1):
        count = steps * part // FLATNESS - done
        if count:
            done += count
            found.append([done, round(_training.run(count) / count, 5), round(_memory_mb()[0], 1)])
    return found


def _line(cfg, model, layers, batch_size, peak, compile_s, windows, end):
    """What is printed of a model, its layers and a batch size."""
    rate, (real_share, peak_rss_mb) = statistics.median(windows), end
    encoder = cfg.encoder(model, layers)
    flops = rate * step_flops(encoder, cfg.max_seq_length, cfg.max_predictions_per_seq)
    return {
        "model": model,
        "num_hidden_layers": encoder.num_hidden_layers,
        "train_batch_size": batch_size,
        "max_seq_length": cfg.max_seq_length,
        "max_predictions_per_seq": cfg.max_predictions_per_seq,
        "mixed_precision": cfg.mixed_precision,
        "rematerialize": cfg.rematerialize,
        "sequences_s": round(rate, 3),
        "step_ms": round(1e3 * batch_size / rate, 2),
        "real_tokens_s": round(rate * cfg.max_seq_length * real_share, 1),
        "gflop_s": round(flops / 1e9, 1),
        "share_of_matmul": round(flops / 1e9 / peak, 3),
        "peak_rss_mb": round(peak_rss_mb, 1),
        "compile_s": round(compile_s, 1),
        "repeats": len(windows),
        "spread": round((max(windows) - min(windows)) / rate, 3),
    }


def _print(line):
    print(json.dumps(line), flush=True)
    return line


def run(cfg):
    """Measures what a `Config` asks for and prints a line for each.

    Returns:
        The lines, as dicts; the first is of the machine.

    Raises:
        InputError: the records cannot be used.
    """
    lines = [_print(machine(cfg.mixed_precision))]
    keys = cfg.runs()
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        patterns = cfg.input_file
        if not patterns:
            patterns = (os.path.join(folder, "made_up.tfrecord"),)
            write_records(patterns[0], cfg, config.EncoderConfig().vocab_size)
        processes, windows = {}, {key: [] for key in keys}
        for key in keys:
            processes[key] = stack.enter_context(concurrent.futures.ProcessPoolExecutor(1, spawn))
        compile_s = {key: p.submit(_begin, cfg, *key, patterns).result() for key, p in processes.items()}
        if cfg.steps:
            for (model, layers, batch_size), p in processes.items():
                which = {"model": model, "num_hidden_layers": cfg.encoder(model, layers).num_hidden_layers}
                grown = p.submit(_grow, cfg.steps).result()
                lines.append(_print({**which, "train_batch_size": batch_size, "steps_seconds_rss_mb": grown}))
            return lines
        for _, key in itertools.product(range(cfg.repeats), keys):
            windows[key].append(processes[key].submit(_window).result())
        for key, p in processes.items():
            end = p.submit(_end).result()
            lines.append(_print(_line(cfg, *key, lines[0]["matmul_gflop_s"], compile_s[key], windows[key], end)))
    return lines


def main(_):
    """Runs the program with its flags."""
    run(config.from_flags(Config))


if __name__ == "__main__":
    config.define_flags(Config)
    checks.run_program(main)
