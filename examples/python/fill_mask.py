"""Asks a .tflite of tfbert, without tfbert: masks, labels or scores.

    pip install ai-edge-litert numpy                        # of a file that takes ids (--inputs=ids)
    pip install tensorflow==2.21.0 tensorflow-text==2.21.1  # of a file that takes strings
    python fill_mask.py model.tflite "The [MASK] of the file."

A file that takes strings has the tokenizer inside, as two ops of tensorflow-text, which are registered with the
interpreter here. One that takes ids needs no op from outside; its vocabulary is associated with it, and wordpiece.py
makes the ids.
"""

import sys
import zipfile

import numpy as np
import wordpiece


def strings_in(path):
    """An interpreter that knows tensorflow-text's ops, which are registered by name and by C++ function."""
    import tensorflow_text

    try:
        from ai_edge_litert import interpreter
    except ImportError:
        from tensorflow.lite.python import interpreter
    registered = tensorflow_text.tflite_registrar.SELECT_TFTEXT_OPS
    return interpreter.InterpreterWithCustomOps(model_path=path, custom_op_registerers=registered)


def ids_in(path):
    """An interpreter as it is."""
    try:
        from ai_edge_litert import interpreter
    except ImportError:
        from tensorflow.lite.python import interpreter
    return interpreter.Interpreter(model_path=path)


def ask_strings(path, text, pair=None):
    """Answers a text with a file that takes strings: {output: array}, a row for the text."""
    runner = strings_in(path).get_signature_runner("serving_default")
    given = {"text": text} if pair is None else {"text": text, "text_pair": pair}
    return runner(**{name: np.array([value.encode()]) for name, value in given.items()})


def ask_ids(path, text, pair=None):
    """Answers a text with a file that takes ids: what `ask_strings` gives, as far as the file has it."""
    tokenizer, labels = wordpiece.read(path)
    second = None if pair is None else tokenizer.ids(pair)
    row = tokenizer.pack(tokenizer.ids(text), second)
    runner = ids_in(path).get_signature_runner("from_ids")
    answers = runner(**{name: np.array([values], np.int32) for name, values in row.items()})
    if labels and answers["logits"].ndim == 2:  # one label of several for the text; tags have logits for each wordpiece
        logits = answers["logits"][0]
        weights = np.exp(logits - logits.max())
        order = np.argsort(-weights)
        answers["labels"] = np.array([[labels[i] for i in order]])
        answers["probabilities"] = (weights / weights.sum())[order][np.newaxis]
    return answers


def lines(answers):
    """An answer as lines to print."""
    if "tokens" in answers:
        for i, position in enumerate(answers["positions"][0]):
            if position >= 0:
                words = zip(answers["tokens"][0, i], answers["probabilities"][0, i])
                yield f"[MASK] {i + 1}: " + "  ".join(f"{word.decode()} {100 * p:.1f} %" for word, p in words)
    elif "labels" in answers:
        for label, p in zip(answers["labels"][0], answers["probabilities"][0]):
            yield f"{label if isinstance(label, str) else label.decode()} {100 * p:.1f} %"
    else:
        yield f"score {np.ravel(answers.get('score', answers.get('logits')))[0]:.4f}"


def main(path, *texts):
    """Asks one text, or a pair."""
    ask = ask_ids if zipfile.is_zipfile(path) else ask_strings
    for line in lines(ask(path, *texts)):
        print(line)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit('usage: fill_mask.py MODEL.tflite "A text." ["Another."]')
    main(*sys.argv[1:])
