"""What another Python, one with transformers and PyTorch, does for tests: it saves models and loads ours.

    PYTHON tests/peer_transformers.py save FOLDER INPUTS.npz
    PYTHON tests/peer_transformers.py load FOLDER INPUTS.npz CLASS
    PYTHON tests/peer_transformers.py encode FOLDER TEXTS.json
    PYTHON tests/peer_transformers.py classify FOLDER TEXTS.json

`save` makes a folder for each class with random weights, saved by transformers, and outputs.npz in it. `load` loads a
folder with a class of transformers and writes outputs.npz there, and loading.json: names that are missing or
unexpected. `encode` writes ids.json: what AutoTokenizer makes of texts. `classify` writes probabilities.json: what
AutoModelForSequenceClassification makes of them.
"""

import json
import os
import sys

import numpy as np
import torch
import transformers

SIZES = {
    "vocab_size": 97,
    "hidden_size": 15,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 17,
    "max_position_embeddings": 23,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
DISTILBERT = {
    "vocab_size": 97,
    "dim": 15,
    "n_layers": 2,
    "n_heads": 3,
    "hidden_dim": 17,
    "max_position_embeddings": 23,
    "dropout": 0.0,
    "attention_dropout": 0.0,
}
# name of the folder: (class, configuration, how it is saved)
MODELS = {
    "pretraining": ("BertForPreTraining", {}, "safetensors"),
    "pretraining_tanh": ("BertForPreTraining", {"hidden_act": "gelu_new", "layer_norm_eps": 1e-5}, "safetensors"),
    "untied": ("BertForPreTraining", {"tie_word_embeddings": False}, "safetensors"),
    "masked_lm": ("BertForMaskedLM", {}, "safetensors"),
    "bare": ("BertModel", {}, "safetensors"),
    "classify": ("BertForSequenceClassification", {"num_labels": 4}, "safetensors"),
    "tokens": ("BertForTokenClassification", {"num_labels": 5}, "safetensors"),
    "span": ("BertForQuestionAnswering", {}, "safetensors"),
    "sharded": ("BertForPreTraining", {}, "sharded"),
    "torch": ("BertForPreTraining", {}, "torch"),
    "torch_old": ("BertForPreTraining", {}, "torch_old"),
    "bfloat16": ("BertForPreTraining", {}, "bfloat16"),
    "distilbert": ("DistilBertForMaskedLM", {}, "safetensors"),
    "electra": ("ElectraModel", {"embedding_size": 9}, "safetensors"),
    "electra_generator": ("ElectraForMaskedLM", {"embedding_size": 9}, "safetensors"),
}


def _config(name, more):
    if name.startswith("Distil"):
        return transformers.DistilBertConfig(**DISTILBERT, **more)
    kind = transformers.ElectraConfig if name.startswith("Electra") else transformers.BertConfig
    return kind(**SIZES, **more)


def _outputs(model, inputs, path):
    given = {"input_ids": torch.tensor(inputs["input_ids"]), "attention_mask": torch.tensor(inputs["input_mask"])}
    if not type(model).__name__.startswith("Distil"):
        given["token_type_ids"] = torch.tensor(inputs["segment_ids"])
    model.eval()
    with torch.no_grad():
        found = model(**{k: v.long() for k, v in given.items()}, output_hidden_states=True)
    arrays = {k: v.float().numpy() for k, v in found.items() if isinstance(v, torch.Tensor)}
    np.savez(path, last=found.hidden_states[-1].float().numpy(), **arrays)


def _save(folder, inputs):
    for name, (kind, more, how) in MODELS.items():
        torch.manual_seed(3)
        model = getattr(transformers, kind)(_config(kind, more))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0.0, 0.3)
        out = os.path.join(folder, name)
        if how == "bfloat16":
            model = model.to(torch.bfloat16)
        model.save_pretrained(out, max_shard_size="9KB" if how == "sharded" else "5GB")
        if how.startswith("torch"):
            os.remove(os.path.join(out, "model.safetensors"))
            old = {"_use_new_zipfile_serialization": False} if how == "torch_old" else {}
            torch.save(model.state_dict(), os.path.join(out, "pytorch_model.bin"), **old)
        _outputs(model.float(), inputs, os.path.join(out, "outputs.npz"))


def _load(folder, inputs, kind):
    model, info = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True)
    with open(os.path.join(folder, "loading.json"), "w") as f:
        json.dump({k: sorted(map(str, v)) for k, v in info.items()} | {"class": type(model).__name__}, f)
    _outputs(model, inputs, os.path.join(folder, "outputs.npz"))


def _encode(folder, texts):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with open(os.path.join(folder, "ids.json"), "w") as f:
        json.dump([tokenizer(text)["input_ids"] for text in texts], f)


def _classify(folder, texts):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    labels = [model.config.id2label[i] for i in range(logits.shape[1])]
    with open(os.path.join(folder, "probabilities.json"), "w") as f:
        json.dump({"labels": labels, "probabilities": torch.softmax(logits, -1).tolist()}, f)


if __name__ == "__main__":
    command, folder, path, *rest = sys.argv[1:]
    if command in ("encode", "classify"):
        with open(path) as f:
            {"encode": _encode, "classify": _classify}[command](folder, json.load(f))
    else:
        {"save": _save, "load": _load}[command](folder, np.load(path), *rest)
