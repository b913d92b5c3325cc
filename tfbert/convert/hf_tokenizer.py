"""Hugging Face's tokenizer files: vocab.txt, tokenizer.json, tokenizer_config.json, special_tokens_map.json."""

import json
import os

import tokenizers

from tfbert import checks
from tfbert.convert import sources
from tfbert.text import tokenizer as tokenizer_lib
from tfbert.text import vocab as vocab_lib

CONFIG_FILE, MAP_FILE = "tokenizer_config.json", "special_tokens_map.json"
_NAMES = {"unk_token": "UNK", "sep_token": "SEP", "pad_token": "PAD", "cls_token": "CLS", "mask_token": "MASK"}
SPECIAL = {name: f"[{token}]" for name, token in _NAMES.items()}


def _tokens(raw, path):
    """The entries of a tokenizer.json in the order of their ids; None if it is not WordPiece."""
    model = raw["model"]
    if not isinstance(model, dict) or model.get("type", "WordPiece") != "WordPiece":
        return None
    checks.require(
        model.get("continuing_subword_prefix", vocab_lib.SUFFIX) == vocab_lib.SUFFIX,
        f"pieces inside a word must begin with {vocab_lib.SUFFIX}",
        f"continuing_subword_prefix={model.get('continuing_subword_prefix')!r}",
        path,
    )
    try:
        ids = dict(model["vocab"])
        ids |= {token["content"]: token["id"] for token in raw.get("added_tokens") or ()}
    except (KeyError, TypeError, ValueError) as e:
        raise checks.error("tokenizer.json must list its vocabulary", f"{type(e).__name__} {e}", path) from e
    whole = all(isinstance(i, int) for i in ids.values()) and sorted(ids.values()) == [*range(len(ids))]
    checks.require(whole, "ids of a vocabulary must be 0, 1, 2, ... without a gap", f"{len(ids)} entries", path)
    return tuple(sorted(ids, key=ids.get))


def _normalizer(raw):
    """The BertNormalizer of a tokenizer.json, which may be one of a sequence; {} if there is none."""
    normalizer = raw.get("normalizer") or {}
    several = [normalizer, *(normalizer.get("normalizers") or ())]
    return next((n for n in several if n.get("type") == "BertNormalizer"), {})


def read(folder):
    """Reads the vocabulary of a folder.

    Returns:
        (`Vocab`, or None if there is none or it is not WordPiece; {name: value} of what our tokenizer does not do).

    Raises:
        InputError: files cannot be read or contradict each other.
    """
    paths = {name: os.path.join(folder, name) for name in (vocab_lib.VOCAB_FILE, vocab_lib.TOKENIZER_FILE, CONFIG_FILE)}
    about = sources.read_json(paths[CONFIG_FILE]) if os.path.isfile(paths[CONFIG_FILE]) else {}
    fast = sources.read_json(paths[vocab_lib.TOKENIZER_FILE]) if os.path.isfile(paths[vocab_lib.TOKENIZER_FILE]) else {}
    tokens, normalizer = None, {}
    if "model" in fast:
        tokens, normalizer = _tokens(fast, paths[vocab_lib.TOKENIZER_FILE]), _normalizer(fast)
        if tokens is None:
            return None, {}
    lower_case = normalizer.get("lowercase", about.get("do_lower_case"))
    unlike = {}
    strip = normalizer.get("strip_accents", about.get("strip_accents"))
    chinese = normalizer.get("handle_chinese_chars", about.get("tokenize_chinese_chars"))
    if tokens is not None:
        vocab = vocab_lib.Vocab(tokens, True if lower_case is None else bool(lower_case))
    elif os.path.isfile(paths[vocab_lib.VOCAB_FILE]):
        vocab = vocab_lib.load(folder)
    else:
        return None, {}
    if strip is not None and strip != vocab.do_lower_case:  # None: as lower-casing is
        unlike["strip_accents"] = strip
    if chinese is False:
        unlike["tokenize_chinese_chars"] = chinese
    return vocab, unlike


def write(folder, vocab, max_length):
    """Writes all four files, so that `transformers.AutoTokenizer` loads the folder.

    Args:
        folder: To write into.
        vocab: A `Vocab`.
        max_length: The longest sequence of the model.
    """
    with open(os.path.join(folder, vocab_lib.VOCAB_FILE), "w", encoding="utf-8", newline="\n") as f:
        f.writelines(f"{token}\n" for token in vocab.tokens)
    model = tokenizers.models.WordPiece(
        vocab.ids,
        unk_token=vocab_lib.UNK,
        max_input_chars_per_word=tokenizer_lib.MAX_CHARACTERS_PER_WORD,
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=vocab.do_lower_case
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = tokenizers.decoders.WordPiece(prefix=vocab_lib.SUFFIX)
    tokenizer.add_special_tokens([tokenizers.AddedToken(token, special=True) for token in vocab_lib.SPECIAL_TOKENS])
    cls, sep = vocab_lib.CLS, vocab_lib.SEP
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(cls, vocab.cls_id), (sep, vocab.sep_id)],
    )
    tokenizer.save(os.path.join(folder, vocab_lib.TOKENIZER_FILE))
    about = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": vocab.do_lower_case,
        "strip_accents": None,
        "tokenize_chinese_chars": True,
        "model_max_length": max_length,
        **SPECIAL,
    }
    for name, content in ((CONFIG_FILE, about), (MAP_FILE, SPECIAL)):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
            f.write(json.dumps(content, indent=2) + "\n")
