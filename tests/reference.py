"""BERT in NumPy and float64, written from the papers and sharing no code with tfbert.

Slow and plain on purpose: one sequence at a time, one head at a time, no padding arithmetic (blocked
keys are left out of the softmax instead of being given a low score). Parameters come as
{name of Google's checkpoint: array}.

Devlin et al. 2019 (https://arxiv.org/abs/1810.04805), Vaswani et al. 2017 (https://arxiv.org/abs/1706.03762),
Ba et al. 2016 (https://arxiv.org/abs/1607.06450), Hendrycks & Gimpel 2016 (https://arxiv.org/abs/1606.08415).
"""

import math

import numpy as np


def gelu(x):
    """0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def gelu_erf(x):
    """0.5 x (1 + erf(x / sqrt(2)))."""
    return 0.5 * x * (1.0 + np.vectorize(math.erf, otypes=[float])(x / math.sqrt(2.0)))


ACTIVATIONS = {
    "gelu": gelu,
    "gelu_erf": gelu_erf,
    "relu": lambda x: np.maximum(x, 0.0),
    "tanh": np.tanh,
    "linear": lambda x: x,
}


def dense(x, params, scope):
    return x @ params[f"{scope}/kernel"] + params[f"{scope}/bias"]


def layer_norm(x, params, scope, epsilon=1e-12):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + epsilon) * params[f"{scope}/gamma"] + params[f"{scope}/beta"]


def softmax(scores):
    exp = np.exp(scores - scores.max())
    return exp / exp.sum()


def self_attention(hidden, visible, params, scope, num_heads):
    """One sequence: hidden [L, D], visible bool [L, L] (query, key) -> [L, D]."""
    length, width = hidden.shape
    size = width // num_heads
    query, key, value = (dense(hidden, params, f"{scope}/{name}") for name in ("query", "key", "value"))
    out = np.zeros_like(hidden)
    for n in range(num_heads):
        head = slice(n * size, (n + 1) * size)
        for f in range(length):
            seen = np.flatnonzero(visible[f])
            scores = np.array([query[f, head] @ key[t, head] / math.sqrt(size) for t in seen])
            out[f, head] = softmax(scores) @ value[seen, head]
    return out


def block(hidden, visible, params, scope, num_heads, activation, epsilon=1e-12):
    """One sequence through one transformer layer, [L, D] -> [L, D]."""
    context = self_attention(hidden, visible, params, f"{scope}/attention/self", num_heads)
    projected = dense(context, params, f"{scope}/attention/output/dense")
    hidden = layer_norm(hidden + projected, params, f"{scope}/attention/output/LayerNorm", epsilon)
    wide = ACTIVATIONS[activation](dense(hidden, params, f"{scope}/intermediate/dense"))
    narrow = dense(wide, params, f"{scope}/output/dense")
    return layer_norm(hidden + narrow, params, f"{scope}/output/LayerNorm", epsilon)


def embed(input_ids, segment_ids, params, scope, epsilon=1e-12):
    """One sequence: [L] and [L] -> [L, E]."""
    rows = [
        params[f"{scope}/word_embeddings"][token]
        + params[f"{scope}/token_type_embeddings"][segment]
        + params[f"{scope}/position_embeddings"][position]
        for position, (token, segment) in enumerate(zip(input_ids, segment_ids))
    ]
    return layer_norm(np.array(rows), params, f"{scope}/LayerNorm", epsilon)


def hidden_states(features, params, num_layers, num_heads, activation="gelu", epsilon=1e-12):
    """What each layer of the encoder gives on a batch: a list of [B, L, D], beginning with the embeddings.

    States of padding are computed as the others are: a padding query sees the real keys. Embeddings that have
    another width than the layers are projected (Lan et al. 2019, https://arxiv.org/abs/1909.11942, section 3.1).
    """
    sequences = []
    for input_ids, input_mask, segment_ids in zip(
        features["input_ids"], features["input_mask"], features["segment_ids"]
    ):
        # A sequence that is all padding has nothing to prefer: it sees all of itself.
        keys = input_mask != 0 if input_mask.any() else np.ones(len(input_mask), bool)
        visible = np.tile(keys, (len(keys), 1))
        hidden = embed(input_ids, segment_ids, params, "bert/embeddings", epsilon)
        if "bert/encoder/embedding_hidden_mapping_in/kernel" in params:
            hidden = dense(hidden, params, "bert/encoder/embedding_hidden_mapping_in")
        states = [hidden]
        for i in range(num_layers):
            scope = f"bert/encoder/layer_{i}"
            states.append(block(states[-1], visible, params, scope, num_heads, activation, epsilon))
        sequences.append(states)
    return [np.array(layer) for layer in zip(*sequences)]


def encoder(features, params, num_layers, num_heads, activation="gelu", epsilon=1e-12):
    """The encoder on a batch: {"sequence_output": [B, L, D], "pooled_output": [B, D]}."""
    sequence_output = hidden_states(features, params, num_layers, num_heads, activation, epsilon)[-1]
    pooled = np.tanh(dense(sequence_output[:, 0], params, "bert/pooler/dense"))
    return {"sequence_output": sequence_output, "pooled_output": pooled}


def pretrainer(features, params, num_layers, num_heads, activation="gelu", epsilon=1e-12):
    """The encoder and both heads on a batch: also "masked_lm_logits" and "next_sentence_logits"."""
    outputs = encoder(features, params, num_layers, num_heads, activation, epsilon)
    tied = params["bert/embeddings/word_embeddings"]
    decoder = params.get("cls/predictions/output_weights", tied)  # [V, E]
    logits = []
    for states, positions in zip(outputs["sequence_output"], features["masked_lm_positions"]):
        rows = []
        for position in positions:
            x = ACTIVATIONS[activation](dense(states[position], params, "cls/predictions/transform/dense"))
            x = layer_norm(x, params, "cls/predictions/transform/LayerNorm", epsilon)
            rows.append(decoder @ x + params["cls/predictions/output_bias"])
        logits.append(rows)
    outputs["masked_lm_logits"] = np.array(logits)
    outputs["next_sentence_logits"] = np.array(
        [
            params["cls/seq_relationship/output_weights"] @ x + params["cls/seq_relationship/output_bias"]
            for x in outputs["pooled_output"]
        ]
    )
    return outputs


def classifier(features, params, num_layers, num_heads):
    """The encoder and a classifier on a batch: also "logits" [B, C]."""
    outputs = encoder(features, params, num_layers, num_heads)
    outputs["logits"] = np.array(
        [params["classifier/output_weights"] @ x + params["classifier/output_bias"] for x in outputs["pooled_output"]]
    )
    return outputs


def of_each_piece(features, params, num_layers, num_heads, head):
    """The encoder and a head that scores each wordpiece, named by its scope: "logits" [B, L, C]."""
    states = hidden_states(features, params, num_layers, num_heads)[-1]
    weights, bias = params[f"{head}/output_weights"], params[f"{head}/output_bias"]
    logits = np.array([[weights @ x + bias for x in row] for row in states])
    return {"sequence_output": states, "logits": logits}


def negative_log_likelihood(logits, label):
    """-log softmax(logits)[label] of one prediction."""
    top = logits.max()
    return top + math.log(np.exp(logits - top).sum()) - logits[label]


def pretraining_losses(outputs, features):
    """{name: (sum, weight)} of losses and accuracies of both tasks; one prediction at a time."""
    batch = len(features["next_sentence_labels"])
    examples = features.get("example_weights", np.ones(batch))
    totals = {
        name: np.zeros(2)
        for name in ("masked_lm_loss", "masked_lm_accuracy", "next_sentence_loss", "next_sentence_accuracy")
    }

    def add(task, logits, label, weight):
        if weight:
            totals[f"{task}_loss"] += weight * np.array([negative_log_likelihood(logits, label), 1.0])
            totals[f"{task}_accuracy"] += weight * np.array([float(logits.argmax() == label), 1.0])

    for b in range(batch):
        add(
            "next_sentence",
            outputs["next_sentence_logits"][b],
            np.ravel(features["next_sentence_labels"])[b],
            examples[b],
        )
        for p, label in enumerate(features["masked_lm_ids"][b]):
            weight = examples[b] * features["masked_lm_weights"][b, p]
            add("masked_lm", outputs["masked_lm_logits"][b, p], label, weight)
    return {name: tuple(pair) for name, pair in totals.items()}
