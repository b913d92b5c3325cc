"""TensorFlow Datasets: one document an example, whose text is one feature."""

from data_prep import texts
from data_prep.text_files import Span, span_bytes
from tfbert import checks

# A span that begins inside a file has to skip what is before it there, which is quicker than to read it
# but not free: so a file is cut into no more than this many.
_SPANS_A_FILE = 4


def _builder(config):
    """The builder of a dataset that is prepared and has the feature."""
    # Importing it takes seconds, which only those pay who use it.
    import tensorflow_datasets as tfds

    where = f"--tfds={config.tfds} --tfds_data_dir={config.tfds_data_dir}"
    try:
        builder = tfds.builder(config.tfds, data_dir=config.tfds_data_dir or None)
    except ValueError as e:  # all of its errors, of which the first line says enough
        raise checks.error("tfds must name a dataset that is prepared or known", str(e).split("\n")[0], where) from e
    if not builder.is_prepared():
        checks.require(
            config.tfds_download,
            "a dataset must be prepared",
            f"nothing in {builder.data_path}",
            where,
            "Pass the right --tfds_data_dir, or --tfds_download to download it",
        )
        builder.download_and_prepare()
    strings = sorted(n for n, f in builder.info.features.items() if f.shape == () and f.tf_dtype.name == "string")
    checks.require(
        config.tfds_feature in strings,
        "tfds_feature must be a feature that is one string",
        f"tfds_feature={config.tfds_feature!r}, and the dataset has {strings}",
        where,
    )
    return builder


def _parts(config, builder):
    """[(split, first example, number of examples)] of what may be several splits or parts of some."""
    import tensorflow_datasets as tfds

    splits = builder.info.splits
    try:
        parts = tfds.core.ReadInstruction.from_spec(config.tfds_split).to_absolute(splits)
    except (KeyError, ValueError) as e:
        message = str(e.args[0]).split("\n")[0]
        raise checks.error("tfds_split must be a split", message, f"--tfds={config.tfds}") from e
    ranges = ((p.splitname, p.from_ or 0, splits[p.splitname].num_examples if p.to is None else p.to) for p in parts)
    return [(split, begin, end - begin) for split, begin, end in ranges]


def _cut(parts, begin, end):
    """The examples from `begin` to `end` of what the parts are together, as TFDS spells it."""
    out = []
    for split, first, n in parts:
        if max(begin, 0) < min(end, n):
            out.append(f"{split}[{first + max(begin, 0)}:{first + min(end, n)}]")
        begin, end = begin - n, end - n
    return "+".join(out)


def spans(config):
    """The spans of a dataset: ranges of examples, where that is possible of whole files."""
    builder = _builder(config)
    parts = _parts(config, builder)
    splits = builder.info.splits
    size = sum(s.num_bytes for s in splits.values()) / max(1, splits.total_num_examples)  # of an example
    step = span_bytes(int(size * sum(n for _, _, n in parts)))
    # The first examples of spans: of files, unless too little lies before them, and some within large files.
    name, begins, at = f"{config.tfds}, {config.tfds_split}", [0], 0
    for file in splits[config.tfds_split].file_instructions:
        pieces = max(1, min(_SPANS_A_FILE, int(file.take * size / step)))
        for piece in range(pieces):
            first = at + file.take * piece // pieces
            if (first - begins[-1]) * size >= step:
                begins.append(first)
        at += file.take
    return [Span(name, begin, end) for begin, end in zip(begins, [*begins[1:], at]) if begin < end]


def identity(config):
    """What says which dataset it is."""
    builder = _builder(config)
    examples = sum(n for _, _, n in _parts(config, builder))
    return [[builder.info.full_name, config.tfds_split, config.tfds_feature, examples]]


def documents(config, span, counts):
    """The documents of a span, in the order of the files.

    Args:
        config: A `CorpusConfig`; of it the flags of TFDS and `errors`.
        span: A `Span`.
        counts: A Counter; gets lines_cut, characters_replaced and texts_replaced.

    Yields:
        (where, list of the paragraphs of the text as UTF-8 bytes, none empty).

    Raises:
        InputError: there is no such dataset, split or feature, or a text is not UTF-8.
    """
    import tensorflow_datasets as tfds

    builder = _builder(config)
    examples = builder.as_dataset(
        split=_cut(_parts(config, builder), span.begin, span.end),
        shuffle_files=False,
        read_config=tfds.ReadConfig(interleave_cycle_length=1),
        decoders=tfds.decode.PartialDecoding({config.tfds_feature: True}),
    )
    for number, example in enumerate(examples.as_numpy_iterator(), span.begin + 1):
        where = f"{span.name}, example {number}"
        text = texts.of_bytes(example[config.tfds_feature], config.errors, where, counts)
        yield where, texts.paragraphs(text, counts)
