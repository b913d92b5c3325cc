"""Converts weights between Google's checkpoints, Hugging Face, KerasHub and run folders, every tensor accounted for.

    python -m tfbert.convert_weights --input=uncased_L-12_H-768_A-12 --output=runs/bert_base
    python -m tfbert.convert_weights --input=runs/mine --output=for_transformers --to=huggingface

The input is a run folder, a TensorFlow checkpoint with bert_config.json (Google's, or the Model Garden's), a Hugging
Face folder, or a KerasHub preset. What came from where is printed, and nothing is left out unless --allow_missing
names it.
"""

from tfbert import quiet  # noqa: F401 (first: it imports TensorFlow without its start-up noise)

# isort: split
import dataclasses

from absl import flags

from tfbert import checks, config
from tfbert.convert import formats, names


@dataclasses.dataclass(frozen=True)
class ConvertConfig:
    """The flags, besides --from: a word that Python keeps for itself."""

    input: str = config.field("", "Weights: a run folder, a checkpoint, a Hugging Face folder, a KerasHub preset.")
    output: str = config.field("", "The folder to make.")
    to: str = config.field(
        "", "Format of the output; a run folder (tfbert) unless the input is one.", choices=("", *formats.OUTPUTS)
    )
    allow_missing: tuple[str, ...] = config.field(
        (), "Globs of names that may be missing in the input or be left over from it, such as cls/*."
    )
    overwrite: bool = config.field(False, "Replace an output that is there.")

    def __post_init__(self):
        config.check_bounds(self)
        for name in ("input", "output"):
            checks.require(getattr(self, name), f"--{name} must be given", f"{name}={getattr(self, name)!r}")


def run(cfg, from_kind=""):
    """Converts, prints the account and returns it."""
    source = formats.open_source(cfg.input, from_kind or None)
    checks.require(
        cfg.to or source.kind != "tfbert",
        "--to must say what to make of a run folder",
        "none",
        do=f"Give --to={', --to='.join(kind for kind in formats.OUTPUTS if kind != 'tfbert')}",
    )
    kind = cfg.to or "tfbert"
    account = formats.convert(source, cfg.output, kind, cfg.allow_missing, cfg.overwrite)
    print(account.text())
    print(f"wrote {kind} {cfg.output}")
    return account


def main(argv):
    """The program."""
    del argv
    run(config.from_flags(ConvertConfig), flags.FLAGS["from"].value)


if __name__ == "__main__":
    config.define_flags(ConvertConfig)
    flags.DEFINE_enum("from", "", ["", *names.KINDS], "Format of the input; it is recognised.")
    checks.run_program(main)
