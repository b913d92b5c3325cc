"""vocab.txt and tokenizer.json: what is written is read again, and what does not fit is refused."""

import hashlib
import json

import pytest

from tfbert import checks
from tfbert.text import vocab
from tfbert.text.vocab import SPECIAL_TOKENS, Vocab

TOKENS = ("[PAD]", "[unused0]", "the", "[UNK]", "[CLS]", "##é", "[SEP]", "[MASK]", "[unused1", "中")


def test_ids():
    v = Vocab(TOKENS)
    assert len(v) == 10
    assert [v.ids[t] for t in TOKENS] == list(range(10))
    assert (v.pad_id, v.unk_id, v.cls_id, v.sep_id, v.mask_id) == (0, 3, 4, 6, 7)
    assert v.special_ids == (0, 1, 3, 4, 6, 7)  # "[unused1" is no special token


@pytest.mark.parametrize("lower_case", [True, False])
def test_what_is_written_is_read(tmp_path, lower_case):
    v = Vocab(TOKENS, lower_case)
    v.write(tmp_path / "new" / "folder")
    for path in ("new/folder", "new/folder/vocab.txt"):
        assert vocab.load(str(tmp_path / path)) == v
        assert vocab.load(str(tmp_path / path), lower_case).digest == v.digest
    about = json.loads((tmp_path / "new/folder/tokenizer.json").read_text())
    assert about == {
        "do_lower_case": lower_case,
        "special_tokens": {"[PAD]": 0, "[UNK]": 3, "[CLS]": 4, "[SEP]": 6, "[MASK]": 7},
        "vocab_size": 10,
        "sha256": v.digest,
    }
    assert (tmp_path / "new/folder/vocab.txt").read_bytes().decode() == "".join(t + "\n" for t in TOKENS)


def test_digest_tells_vocabularies_apart():
    digests = {Vocab(t, c).digest for t in (TOKENS, TOKENS[::-1], (*TOKENS, "x")) for c in (True, False)}
    assert len(digests) == 6
    text = json.dumps({"do_lower_case": True, "tokens": TOKENS}, ensure_ascii=False)
    assert Vocab(TOKENS).digest == hashlib.sha256(text.encode()).hexdigest()  # it stands in files: it may not change


def test_white_space_in_entries_is_kept(tmp_path):
    # U+2028, U+0085 and a form feed end a line for str.splitlines, and would shift all ids after them.
    tokens = (*SPECIAL_TOKENS, "a\u2028b", "\x85", "\x0c", " x ", "")
    Vocab(tokens).write(tmp_path)
    assert vocab.load(str(tmp_path)).tokens == tokens


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_lines_of_others(tmp_path, end, last):
    (tmp_path / "vocab.txt").write_bytes((end.join(TOKENS) + end * last).encode())
    assert vocab.load(str(tmp_path)) == Vocab(TOKENS, True)


@pytest.mark.parametrize(
    "name, about, case",
    [
        ("tokenizer_config.json", {"do_lower_case": False}, False),
        ("tokenizer_config.json", {}, True),
        ("tokenizer.json", {"normalizer": {"type": "BertNormalizer", "lowercase": False}}, False),
        ("tokenizer.json", {"normalizer": None}, True),
    ],
)
def test_case_is_taken_from_the_file_beside(tmp_path, name, about, case):
    (tmp_path / "vocab.txt").write_text("\n".join(TOKENS))
    (tmp_path / name).write_text(json.dumps(about))
    assert vocab.load(str(tmp_path)).do_lower_case is case


def test_case_must_not_contradict(tmp_path):
    Vocab(TOKENS, False).write(tmp_path)
    with pytest.raises(checks.InputError, match="do_lower_case=True, and False in the file"):
        vocab.load(str(tmp_path), do_lower_case=True)


def test_changed_vocabulary_is_refused(tmp_path):
    Vocab(TOKENS).write(tmp_path)
    with open(tmp_path / "vocab.txt", "a") as f:
        f.write("new\n")
    with pytest.raises(checks.InputError, match=r"must be the one that tokenizer\.json was written for"):
        vocab.load(str(tmp_path))


def test_bad_vocabularies(tmp_path):
    with pytest.raises(checks.InputError, match="unique; got 'the' on lines 3, 11"):
        Vocab((*TOKENS, "the"))
    with pytest.raises(checks.InputError, match=r"10 entries without \[MASK\]"):
        Vocab(tuple("x" if t == "[MASK]" else t for t in TOKENS))
    with pytest.raises(checks.InputError, match=r"readable vocab\.txt or a folder with one"):
        vocab.load(str(tmp_path))
    (tmp_path / "vocab.txt").write_bytes(b"the\n\xff\n")
    with pytest.raises(checks.InputError, match="must be UTF-8"):
        vocab.load(str(tmp_path))
    (tmp_path / "vocab.txt").write_text("the\n")
    with pytest.raises(checks.InputError, match=r"vocab\.txt: a vocabulary must hold"):
        vocab.load(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(checks.InputError, match=r"tokenizer\.json must hold JSON"):
        vocab.load(str(tmp_path))
