"""The run folder: all that going on, evaluating, fine-tuning and exporting need, in one place.

config.json (what made it), vocab.txt and tokenizer.json, checkpoints `ckpt-N`, metrics.jsonl, events.jsonl, TensorBoard
summaries. It needs nothing outside: not the training records, not the vocabulary's folder.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import platform

import keras
import tensorflow as tf

from tfbert import checks, config, heads
from tfbert.layers import dtype_policy, initializers
from tfbert.loop import checkpoints, retention
from tfbert.text import vocab as vocab_lib

CONFIG_FILE, METRICS_FILE = "config.json", "metrics.jsonl"


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """What a run folder says.

    Attributes:
        dir: Its path.
        encoder: The model's sizes.
        vocab: The vocabulary.
        config: All of config.json: "encoder", the program's own part ("pretrain"), "records", "versions".
    """

    dir: str
    encoder: config.EncoderConfig
    vocab: vocab_lib.Vocab
    config: dict


def _versions():
    return {"python": platform.python_version(), "tensorflow": tf.__version__, "keras": keras.__version__}


def _write_json(path, content):
    """Writes a file that is there as a whole or not at all."""
    unfinished = f"{path}.unfinished"
    with open(unfinished, "w", encoding="utf-8") as f:
        f.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        f.flush()
        os.fsync(f.fileno())
    os.replace(unfinished, path)


def _read_json(path):
    try:
        with open(path, encoding="utf-8") as f:
            content = json.load(f)
    except OSError as e:
        must = "a run folder must hold a readable config.json"
        raise checks.error(must, e.strerror, path, "Give the output_dir of a run") from e
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise checks.error("config.json must hold JSON", str(e), path) from e
    checks.require(
        isinstance(content, dict) and isinstance(content.get("encoder"), dict),
        "config.json must say what made the run",
        "no part named encoder",
        path,
    )
    return content


def _changes(before, now, path=""):
    """`name: before -> now` for each leaf in which two JSON values differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        names = [*before, *(n for n in now if n not in before)]
        # What is not there is as good as null: a run goes on with a version that has more flags.
        return [line for n in names for line in _changes(before.get(n), now.get(n), f"{path}{n}.")]
    return [] if before == now else [f"{path[:-1]}: {before!r} -> {now!r}"]


def _content(encoder_config, vocab, program_config):
    """What config.json holds, but for the versions."""
    content = {"encoder": config.to_dict(encoder_config), **program_config, "tokenizer": {"sha256": vocab.digest}}
    return json.loads(json.dumps(content))


def _compare(path, content, defaults):
    """(versions that a config.json was written with, lines of `_changes` from it to a content)."""
    before = _read_json(path)
    versions = before.pop("versions", None)
    # A run that is older than a field of the encoder was begun with what is its default now.
    before["encoder"] = config.to_dict(config.EncoderConfig()) | before["encoder"]
    for part, values in json.loads(json.dumps(defaults or {})).items():
        before[part] = values | before.get(part, {})
    return versions, _changes(before, content)


def create(run_dir, encoder_config, vocab, program_config, may_change=(), defaults=None):
    """Makes a run folder, or checks that the one which is there was made by the same configuration.

    Args:
        run_dir: Its path.
        encoder_config: The `EncoderConfig`.
        vocab: The `Vocab`.
        program_config: The other parts of config.json, as JSON can hold them:
            {"pretrain": {...}, "records": {...}}.
        may_change: Paths like "pretrain.output_dir" that do not change what is computed; they may
            differ from those of the folder, and replace them.
        defaults: Parts as in `program_config`: what counts for values that the folder does not have, since it is
            older than they are.

    Returns:
        The `RunFolder`.

    Raises:
        InputError: the folder cannot be written, holds something else, or has checkpoints of another
            configuration.
    """
    content = _content(encoder_config, vocab, program_config)
    path = os.path.join(run_dir, CONFIG_FILE)
    if os.path.isfile(path):
        versions, changes = _compare(path, content, defaults)
        forbidden = [line for line in changes if line.split(":")[0] not in may_change]
        begun = checkpoints.saved_steps(run_dir)  # a run without any has nothing to lose, and nothing to go on from
        checks.require(
            not (forbidden and begun),
            "a run goes on only with the configuration that it was begun with",
            "changed " + "; ".join(forbidden),
            path,
            "Give the same flags to go on, or another output_dir to begin anew",
        )
        if not changes:
            return read(run_dir)
        content["versions"] = versions if begun else _versions()
    else:
        # Another program's files are left alone, and so are checkpoints that nothing here explains.
        checks.require(
            not checkpoints.saved_steps(run_dir),
            "output_dir must be new, empty, or a run folder",
            "checkpoints without a config.json",
            run_dir,
        )
        content["versions"] = _versions()
    try:
        vocab.write(run_dir)
        _write_json(path, content)  # last: a folder that has it is complete
    except OSError as e:
        must = "output_dir must be a folder that can be written"
        raise checks.error(must, e.strerror, run_dir, "Choose another --output_dir, or free the disk") from e
    return read(run_dir)


def join(run_dir, encoder_config, vocab, program_config, may_change=(), defaults=None):
    """The run folder that another process has just made, or checked, with `create` of the same arguments.

    Raises:
        InputError: this process does not see it, or was given another configuration.
    """
    path = os.path.join(run_dir, CONFIG_FILE)
    must = "every worker must see the run folder of the first one"
    do = "Give all workers the same --output_dir, on storage that they share"
    checks.require(os.path.isfile(path), must, "no config.json", path, do)
    _, changes = _compare(path, _content(encoder_config, vocab, program_config), defaults)
    changes = [line for line in changes if line.split(":")[0] not in may_change]
    must = "every worker must be given the flags and records of the first one"
    checks.require(not changes, must, "; ".join(changes), path)
    return read(run_dir)


def read(run_dir):
    """Reads what a run folder says.

    Raises:
        InputError: it is not a run folder, or its vocabulary is not the one that it was trained with.
    """
    content = _read_json(os.path.join(run_dir, CONFIG_FILE))
    vocab = vocab_lib.load(run_dir)
    trained_with = content.get("tokenizer", {}).get("sha256", vocab.digest)
    checks.require(
        trained_with == vocab.digest,
        "vocab.txt must be the vocabulary that the run was trained with",
        f"tokenizer {vocab.digest[:12]}, and {trained_with[:12]} in config.json",
        run_dir,
    )
    return RunFolder(run_dir, config.from_dict(config.EncoderConfig, content["encoder"], run_dir), vocab, content)


def checkpoint_prefix(run_dir, checkpoint=None):
    """The path prefix of a run folder's checkpoint.

    Args:
        run_dir: The run folder.
        checkpoint: A step, a name `ckpt-N`, or "best" for the one that best.json names. None for the newest; of a run
            that was fine-tuned for the best, if it was evaluated.

    Raises:
        InputError: there is no such checkpoint, or none at all.
    """
    steps = checkpoints.saved_steps(run_dir)
    if checkpoint == "best":
        best = checkpoints.read_best(run_dir)
        must = "the best checkpoint must be known"
        do = "Train with --keep_best_metric=masked_lm_loss, or fine-tune with --dev_file"
        checks.require(best, must, f"no {retention.BEST_FILE}", run_dir, do)
        checkpoint = best.step
    if checkpoint is None and (best := best_of_task(run_dir)):
        checkpoint = best.step
    if checkpoint is None:
        checks.require(steps, "a run folder must hold a checkpoint", "none", run_dir, "Train it first")
        return checkpoints.prefix_of(run_dir, steps[-1])
    name = os.path.basename(str(checkpoint)).removesuffix(".index").removeprefix("ckpt-")
    checks.require(
        name.isdecimal() and int(name) in steps,
        "checkpoint must be one of the run folder's",
        f"checkpoint={checkpoint}, and steps {steps}",
        run_dir,
    )
    return checkpoints.prefix_of(run_dir, int(name))


def best_of_task(run_dir):
    """The `retention.Best` of a run that was fine-tuned; None of others, or if it was not evaluated."""
    best = checkpoints.read_best(run_dir)
    return best if best and "task" in _read_json(os.path.join(run_dir, CONFIG_FILE)) else None


def was_evaluated(run_dir, step):
    """Whether metrics.jsonl has the held-out figures of a step."""
    with contextlib.suppress(FileNotFoundError):
        with open(os.path.join(run_dir, METRICS_FILE), encoding="utf-8") as f:
            lines = [json.loads(line) for line in f if line.endswith("\n")]
        return any(line.get("step") == step and line.get("split") == "held_out" for line in lines)
    return False


@contextlib.contextmanager
def lock(run_dir):
    """Keeps a second process from writing into a run folder; released when the process ends, however it ends.

    Raises:
        InputError: another process is training in the folder, or nothing can be written there.
    """
    path = os.path.join(run_dir, ".lock")
    try:
        file = open(path, "a")  # noqa: SIM115 (closed below)
    except OSError as e:
        must = "the run folder must be writable and its disk must have space left"
        raise checks.error(must, e.strerror, path, "Mend that, then give the same command again to go on") from e
    with file as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            must = "one process at a time may train in a run folder"
            raise checks.error(must, "another one that is at work", run_dir, "Wait for it or stop it") from e
        yield


def split(path):
    """(run folder, checkpoint or None) of a path to a run folder or to a checkpoint prefix in one."""
    return (path, None) if os.path.isdir(path) else os.path.split(path)


def load_pretrainer(run_dir, checkpoint=None, packed=False):
    """Builds the pre-training model of a run folder, in float32, with its weights.

    Args:
        run_dir: The run folder.
        checkpoint: As of `checkpoint_prefix`.
        packed: Whether the model is to take rows of several examples; the weights are the same either way.

    Returns:
        (keras.Model of `heads.build_pretrainer`, `RunFolder`, step of the checkpoint).

    Raises:
        InputError: not a run folder, no such checkpoint, a damaged one, or one of another model.
    """
    run = read(run_dir)
    prefix = checkpoint_prefix(run_dir, checkpoint)
    with dtype_policy.building_in("float32"), initializers.left_out():
        model = heads.build_pretrainer(run.encoder, packed)
    checkpoints.restore_model(prefix, model)
    return model, run, int(prefix.rpartition("-")[2])
