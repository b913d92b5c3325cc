"""How formats spell the names of the table otherwise, and what stands in their files beside its tensors.

A layout is a way to write the names of one format: DistilBERT's in Hugging Face's files, ELECTRA's in Google's.
"""

import re

import numpy as np

from tfbert import checks

# Other spellings of the names in the table, as (pattern, replacement) in this order.
ALIASES = {
    "huggingface": (
        (r"^(bert|distilbert|electra)\.", ""),
        (r"\.gamma$", ".weight"),
        (r"\.beta$", ".bias"),
    ),
    "distilbert": (
        (r"^distilbert\.", ""),
        (r"^transformer\.layer\.", "encoder.layer."),
        (r"\.attention\.q_lin\.", ".attention.self.query."),
        (r"\.attention\.k_lin\.", ".attention.self.key."),
        (r"\.attention\.v_lin\.", ".attention.self.value."),
        (r"\.attention\.out_lin\.", ".attention.output.dense."),
        (r"\.sa_layer_norm\.", ".attention.output.LayerNorm."),
        (r"\.ffn\.lin1\.", ".intermediate.dense."),
        (r"\.ffn\.lin2\.", ".output.dense."),
        (r"\.output_layer_norm\.", ".output.LayerNorm."),
        (r"^vocab_transform\.", "cls.predictions.transform.dense."),
        (r"^vocab_layer_norm\.", "cls.predictions.transform.LayerNorm."),
        (r"^vocab_projector\.weight$", "cls.predictions.decoder.weight"),
        (r"^vocab_projector\.bias$", "cls.predictions.bias"),
        (r"^classifier\.", "distilbert.classifier."),  # after a ReLU layer, and not a tanh pooler: not ours
    ),
    "electra": (
        (r"^electra\.", ""),
        (r"^generator_predictions\.", "cls.predictions.transform."),
        (r"^generator_lm_head\.weight$", "cls.predictions.decoder.weight"),
        (r"^generator_lm_head\.bias$", "cls.predictions.bias"),
        (r"^classifier\.", "electra.classifier."),  # two layers of its own: not ours
    ),
    "google": (),
    "google electra": (
        (r"^electra/embeddings_project/", "bert/encoder/embedding_hidden_mapping_in/"),
        (r"^electra/", "bert/"),
    ),
    "garden": (
        (r"/\.ATTRIBUTES/VARIABLE_VALUE$", ""),
        (r"^model/(?=classification_heads/|masked_lm/)", ""),
        (r"^(model/)?(encoder_network|encoder)/|^model/", ""),
        # A functional encoder numbers its layers: three tables, a norm, the transformer layers, the pooler.
        (r"^layer_with_weights-0/", "_embedding_layer/"),
        (r"^layer_with_weights-1/", "_position_embedding_layer/"),
        (r"^layer_with_weights-2/", "_type_embedding_layer/"),
        (r"^layer_with_weights-3/", "_embedding_norm_layer/"),
        (r"^layer_with_weights-(\d+)/_", lambda match: f"_transformer_layers/{int(match[1]) - 4}/_"),
        (r"^layer_with_weights-\d+/(?=kernel|bias)", "_pooler_layer/"),
        (r"/_attention_layer/_attention_output_dense/|/_attention_output_dense/", "/_attention_layer/_output_dense/"),
        (r"^next_sentence\.\.pooler_dense/", "classification_heads/0/dense/"),
    ),
    "keras_hub": ((r"/_layer_checkpoint_dependencies/", "/layers/"),),
    "tfbert": (),
}
_COLUMN = {"distilbert": "huggingface", "electra": "huggingface", "google electra": "google", "google albert": "google"}

# What files hold beside a model: known, and not used. Patterns of names as they stand in the file.
UNUSED = {
    "google": (
        r"^(global_step|beta[12]_power)$|/(adam_[mv]|lamb_[mv]|Adam(_1)?|AdamWeightDecayOptimizer(_1)?)$",
        "of the optimizer",
    ),
    "garden": (
        r"^(_CHECKPOINTABLE_OBJECT_GRAPH$|save_counter/|global_step/|optimizer/)|/\.OPTIMIZER_SLOT/",
        "training's",
    ),
    "huggingface": (r"^$", ""),
    "keras_hub": (r"^(backbone|task)/optimizer/|/seed_generator/", "of the optimizer"),
    "tfbert": (r"^(optimizer|loop)/", "of the optimizer and the loop"),
}

# Tensors that follow from others: name in the table's spelling -> what it must equal, the name of another tensor or
# what a buffer holds.
DECODER, DECODER_BIAS = "cls.predictions.decoder.weight", "cls.predictions.decoder.bias"
BUFFERS = {"0, 1, 2, ...": np.arange, "zeros": np.zeros}
COPIES = {
    "huggingface": {
        DECODER: "embeddings.word_embeddings.weight",
        DECODER_BIAS: "cls.predictions.bias",
        "embeddings.position_ids": "0, 1, 2, ...",
        "embeddings.token_type_ids": "zeros",
    },
    "garden": {"masked_lm/embedding_table": "_embedding_layer/embeddings"},
}

# The Model Garden trains the pooler of its next sentence head, and leaves the encoder's own as it was initialised.
TRAINED_POOLER, FRESH_POOLER = "classification_heads/0/dense/", "_pooler_layer/"

# Variables of ours that a format's models do not have, and that are zeros to the same effect.
ZEROS = {
    "distilbert": ("bert/embeddings/token_type_embeddings", "bert/pooler/dense/kernel", "bert/pooler/dense/bias"),
    "electra": ("bert/pooler/dense/kernel", "bert/pooler/dense/bias"),
    "google electra": ("bert/pooler/dense/kernel", "bert/pooler/dense/bias"),
}


def column(layout):
    """The table's column, and the format, of a layout of names."""
    return _COLUMN.get(layout, layout)


def plain(layout, name):
    """A file's name in the spelling of the table."""
    for pattern, replacement in ALIASES.get(layout, ()):
        name = re.sub(pattern, replacement, name)
    return name


def of(layout, names, where):
    """{name in the table's spelling: name in the file}.

    Raises:
        InputError: two names of the file are spellings of one.
    """
    found = {}
    for name in names:
        spelt = plain(layout, name)
        checks.require(
            spelt not in found, "each tensor must be in a file once", f"{found.get(spelt)} and {name}, the same", where
        )
        found[spelt] = name
    return found
