"""Under which names TensorBoard shows a run: sections, what each figure means, and charts of several lines.

Sections are sorted by name: `events` (if there were any), `quality`, `training`, what is told of each part of the
model (`training.gradient_norm/layer_03`), and `weights`. In a name with a part, the part follows a slash.
"""

import re

from tensorboard.plugins.custom_scalar import layout_pb2

ATTENTION_ENTROPY, HEADS_ENTROPY, WEIGHT_NORM = "attention_entropy", "attention_entropy_of_heads", "weight_norm"
_SINCE = "mean of the steps since the last report"
_TASKS = {"masked_lm": "the masked wordpieces", "next_sentence": "the pairs of sentences"}

# What TensorBoard shows behind the mark of information of a chart.
DESCRIPTIONS = {
    "loss": "Sum of the losses of all tasks, in nats. In training with dropout, and the mean of the steps since the "
    "last report; held out without dropout.",
    **{f"{name}_loss": f"Mean negative log-likelihood of the truth of {of}, in nats." for name, of in _TASKS.items()},
    **{f"{name}_accuracy": f"Share of {of} for which the truth is likeliest." for name, of in _TASKS.items()},
    "masked_lm_unigram_accuracy": "Masked-LM accuracy of always answering the commonest masked wordpiece of these "
    "records: what a model must pass to have learned anything from context.",
    "learning_rate": "Of the last update before the report.",
    "gradient_norm": f"Euclidean norm of the gradient before it is clipped; {_SINCE}. The word embeddings are the "
    "output layer of the masked language model too, so their gradient is that of both.",
    WEIGHT_NORM: "Euclidean norm of all weights of a part together, at the report.",
    "padding_share": f"Share of padding among the tokens; {_SINCE}.",
    "sequences_per_second": "Rows of records, over all replicas.",
    "tokens_per_second": "Tokens that are no padding, over all replicas.",
    "input_wait_share": "Share of the training time in which steps stood still for their input.",
    "training_seconds": "Time in training steps, evaluations not counted.",
    ATTENTION_ENTROPY: "How evenly attention is spread on a few held-out rows: entropy of a query's attention over "
    "the logarithm of the number of tokens that it may look at. 0 is one token alone, 1 is all tokens alike. Mean "
    "over the queries and heads of a layer; padding is left out.",
    HEADS_ENTROPY: "As attention_entropy, for each head of the layer: a head near 1 averages, one near 0 points.",
}


def description_of(name):
    """What a figure means, as Markdown; None if nothing is to be said."""
    return DESCRIPTIONS.get(name.split("/")[0])


def tag(name):
    """The tag of a figure.

    >>> tag("masked_lm_loss"), tag("learning_rate"), tag("gradient_norm/layer_03")
    ('quality/masked_lm_loss', 'training/learning_rate', 'training.gradient_norm/layer_03')
    """
    if "/" in name:
        return f"training.{name}"
    return f"{'quality' if name.endswith(('loss', 'accuracy')) else 'training'}/{name}"


def weight_tag(path):
    """A weight's tag: one section for each layer, after those of the metrics.

    >>> weight_tag("bert/encoder/layer_3/attention/self/query/kernel")
    'weights.layer_03/attention/self/query/kernel'
    >>> weight_tag("cls/predictions/output_bias")
    'weights.cls.predictions/output_bias'
    """
    path = re.sub(r"^bert/(encoder/)?", "", path).replace("cls/", "cls.")
    # Cards have room for about fifty letters, and sections are sorted as text.
    return "weights." + re.sub(r"^layer_(\d+)", lambda m: f"layer_{int(m[1]):02}", path)


def layout():
    """The charts of the panel Custom Scalars, where a chart has several figures: all parts of the model, say."""

    def chart(title, pattern):
        return layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=[pattern]))

    def parts(title, name):
        return chart(title, re.escape(tag(f"{name}/")))

    answers = [
        chart("loss of masked words", "quality/masked_lm_loss$"),
        chart("accuracy beside the commonest word's", "quality/masked_lm_(unigram_)?accuracy$"),
    ]
    inside = [
        parts("gradient norm of each part", "gradient_norm"),
        parts("weight norm of each part", WEIGHT_NORM),
        parts("attention entropy of each layer", ATTENTION_ENTROPY),
    ]
    return layout_pb2.Layout(
        category=[
            layout_pb2.Category(title="how well it answers", chart=answers),
            layout_pb2.Category(title="layer by layer", chart=inside),
        ]
    )
