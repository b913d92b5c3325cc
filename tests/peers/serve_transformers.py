"""Answers texts as others serve BERT, to be timed by `export.benchmark`; for a Python with what is imported below.

    PYTHON serve_transformers.py onnx|onnx_int8|torch|torch_bf16 HF_MODEL FOLDER THREADS

HF_MODEL is a folder of Hugging Face's with weights and vocab.txt. PyTorch runs transformers' model as it is, in float32
or bfloat16; ONNX Runtime its export, after ONNX Runtime's own optimizer for BERT, in float32 or with weights in 8 bits
(quantize_dynamic). Graphs are written to FOLDER once, by a process of its own, so that no memory of it counts. Before
the model is Hugging Face's tokenizer in Rust, padding to the longest row of the batch. A masked language model scores
the masks alone, as tfbert does, and a classifier all classes.
"""

import json
import os
import subprocess
import sys

import numpy as np
import tokenizers

from export import timed

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
TOP_K = 5


def _config(folder):
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
        return json.load(f)


def _is_masked(config):
    return config["architectures"][0] in ("BertForMaskedLM", "BertForPreTraining")


def _tokenizer(folder):
    config, path = {"do_lower_case": True}, os.path.join(folder, "tokenizer_config.json")
    if os.path.isfile(path):
        with open(path, encoding="utf-8") as f:
            config |= json.load(f)
    lower = config["do_lower_case"]
    made = tokenizers.BertWordPieceTokenizer(os.path.join(folder, "vocab.txt"), lowercase=lower)
    made.enable_truncation(_config(folder)["max_position_embeddings"])
    made.enable_padding(pad_id=made.token_to_id("[PAD]"))
    return made


def _module(folder, turned=False):
    """A torch module from ids, and places of masks if it scores those, to logits.

    With turned, the table of words is there a second time as the last product's matrix: ONNX Runtime's quantizer turns
    that round, and with it the table, where both are one.
    """
    import torch
    import transformers

    def positions(ids):  # a graph of transformers' own has the length that it was traced with
        return torch.cumsum(torch.ones_like(ids), 1) - 1

    class Masked(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.bert, self.head = model.bert, model.cls.predictions
            if turned:
                self.register_buffer("matrix", self.head.decoder.weight.detach().T.contiguous())

        def forward(self, input_ids, attention_mask, token_type_ids, places):
            more = {"token_type_ids": token_type_ids, "position_ids": positions(input_ids)}
            states = self.bert(input_ids, attention_mask=attention_mask, **more)
            states = states.last_hidden_state.flatten(0, 1)[places]
            return self.head.transform(states) @ self.matrix + self.head.bias if turned else self.head(states)

    class Classes(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask, token_type_ids):
            more = {"token_type_ids": token_type_ids, "position_ids": positions(input_ids)}
            return self.model(input_ids, attention_mask=attention_mask, **more).logits

    name = _config(folder)["architectures"][0]
    model = getattr(transformers, name).from_pretrained(folder).eval()
    return (Masked if _is_masked(_config(folder)) else Classes)(model)


def export(folder, path):
    """Writes the graph of a model, as ONNX Runtime optimizes it, and beside it with weights in 8 bits."""
    import torch
    from onnxruntime import quantization
    from onnxruntime.transformers import optimizer

    config, module = _config(folder), _module(folder, turned=True)
    names = [*INPUTS, *(["places"] if _is_masked(config) else [])]
    values = [torch.ones([2, 7], dtype=torch.long)] * 3 + [torch.tensor([1, 8])]
    axes = {name: {0: "batch", 1: "length"} for name in INPUTS} | {"places": {0: "masks"}}
    plain = path.replace(".onnx", ".plain.onnx")
    torch.onnx.export(
        module,
        tuple(values[: len(names)]),
        plain,
        input_names=names,
        output_names=["logits"],
        opset_version=18,
        dynamo=False,
        dynamic_axes={name: axes[name] for name in names},
    )
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    found = optimizer.optimize_model(plain, model_type="bert", num_heads=heads, hidden_size=hidden, opt_level=1)
    print(found.get_fused_operator_statistics())
    found.model.graph.ClearField("value_info")  # shapes as traced, which keep what is quantized from loading
    found.save_model_to_file(path)
    int8 = path.replace(".onnx", ".int8.onnx")
    types = {"weight_type": quantization.QuantType.QInt8, "extra_options": {"DefaultTensorType": 1}}
    quantization.quantize_dynamic(path, int8, **types)


def _onnx(kind, folder, graphs, threads):
    """Function from arrays to logits."""
    import onnxruntime

    path = os.path.join(graphs, "model.onnx")
    if not os.path.isfile(path):
        subprocess.run([sys.executable, __file__, "export", folder, path, "1"], check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    path = path.replace(".onnx", ".int8.onnx") if kind == "onnx_int8" else path
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    types = {x.name: np.int64 if "int64" in x.type else np.int32 for x in session.get_inputs()}
    return lambda arrays: session.run(None, {name: arrays[name].astype(dtype) for name, dtype in types.items()})[0]


def _torch(kind, folder, threads):
    """Function from arrays to logits."""
    import torch

    torch.set_num_threads(threads)
    module = _module(folder)
    module = module.to(torch.bfloat16) if kind == "torch_bf16" else module

    @torch.inference_mode()
    def run(arrays):
        return module(**{name: torch.from_numpy(x) for name, x in arrays.items()}).float().numpy()

    return run


def load(kind, folder, graphs, threads):
    """`ask` of `timed.serve`."""
    tokenizer, masked = _tokenizer(folder), _is_masked(_config(folder))
    mask_id = tokenizer.token_to_id("[MASK]")
    run = _torch(kind, folder, threads) if kind.startswith("torch") else _onnx(kind, folder, graphs, threads)

    def ask(part, texts):
        columns = list(texts.values())
        rows = tokenizer.encode_batch(list(zip(*columns)) if len(columns) > 1 else columns[0])
        if part == "tokenize":
            return None
        fields = dict(zip(INPUTS, ("ids", "attention_mask", "type_ids")))
        arrays = {name: np.array([getattr(row, field) for row in rows], np.int64) for name, field in fields.items()}
        if masked:
            arrays["places"] = np.flatnonzero(arrays["input_ids"] == mask_id)
        logits = run(arrays)
        powers = np.exp(logits - logits.max(-1, keepdims=True))
        best = np.argpartition(-powers, min(TOP_K, powers.shape[-1]) - 1)[:, :TOP_K]
        scores = np.take_along_axis(powers, best, -1) / powers.sum(-1, keepdims=True)
        return {"scores": sorted(map(float, scores[0]), reverse=True), "truncated": False}

    return ask


def main(kind, folder, graphs, threads):
    """The program."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    if kind == "export":
        export(folder, graphs)
    else:
        timed.serve(lambda: load(kind, folder, graphs, int(threads)))


if __name__ == "__main__":
    main(*sys.argv[1:])
