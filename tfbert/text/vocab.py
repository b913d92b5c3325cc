"""vocab.txt and tokenizer.json: tokens, special ids, and the digest that travels with everything."""

import dataclasses
import functools
import hashlib
import json
import os

from tfbert import checks

PAD, UNK, CLS, SEP, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIAL_TOKENS = (PAD, UNK, CLS, SEP, MASK)
SUFFIX = "##"
VOCAB_FILE, TOKENIZER_FILE = "vocab.txt", "tokenizer.json"


@dataclasses.dataclass(frozen=True)
class Vocab:
    """A WordPiece vocabulary and the one choice that its tokenizer has.

    Attributes:
        tokens: Entries in the order of their ids.
        do_lower_case: Whether text is lower-cased and stripped of accents.
    """

    tokens: tuple
    do_lower_case: bool = True

    def __post_init__(self):
        seen = {}
        for i, token in enumerate(self.tokens):
            first = seen.setdefault(token, i)
            checks.require(first == i, "vocabulary entries must be unique", f"{token!r} on lines {first + 1}, {i + 1}")
        missing = [t for t in SPECIAL_TOKENS if t not in seen]
        checks.require(
            not missing,
            f"a vocabulary must hold {' '.join(SPECIAL_TOKENS)}",
            f"{len(self.tokens)} entries without {' '.join(missing)}",
            do="Add them as lines of vocab.txt, or learn one with python -m data_prep.learn_vocab",
        )

    def __len__(self):
        return len(self.tokens)

    @functools.cached_property
    def ids(self):
        """{token: id}."""
        return {t: i for i, t in enumerate(self.tokens)}

    pad_id = property(lambda self: self.ids[PAD])
    unk_id = property(lambda self: self.ids[UNK])
    cls_id = property(lambda self: self.ids[CLS])
    sep_id = property(lambda self: self.ids[SEP])
    mask_id = property(lambda self: self.ids[MASK])

    @functools.cached_property
    def special_ids(self):
        """Ids that stand for no text: [PAD] [UNK] [CLS] [SEP] [MASK] and [unused*]."""
        unused = (i for t, i in self.ids.items() if t.startswith("[unused") and t.endswith("]"))
        return tuple(sorted({self.ids[t] for t in SPECIAL_TOKENS}.union(unused)))

    @functools.cached_property
    def digest(self):
        """sha256 of the tokens and the choice of case, in hexadecimal."""
        text = json.dumps({"do_lower_case": self.do_lower_case, "tokens": self.tokens}, ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def write(self, folder):
        """Writes `vocab.txt` and `tokenizer.json` into a folder, which is made if it is not there."""
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, VOCAB_FILE), "w", encoding="utf-8", newline="\n") as f:
            f.writelines(f"{t}\n" for t in self.tokens)
        about = {
            "do_lower_case": self.do_lower_case,
            "special_tokens": {t: self.ids[t] for t in SPECIAL_TOKENS},
            "vocab_size": len(self),
            "sha256": self.digest,
        }
        with open(os.path.join(folder, TOKENIZER_FILE), "w", encoding="utf-8") as f:
            f.write(json.dumps(about, indent=2) + "\n")


def _case_beside(path):
    """`do_lower_case` as a file beside vocab.txt states it, or None."""
    folder = os.path.dirname(path)
    for name in (TOKENIZER_FILE, "tokenizer_config.json"):
        file = os.path.join(folder, name)
        if not os.path.isfile(file):
            continue
        try:
            with open(file, encoding="utf-8") as f:
                raw = json.load(f)
        except (json.JSONDecodeError, UnicodeDecodeError) as e:
            raise checks.error(f"{name} must hold JSON", str(e), file) from e
        normalizer = raw.get("normalizer") or {}  # Hugging Face's tokenizer.json
        case = raw.get("do_lower_case", normalizer.get("lowercase"))
        if case is not None:
            return bool(case), raw.get("sha256"), file
    return None, None, None


def load(path, do_lower_case=None):
    """Reads a vocabulary: ours, Google's or Hugging Face's.

    Args:
        path: A `vocab.txt`, or the folder that holds it.
        do_lower_case: True or False; None takes what `tokenizer.json` or `tokenizer_config.json`
            beside it says, and True where there is neither (Google's default).

    Raises:
        InputError: unreadable, not UTF-8, an entry twice, a special token missing, a case that
            contradicts `tokenizer.json`, or a `vocab.txt` that was changed since `tokenizer.json`
            was written.
    """
    if os.path.isdir(path):
        path = os.path.join(path, VOCAB_FILE)
    try:
        with open(path, "rb") as f:
            lines = f.read().decode("utf-8").split("\n")
    except OSError as e:
        raise checks.error("vocab_file must be a readable vocab.txt or a folder with one", e.strerror or e, path) from e
    except UnicodeDecodeError as e:
        raise checks.error("vocab_file must be UTF-8", str(e), path) from e
    if lines[-1] == "":
        lines.pop()
    lines = [line.removesuffix("\r") for line in lines]
    stated, sha256, file = _case_beside(path)
    checks.require(
        do_lower_case is None or stated is None or do_lower_case == stated,
        "do_lower_case must be what the vocabulary was learned with",
        f"do_lower_case={do_lower_case}, and {stated} in the file",
        file,
    )
    case = do_lower_case if do_lower_case is not None else True if stated is None else stated
    try:
        vocab = Vocab(tuple(lines), case)
    except checks.InputError as e:
        raise checks.InputError(f"{path}: {e}") from e
    checks.require(
        sha256 in (None, vocab.digest),
        "vocab.txt must be the one that tokenizer.json was written for",
        f"digest {vocab.digest[:12]}, and {str(sha256)[:12]} in tokenizer.json",
        path,
        "Restore vocab.txt, or delete tokenizer.json and pass --do_lower_case",
    )
    return vocab
