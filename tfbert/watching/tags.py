"""Under which names TensorBoard shows a run: sections, what each figure means, and charts of several lines.

Sections are sorted by name: `events` (if there were any), `quality` (losses, accuracies, the scores of tasks),
`quality.counts`, `training`, what is told of each part of the model (`training.gradient_norm/layer_03`), and `weights`.
In a name with a part, the part follows a slash.
"""

import re

from tensorboard.plugins.custom_scalar import layout_pb2

from tfbert.watching import progress

ATTENTION_ENTROPY, HEADS_ENTROPY, WEIGHT_NORM = "attention_entropy", "attention_entropy_of_heads", "weight_norm"
_SINCE = "mean of the steps since the last report"
_TASKS = {"masked_lm": "the masked wordpieces", "next_sentence": "the pairs of sentences"}
_QUALITY = re.compile(rf"(.*_)?(loss|accuracy|thresh)|{'|'.join(progress.SCORES)}|f1_.+")
# What an evaluation's texts and curves are called.
CONFUSION, PRECISION_RECALL = "quality/confusion_matrix", "precision_recall"

# What TensorBoard shows behind the mark of information of a chart.
DESCRIPTIONS = {
    "loss": "Sum of the losses of all tasks, in nats. In training with dropout, and the mean of the steps since the "
    "last report; held out without dropout.",
    **{f"{name}_loss": f"Mean negative log-likelihood of the truth of {of}, in nats." for name, of in _TASKS.items()},
    **{f"{name}_accuracy": f"Share of {of} for which the truth is likeliest." for name, of in _TASKS.items()},
    "classification_loss": "Mean negative log-likelihood of the right label, in nats; where there may be several, "
    "the mean over all labels of that of having it or not.",
    "regression_loss": "Mean squared error of the score.",
    "tag_loss": "Mean negative log-likelihood of the right tag of a word, in nats.",
    "span_loss": "Mean negative log-likelihood of where the answer begins and where it ends, in nats.",
    "accuracy": "Share of the examples (of words, in tagging) whose label is right; of several labels all must be.",
    "tag_accuracy": "Share of the words whose likeliest tag is the right one.",
    "span_accuracy": "Share of the rows in which the likeliest beginning and end are those of the answer.",
    "f1": "Harmonic mean of precision and recall: of the second of two labels; of entities, type and extent; or, in "
    "percent, of the words of an answer with those of the nearest right one, the mean over the questions.",
    "f1_": "F1 of the entities of this type.",
    "macro_f1": "Mean over the labels of each label's F1.",
    "micro_f1": "F1 of all decisions, one for each example and label, together.",
    "matthews": "Matthews' correlation of truth and prediction: 0 is guessing, 1 is all right, -1 is all wrong.",
    "pearson": "Correlation of the true and the predicted scores.",
    "spearman": "Correlation of the ranks of the true and the predicted scores.",
    "precision": "Share of the predicted entities that are right in type and extent.",
    "recall": "Share of the true entities that were found, with their type and extent.",
    "exact_match": "Percent of the questions whose answer is a right one, but for case, punctuation and articles.",
    "exact": "As exact_match, of questions that may have no answer, which then is the right one.",
    **{
        f"{part}_{what}": f"{name} of the questions {of} answer, in percent."
        for part, of in (("HasAns", "that have an"), ("NoAns", "without an"))
        for what, name in (("exact", "Exact match"), ("f1", "F1"))
    },
    "best_exact": "Exact match, in percent, at the best threshold of no answer; the threshold is best_exact_thresh.",
    "best_f1": "F1, in percent, at the best threshold of no answer; the threshold is best_f1_thresh.",
    "best_exact_thresh": "Above which odds a question counts as not answered, for best_exact.",
    "best_f1_thresh": "Above which odds a question counts as not answered, for best_f1.",
    "total": "Questions that were evaluated.",
    "HasAns_total": "Questions that have an answer.",
    "NoAns_total": "Questions without an answer.",
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
    found = DESCRIPTIONS.get(name.split("/")[0])
    return found or (DESCRIPTIONS["f1_"] if name.startswith("f1_") else None)


def tag(name):
    """The tag of a figure.

    >>> tag("masked_lm_loss"), tag("learning_rate"), tag("gradient_norm/layer_03")
    ('quality/masked_lm_loss', 'training/learning_rate', 'training.gradient_norm/layer_03')
    >>> tag("pearson"), tag("f1_PER"), tag("HasAns_total")
    ('quality/pearson', 'quality/f1_PER', 'quality.counts/HasAns_total')
    """
    if _QUALITY.fullmatch(name):
        return f"quality/{name}"
    if "/" in name:
        return f"training.{name}"
    return f"{'quality.counts' if name.endswith('total') else 'training'}/{name}"


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


def layout(of_task=False, types=False):
    """The charts of the panel Custom Scalars, where a chart has several figures: all parts of the model, say.

    Args:
        of_task: Whether a task is learned, and not the masked language model.
        types: Whether the task's F1 is told of several types of entities too.
    """

    def chart(title, pattern):
        return layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=[pattern]))

    def parts(title, name):
        return chart(title, re.escape(tag(f"{name}/")))

    answers = [
        chart("loss of masked words", "quality/masked_lm_loss$"),
        chart("accuracy beside the commonest word's", "quality/masked_lm_(unigram_)?accuracy$"),
    ]
    if of_task:
        of_types = [chart("F1 of each type", "quality/f1_")]
        scores = f"quality/((.*_)?accuracy|{'|'.join(progress.SCORES)})$"
        answers = [chart("scores", scores), chart("loss", "quality/loss$"), *(of_types if types else [])]
    inside = [
        parts("gradient norm of each part", "gradient_norm"),
        parts("weight norm of each part", WEIGHT_NORM),
        parts("attention entropy of each layer", ATTENTION_ENTROPY),
    ]
    return layout_pb2.Layout(
        category=[
            layout_pb2.Category(title="how well it answers", chart=answers),
            # Attention is looked at on masked sentences.
            layout_pb2.Category(title="layer by layer", chart=inside[: 2 if of_task else 3]),
        ]
    )
