"""`make demo`: the whole road on the embedded corpus, one program after the other.

Each program is run as a person would type it, and its command is printed first, so that the demo's
output is also the list of what to type for another corpus. What is finished is kept: started again
after an interruption, the demo goes on where it stopped.
"""

import dataclasses
import json
import os
import shlex
import subprocess
import sys
import time

from tfbert import checks, config

# Of the corpus's kind: documentation of Python packages.
SENTENCES = (
    "Returns a new [MASK] with the same shape as the input.",
    "If the file does not exist, an error is [MASK].",
    "The default [MASK] is None.",
)


@dataclasses.dataclass(frozen=True)
class DemoConfig:
    """Where the demo writes, and which recipe it follows."""

    output_dir: str = config.field("out", "Folder for all that the demo makes.")
    recipe: str = config.field("tfbert/recipes/tiny.flags", "Flag file of the pre-training.")
    vocab_size: int = config.field(4096, "Entries of the vocabulary.", lower_bound=100)
    max_seq_length: int = config.field(32, "Wordpieces a sequence.", lower_bound=8)
    max_predictions_per_seq: int = config.field(5, "Masked wordpieces a sequence, at most.", lower_bound=1)
    held_out_fraction: float = config.field(0.05, "Share of the documents that is held out.", lower_bound=0.001)
    dupe_factor: int = config.field(4, "Times each document is masked anew.", lower_bound=1)


def _step(title, module, **flags):
    """Runs `python -m module --flag=value ...`, its command printed first; ends the demo if it fails."""
    arguments = [f"--{name}={value}" for name, values in flags.items() for value in _each(values)]
    command = ["python", "-m", module, *arguments]
    print(f"\n== {title}\n$ {shlex.join(command)}", flush=True)
    start = time.monotonic()
    done = subprocess.run([sys.executable, *command[1:]], check=False)
    if done.returncode:
        raise checks.error("every step of the demo must end well", f"status {done.returncode}", module)
    print(f"   ({time.monotonic() - start:.0f} s)", flush=True)


def _each(values):
    return values if isinstance(values, (list, tuple)) else [values]


def _held_out(run_dir):
    """The held-out rows of a run's metrics, first and last."""
    with open(os.path.join(run_dir, "metrics.jsonl"), encoding="utf-8") as f:
        rows = [json.loads(line) for line in f]
    rows = [row for row in rows if row.get("split") == "held_out"]
    return rows[0], rows[-1]


def _print_learning(run_dir):
    first, last = _held_out(run_dir)
    print(f"\nOn held-out documents          step {first['step']:>6}   step {last['step']:>6}")
    for name, title in (
        ("masked_lm_accuracy", "MLM accuracy"),
        ("masked_lm_loss", "MLM loss"),
        ("next_sentence_accuracy", "NSP accuracy"),
        ("next_sentence_loss", "NSP loss"),
    ):
        if name in last:
            print(f"  {title:<28} {first[name]:>11.4f}   {last[name]:>11.4f}")
    print(f"  {'always the commonest token':<28} {last['masked_lm_unigram_accuracy']:>11.4f}   (MLM baseline)")
    if "next_sentence_accuracy" in last:
        print(f"  {'a coin':<28} {0.5:>11.4f}   (NSP baseline)")


def run(demo):
    """Runs every step; raises `InputError` naming the program that failed."""
    place = {name: os.path.join(demo.output_dir, name) for name in ("vocab", "records", "run", "saved_model")}
    tflite = os.path.join(demo.output_dir, "model.tflite")
    start = time.monotonic()
    if not os.path.exists(os.path.join(place["vocab"], "tokenizer.json")):
        _step(
            "Learn a vocabulary",
            "data_prep.learn_vocab",
            source="pydocs",
            vocab_size=demo.vocab_size,
            held_out_fraction=demo.held_out_fraction,
            output_dir=place["vocab"],
        )
    if not os.path.exists(os.path.join(place["records"], "records.json")):
        _step(
            "Write masked examples",
            "data_prep.create_pretraining_data",
            source="pydocs",
            vocab_file=place["vocab"],
            max_seq_length=demo.max_seq_length,
            max_predictions_per_seq=demo.max_predictions_per_seq,
            dupe_factor=demo.dupe_factor,
            held_out_fraction=demo.held_out_fraction,
            output_dir=place["records"],
        )
    _step(
        "Pre-train",
        "tfbert.pretrain",
        flagfile=demo.recipe,
        vocab_file=place["vocab"],
        input_file=os.path.join(place["records"], "train-*"),
        eval_input_file=os.path.join(place["records"], "held_out-*"),
        max_seq_length=demo.max_seq_length,
        max_predictions_per_seq=demo.max_predictions_per_seq,
        output_dir=place["run"],
    )
    _step("Export a SavedModel", "export.saved_model", run_dir=place["run"], output_dir=place["saved_model"])
    _step("Export for the phone", "export.tflite", run_dir=place["run"], output=tflite, quantize="both")
    _step("Ask both", "export.ask", saved_model=place["saved_model"], tflite=tflite, text=SENTENCES)
    _print_learning(place["run"])
    print(f"\nThe whole road took {time.monotonic() - start:.0f} s. What it left:")
    print(f"  run folder    {place['run']}\n  SavedModel    {place['saved_model']}\n  TFLite        {tflite}")
    print(f"  TensorBoard   {os.path.join(place['run'], 'tensorboard')}")
    print("\nNext:")
    if sys.prefix != sys.base_prefix:
        print(f"  source {os.path.relpath(sys.prefix)}/bin/activate")
    print(f"  tensorboard --logdir {os.path.join(place['run'], 'tensorboard')}")
    print(f'  python -m tfbert.predict --run_dir={place["run"]} --text="The [MASK] of the array."')
    print("  your own text: see 'Your own corpus' in README.md")


def main(argv):
    """The program."""
    del argv
    run(config.from_flags(DemoConfig))


if __name__ == "__main__":
    config.define_flags(DemoConfig)
    checks.run_program(main)
