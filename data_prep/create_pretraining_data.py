"""Documents -> TFRecords of masked sentence pairs: `python -m data_prep.create_pretraining_data --help`."""

from tfbert import quiet  # isort: skip  # noqa: F401

import collections
import contextlib
import dataclasses

import numpy as np
import tensorflow as tf

from data_prep import corpus, instances, record_files
from data_prep import progress as progress_lines
from tfbert import checks, config, features
from tfbert.config import field
from tfbert.text import masking, selection, vocab
from tfbert.text.tokenizer import Tokenizer

MASKED_AT_ONCE = 4096
SPLITS = ("train", "held_out")


@dataclasses.dataclass(frozen=True)
class Config(corpus.CorpusConfig):
    """Where the text comes from (`CorpusConfig`), and google-research/bert's flags under their names."""

    output_dir: str = field("", "Folder for the records; made if it is not there.")
    vocab_file: str = field("", "vocab.txt, or the folder that holds it.")
    do_lower_case: bool | None = field(
        None, "Lower-case and strip accents. Default: as tokenizer.json beside the vocabulary says, else true."
    )
    do_whole_word_mask: bool = field(False, "Mask all pieces of a word or none.")
    max_seq_length: int = field(128, "Tokens in a sequence, [CLS] and [SEP] counted.", lower_bound=5)
    max_predictions_per_seq: int = field(20, "Most masked tokens in a sequence.", lower_bound=1)
    random_seed: int = field(12345, "Seed of everything drawn.", lower_bound=0)
    dupe_factor: int = field(10, "Passes over the training documents, each cut and masked anew.", lower_bound=1)
    masked_lm_prob: float = field(0.15, "Share of the tokens to mask.", lower_bound=0.0, upper_bound=1.0)
    short_seq_prob: float = field(0.1, "Share of the sequences made shorter.", lower_bound=0.0, upper_bound=1.0)
    num_shards: int = field(8, "Training files; held-out files in proportion.", lower_bound=1, upper_bound=99999)
    overwrite: bool = field(False, "Replace records that output_dir already holds.")


def _tokenize(cfg, vocabulary, folder, progress):
    """Reads and tokenizes the corpus once: returns ({split: TokenFile}, corpus counts, {split: counts})."""
    read = collections.Counter()
    made = {split: collections.Counter() for split in SPLITS}
    contents = {split: set() for split in SPLITS}  # two of them are enough to know
    with contextlib.ExitStack() as stack:
        files = {s: stack.enter_context(contextlib.closing(record_files.TokenFile(folder, s))) for s in SPLITS}
        for held_out, block, empty in instances.tokenize(corpus.documents(cfg, read), Tokenizer(vocabulary)):
            split = SPLITS[held_out]
            files[split].append(block)
            made[split].update(
                documents=len(block.document_lengths),
                documents_without_tokens=empty,
                sentences=len(block.sentence_lengths),
                tokens=len(block.tokens),
                unknown_tokens=int((block.tokens == vocabulary.unk_id).sum()),
            )
            if len(contents[split]) < 2:
                contents[split].update(np.unique(block.digests)[:2].tolist())
            documents, megabytes = sum(m["documents"] for m in made.values()), read["bytes"] / 1e6
            progress(f"tokenized {documents:,} documents, {megabytes / progress.seconds():.2f} MB/s")
    _check_documents(cfg, made, contents)
    return files, read, made


def _check_documents(cfg, made, contents):
    """Raises `InputError` unless each split has the two documents that a random next segment takes."""
    checks.require(
        made["train"]["documents"],
        "the corpus must hold text to train on",
        f"0 documents with text, {made['held_out']['documents']} of them held out",
        cfg.source,
        "Check --input_file and --held_out_fraction",
    )
    for split in SPLITS:
        checks.require(
            len(contents[split]) != 1,
            "next-sentence prediction takes segments of other documents, so a split must hold two different ones",
            f"1 different document in {split}",
            cfg.source,
            "Put a blank line between documents"
            if split == "train"
            else "Raise --held_out_fraction, or set it to 0 to hold nothing out",
        )


def _masker(cfg, vocabulary):
    """A compiled (input_ids, input_mask, seed) -> masked features."""
    unit = selection.whole_words if cfg.do_whole_word_mask else selection.tokens
    batch = tf.TensorSpec([None, cfg.max_seq_length], tf.int32)

    @tf.function(autograph=False, input_signature=[batch, batch, tf.TensorSpec([2], tf.int32)])
    def mask(input_ids, input_mask, seed):
        return masking.mask(
            input_ids, input_mask, vocabulary, unit, cfg.masked_lm_prob, cfg.max_predictions_per_seq, seed
        )

    return mask


def _batches(cfg, vocabulary, window, mask, rng):
    """Yields (features of a batch, tokens that truncation cut off) of one window, in random order."""
    max_tokens = cfg.max_seq_length - 3
    long = instances.draw_pairs(window, max_tokens, cfg.short_seq_prob, int(rng.integers(1 << 62)))
    pairs = instances.truncate(long, max_tokens, rng)
    cut = sum((a.a_end - a.a_begin + a.b_end - a.b_begin) * sign for a, sign in ((long, 1), (pairs, -1)))
    order = rng.permutation(len(cut))  # neighbours in a shard are not to be of one document
    for start in range(0, len(order), MASKED_AT_ONCE):
        rows = order[start : start + MASKED_AT_ONCE]
        batch = instances.pack(window.tokens, instances.take(pairs, rows), cfg.max_seq_length, vocabulary)
        seed = rng.integers(1 << 31, size=2).astype(np.int32)
        masked = mask(batch["input_ids"], batch["input_mask"], seed)
        yield {**batch, **{k: v.numpy() for k, v in masked.items()}}, int(cut[rows].sum())


def _write_split(cfg, vocabulary, split, tokens, mask, folder, progress):
    """Makes the instances of a split: returns ({name: (path, instances)}, counts)."""
    passes = cfg.dupe_factor if split == "train" else 1
    num_shards = cfg.num_shards if split == "train" else max(1, round(cfg.num_shards * cfg.held_out_fraction))
    made = collections.Counter()
    with contextlib.closing(record_files.Shards(folder, split, num_shards)) as shards:
        for number in range(passes):
            for w, window in enumerate(instances.windows(tokens.blocks())):
                rng = np.random.default_rng([cfg.random_seed, SPLITS.index(split), number, w])
                for batch, cut in _batches(cfg, vocabulary, window, mask, rng):
                    shards.write(features.serialize_batch(batch))
                    made.update(instances.count(batch, cut))
                    progress(f"{split}: pass {number + 1} of {passes}, {made['instances']:,} instances")
    return shards.finished(), made


def _about(cfg, vocabulary, read, made):
    """What records.json says: nothing of when, where to and how fast, so that equal flags give equal bytes."""
    said = config.to_dict(cfg)
    del said["output_dir"], said["overwrite"]
    said["do_lower_case"] = vocabulary.do_lower_case
    shapes = {
        f.name: {
            "dtype": "int64" if f.dtype == "int32" else f.dtype,
            "shape": list(features.shape_of(f, cfg.max_seq_length, cfg.max_predictions_per_seq)),
        }
        for f in features.PRETRAINING
    }
    return {
        "features": shapes,
        "tokenizer_digest": vocabulary.digest,
        "vocab_size": len(vocabulary),
        "max_seq_length": cfg.max_seq_length,
        "max_predictions_per_seq": cfg.max_predictions_per_seq,
        "masked": "static",
        "seed": cfg.random_seed,
        "config": said,
        "corpus": dict(sorted(read.items())),
        "counts": {split: {"instances": made[split]["instances"], **made[split]} for split in SPLITS},
    }


def _share(part, whole):
    return f"{part:,} ({100 * part / whole:.2f} %)" if whole else "0"


_ROWS = (
    ("documents", lambda c: f"{c['documents']:,}"),
    ("documents without tokens", lambda c: f"{c['documents_without_tokens']:,}"),
    ("sentences", lambda c: f"{c['sentences']:,}"),
    ("tokens", lambda c: f"{c['tokens']:,}"),
    ("unknown tokens", lambda c: _share(c["unknown_tokens"], c["tokens"])),
    ("instances", lambda c: f"{c['instances']:,}"),
    ("real next", lambda c: _share(c["next_is_real"], c["instances"])),
    ("random next", lambda c: _share(c["next_is_random"], c["instances"])),
    ("masked positions", lambda c: _share(c["masked_positions"], c["real_positions"])),
    ("padding", lambda c: _share(c["padding_positions"], c["real_positions"] + c["padding_positions"])),
    ("tokens cut by truncation", lambda c: f"{c['truncated_tokens']:,}"),
)


def table(about, seconds):
    """What was made, as lines for a person; every document that was read is in one of the document lines.

    Args:
        about: What records.json holds.
        seconds: Wall time.
    """
    rows = [("corpus", "")]
    read = sorted(about["corpus"].items(), key=lambda item: item[0] != "documents_read")
    rows += [(f"  {key.replace('_', ' ')}", f"{value:,}") for key, value in read]
    rows.append(("records", *(split.replace("_", " ") for split in SPLITS)))
    rows += [(f"  {name}", *(show(collections.Counter(about["counts"][s])) for s in SPLITS)) for name, show in _ROWS]
    rows.append(("  files", *(str(sum(name.startswith(s) for name in about["files"])) for s in SPLITS)))
    rows.append(("wall time", f"{seconds:.1f} s"))
    return "\n".join(f"{name:<28}" + "".join(f"{v:>24}" for v in values) for name, *values in rows)


def run(cfg):
    """Makes the records of a `Config`.

    Returns:
        What records.json holds, as a dict.

    Raises:
        InputError: a flag, the vocabulary, the corpus or the output folder cannot be used.
    """
    progress = progress_lines.Progress()
    vocabulary = vocab.load(cfg.vocab_file, cfg.do_lower_case)
    masking.ordinary_ids(vocabulary)  # refuses a vocabulary without any
    with record_files.unfinished(cfg.output_dir, cfg.overwrite) as folder:
        tokens, read, made = _tokenize(cfg, vocabulary, folder, progress)
        shards, mask = {}, _masker(cfg, vocabulary)
        for split in SPLITS:
            files, counts = _write_split(cfg, vocabulary, split, tokens[split], mask, folder, progress)
            shards.update(files)
            made[split].update(counts)
        about = _about(cfg, vocabulary, read, made)
        about["files"] = {name: count for name, (_, count) in shards.items()}
        record_files.publish(cfg.output_dir, {name: path for name, (path, _) in shards.items()}, about)
    print(table(about, progress.seconds()))
    return about


def main(_):
    """Runs the program with its flags."""
    run(config.from_flags(Config))


if __name__ == "__main__":
    config.define_flags(Config)
    checks.run_program(main)
