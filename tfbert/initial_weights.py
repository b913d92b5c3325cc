"""What a run begins with: weights of any format, and the state of another run's optimizer."""

import types

from tfbert import checks, run_folder
from tfbert.convert import assign, formats
from tfbert.loop import checkpoints

# Fields of the encoder that weights depend on and the shapes of weights do not show.
UNSEEN = ("num_attention_heads", "hidden_act", "layer_norm_eps")

# The optimizer's own count of steps: the schedule of a new run begins at 0.
_ITERATIONS = checkpoints.OPTIMIZER + "iteration"


def take(path, allow_missing, model, run, begins_anew=types.MappingProxyType({})):
    """Assigns the weights of any format.

    Args:
        path: Whatever `convert.formats.open_source` reads.
        allow_missing: Globs of names that may be missing there, or be there and not be used.
        model: A built Keras model of `tfbert.heads`.
        run: The `RunFolder` that begins.
        begins_anew: {glob of names of the model's variables that keep what they have, whatever is there: why}.

    Returns:
        What came from where, as text for people.

    Raises:
        InputError: they are of another model or vocabulary; nothing was assigned then.
    """
    source = formats.open_source(path)
    about = _check_vocab(source, run.vocab)
    # What shapes do not show, and the weights were trained with.
    differing = [n for n in UNSEEN if getattr(source.encoder, n) != getattr(run.encoder, n)]
    unlike = {**source.unlike, **{name: getattr(source.encoder, name) for name in differing}}
    account = assign.load(source._replace(unlike=unlike), model, allow_missing, begins_anew).text()
    return "\n".join([*about, account, *begins_anew.values()])


def _check_vocab(source, vocab):
    """Raises an `InputError` unless the weights were trained with a vocabulary; lines on what cannot be told."""
    if source.vocab is None:
        return [f"{source.where} has no vocabulary beside it to compare with that of this run."]
    # Google's folders do not say whether text was lower-cased.
    same = source.vocab.tokens == vocab.tokens if source.kind in ("google", "garden") else source.vocab == vocab
    checks.require(
        same,
        "init_checkpoint must be trained with the vocabulary of this run",
        f"tokenizer {source.vocab.digest[:12]}, do_lower_case={source.vocab.do_lower_case}, and "
        f"{vocab.digest[:12]}, do_lower_case={vocab.do_lower_case} in this run",
        source.where,
    )
    return []


def take_optimizer(path, model, optimizer):
    """Assigns what another run's optimizer remembers: m and v of each variable, and the count of updates that
    LAMB and adamw_corrected keep.

    The schedule is not among it. A run that is to go on where the other one stopped has num_warmup_steps=0 and the
    learning rate that the other one ended with; a run that warms up anew has its own.

    Args:
        path: A run folder, or a checkpoint prefix in one.
        model: The model of the run that begins.
        optimizer: Its optimizer, built.

    Returns:
        What was taken, as text for people.

    Raises:
        InputError: it is no run folder, or the optimizer there is another one or trained other variables; nothing
            was assigned then.
    """
    kind = formats.recognise(path)
    checks.require(
        kind == "tfbert",
        "--keep_optimizer needs a run folder, or a checkpoint in one, as init_checkpoint",
        f"weights of the format {kind}",
        path,
        "Other formats hold no state of the optimizer; pass --nokeep_optimizer",
    )
    run_dir, checkpoint = run_folder.split(path.removesuffix(".index"))
    prefix = run_folder.checkpoint_prefix(run_dir, checkpoint)
    wanted = checkpoints.optimizer_variables(optimizer)
    wanted.pop(_ITERATIONS)
    checkpoints.restore(prefix, wanted, (checkpoints.LOOP, _ITERATIONS, *checkpoints.model_variables(model)))
    return f"from {prefix}: {len(wanted)} variables of the optimizer"
