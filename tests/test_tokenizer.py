"""The tokenizer in the graph against plain Python and Hugging Face, on hostile input, and through its real loaders."""

import collections
import random
import time
import unicodedata

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_text as tf_text
import tokenizers as hugging_face
from tensorflow.lite.python import interpreter as lite

from tests import wordpiece
from tfbert import checks
from tfbert.text import normalizer_table, packing
from tfbert.text.tokenizer import Tokenizer
from tfbert.text.vocab import SPECIAL_TOKENS, Vocab

# Code points, by category, at which Hugging Face tokenizes otherwise than the rules say: its CJK range (Lo), and
# characters that are newer than its tables or were reclassified since. By Unicode version of Python: 3.10 to 3.13.
HUGGING_FACE_DIFFERS = {
    ("13.0.0", True): {"Cf": 11, "Lo": 256, "Mc": 1, "Mn": 272, "Pd": 1, "Po": 82, "So": 1},
    ("13.0.0", False): {"Cf": 11, "Lo": 256, "Mn": 1, "Pd": 1, "Po": 82, "So": 1},
    ("14.0.0", True): {"Cf": 13, "Lo": 256, "Mc": 2, "Mn": 384, "Pd": 2, "Pe": 4, "Po": 94, "Ps": 4, "So": 1},
    ("14.0.0", False): {"Cf": 13, "Lo": 256, "Mn": 1, "Pd": 2, "Pe": 4, "Po": 94, "Ps": 4, "So": 1},
    ("15.0.0", True): {"Cf": 20, "Lo": 256, "Mc": 2, "Mn": 419, "Pd": 2, "Pe": 4, "Po": 117, "Ps": 4, "So": 1},
    ("15.0.0", False): {"Cf": 20, "Lo": 256, "Mn": 1, "Pd": 2, "Pe": 4, "Po": 117, "Ps": 4, "So": 1},
    ("15.1.0", True): {"Cf": 20, "Lo": 256, "Mc": 2, "Mn": 419, "Pd": 2, "Pe": 4, "Po": 117, "Ps": 4, "So": 1},
    ("15.1.0", False): {"Cf": 20, "Lo": 256, "Mn": 1, "Pd": 2, "Pe": 4, "Po": 117, "Ps": 4, "So": 1},
}
CODE_POINTS = [c for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]
PRIVATE = [*range(0xE000, 0xE100), 0xF8FF, *range(0xF0000, 0xF0080), 0xFFFFD, 0x100000, 0x10FFFD]
WORDS = ["the", "mask", "ing", "tion", "straße", "naïve", "naive", "cafe", "café", "москва", "ελλαδα", "हिन्दी", "ไทย"]
# Scripts of thousands of like letters. Each 37th letter stands for them in the vocabulary and in plain Python, which
# would take a minute else; Hugging Face is asked about all.
LARGE = (*wordpiece.CJK, (0xAC00, 0xD7A3), (0x12000, 0x14646), (0x17000, 0x18CFF))
KEPT = [c for c in CODE_POINTS if not any(a <= c <= b for a, b in LARGE) or c % 37 == 0]


def small_vocab(lower_case=True):
    letters = "abcdefghijklmnopqrstuvwxyzé[]!.中"
    tokens = dict.fromkeys(
        (*SPECIAL_TOKENS, *letters, *("##" + c for c in letters), "the", "##ing", "mask", "[unused0]")
    )
    return Vocab((*tokens, "ᄀ", "##ᅡ", "ᄀ ᅡ"), lower_case)


@pytest.fixture(scope="module", params=[True, False], ids=["uncased", "cased"])
def large(request):
    """A vocabulary that tells nearly all characters apart, our tokenizer, and Hugging Face's."""
    pieces = [c for c in map(chr, KEPT) if not c.isspace()] + WORDS
    vocab = Vocab(tuple(dict.fromkeys([*SPECIAL_TOKENS, *pieces, *("##" + p for p in pieces)])), request.param)
    return vocab, Tokenizer(vocab), reference(vocab)


def reference(vocab):
    model = hugging_face.models.WordPiece(vocab.ids, unk_token="[UNK]", max_input_chars_per_word=200)
    tokenizer = hugging_face.Tokenizer(model)
    tokenizer.normalizer = hugging_face.normalizers.BertNormalizer(lowercase=vocab.do_lower_case)
    tokenizer.pre_tokenizer = hugging_face.pre_tokenizers.BertPreTokenizer()
    return tokenizer


def hugging_face_ids(tokenizer, texts):
    return [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]


@pytest.fixture(scope="module")
def differing(large):
    """The code points at which Hugging Face differs from us: found in groups, then one by one."""
    _, ours, theirs = large

    def differ(groups):
        texts = ["".join(f"a{chr(c)}b {chr(c)} " for c in g) for g in groups]
        pairs = zip(groups, ours.tokenize(tf.constant(texts)).to_list(), hugging_face_ids(theirs, texts))
        return [g for g, a, b in pairs if a != b]

    groups = differ([(CODE_POINTS + PRIVATE)[i : i + 50] for i in range(0, len(CODE_POINTS + PRIVATE), 50)])
    return [c for (c,) in differ([[c] for g in groups for c in g])]


@pytest.mark.slow
def test_code_points_as_in_plain_python(large):
    vocab, ours, _ = large
    points = KEPT + PRIVATE
    texts = ["".join(f"a{chr(c)}b {chr(c)} " for c in points[i : i + 100]) for i in range(0, len(points), 100)]
    assert ours.tokenize(tf.constant(texts)).to_list() == [wordpiece.tokenize(t, vocab) for t in texts]


def test_every_code_point_as_hugging_face_but_for_known_classes(large, differing):
    vocab, _, _ = large
    classes = collections.Counter(unicodedata.category(chr(c)) for c in differing)
    assert classes == HUGGING_FACE_DIFFERS[unicodedata.unidata_version, vocab.do_lower_case]
    cjk = [c for c in differing if unicodedata.category(chr(c)) == "Lo"]
    assert cjk == list(range(0x2B820, 0x2B920))  # where Hugging Face does not see CJK yet


def pools(excluded=()):
    spans = [
        range(32, 127),
        range(0x250),
        range(0x300, 0x370),
        range(0x370, 0x700),
        range(0x900, 0x1200),
        range(0x1F300, 0x1FA00),
        [*range(0x4E00, 0x4E80), *range(0xAC00, 0xAC60)],
        map(ord, "\0\x0b\x11\x85\xa0\xad\u200b\u200d\u2028\u3000\ue000\ufe0f\ufffd \t\n\r"),
        CODE_POINTS,
    ]
    assigned = set(CODE_POINTS + PRIVATE).difference(excluded)
    return [[chr(c) for c in span if c in assigned] for span in spans]


def hostile_texts(number, pools, seed):
    draw = random.Random(seed)
    for _ in range(number):
        mixed = draw.sample(pools, draw.randint(1, 4))
        text = [draw.choice(draw.choice([*mixed, WORDS, " ."])) for _ in range(draw.choice((0, 1, 3, 10, 30, 100)))]
        if draw.random() < 0.05:
            text.insert(draw.randint(0, len(text)), draw.choice("aéไ😀각") * draw.randint(64, 203))
        yield "".join(text)


@pytest.mark.slow
def test_hostile_text_as_in_plain_python(large):
    vocab, ours, _ = large
    texts = list(hostile_texts(2500, pools(), seed=1))
    assert ours.tokenize(tf.constant(texts)).to_list() == [wordpiece.tokenize(t, vocab) for t in texts]


@pytest.mark.slow
def test_hostile_text_as_hugging_face(large, differing):
    _, ours, theirs = large
    texts = list(hostile_texts(12_000, pools(differing), seed=2))
    assert ours.tokenize(tf.constant(texts)).to_list() == hugging_face_ids(theirs, texts)


def test_offsets_are_bytes_of_the_given_text(large):
    vocab, ours, _ = large
    texts = [*hostile_texts(1200, pools(), seed=3), "cafe\u0301 naïve 각갃 中文x\u200b\u00ad y"]
    tokens = ours.tokenize_with_offsets(tf.constant(texts))
    assert tokens.ids.to_list() == ours.tokenize(tf.constant(texts)).to_list()
    for text, ids, word_starts, starts, ends in zip(texts, *(t.to_list() for t in tokens)):
        text = text.encode()
        assert starts == sorted(starts)
        outside = text.decode() if not ids else text[: starts[0]].decode() + text[ends[-1] :].decode()
        for i, word_start, start, end, following in zip(ids, word_starts, starts, ends, [*starts[1:], len(text)]):
            piece, source = vocab.tokens[i].removeprefix("##"), text[start:end].decode()
            clean = "".join(wordpiece.words(source, vocab.do_lower_case))
            assert word_start == (piece == vocab.tokens[i])
            # Only a piece of a decomposed letter, as of Hangul, shares its letter with other pieces.
            decomposed = vocab.do_lower_case and unicodedata.normalize("NFD", source) != source
            assert clean == piece or i == vocab.unk_id or (piece in clean and decomposed)
            outside += text[end:following].decode()
        assert not wordpiece.words(outside, vocab.do_lower_case)  # what no piece covers is clean-up alone


def test_offsets_by_hand():
    vocab = small_vocab()
    text = "The \u200bcafe\u0301\u0301ing 가 中b\u00ad! \U0001f600x"
    tokens = Tokenizer(vocab).tokenize_with_offsets(tf.constant(["", text]))
    assert tokens.ids.row_lengths().numpy().tolist() == [0, 12]
    spans = [text.encode()[a:b].decode() for a, b in zip(tokens.starts[1].numpy(), tokens.ends[1].numpy())]
    assert spans == ["The", "c", "a", "f", "e\u0301\u0301", "ing", "가", "가", "中", "b\u00ad", "!", "\U0001f600x"]
    word_starts = [1, 1, 0, 0, 0, 0, 1, 0, 1, 1, 1, 1]
    assert tf.cast(tokens.word_starts[1], tf.int32).numpy().tolist() == word_starts
    assert [x.dtype for x in tokens] == [tf.int32, tf.bool, tf.int32, tf.int32]


@pytest.mark.parametrize("letter", ["a", "é", "\U00010400"])
@pytest.mark.parametrize("lower_case", [True, False])
def test_word_of_201_characters_is_unknown(letter, lower_case):
    form = letter.lower() if lower_case else letter  # of 1, 2 and 4 bytes
    form = "e" if lower_case and letter == "é" else form
    vocab = Vocab((*SPECIAL_TOKENS, form, "##" + form, "##" + 50 * form, "x"), lower_case)
    tokenizer = Tokenizer(vocab)
    texts = [f"x {letter * n} x" for n in (200, 201, 800, 801)] + [letter * 200 + "!" + letter * 201, "x" * 2]
    tokens = tokenizer.tokenize_with_offsets(tf.constant(texts))
    assert tokens.ids.to_list() == [wordpiece.tokenize(t, vocab) for t in texts]
    size = len(letter.encode())
    assert tokens.starts[1].numpy().tolist() == [0, 2, 3 + 201 * size]
    assert tokens.ends[1].numpy().tolist() == [1, 2 + 201 * size, 4 + 201 * size]
    assert [tokenizer.tokenize(tf.constant([t])).to_list()[0] for t in texts] == tokens.ids.to_list()


def test_special_tokens_are_text_unless_asked_for():
    vocab = small_vocab()
    tokenizer = Tokenizer(vocab)
    text = tf.constant(["the [MASK][SEP] x", "[CLS]"])
    plain = tokenizer.tokenize(text)
    assert not set(plain.flat_values.numpy()) & {vocab.mask_id, vocab.sep_id, vocab.cls_id}
    asked = tokenizer.tokenize_with_offsets(text, special_tokens=("[MASK]",))
    names = [[vocab.tokens[i] for i in row] for row in asked.ids.to_list()]
    assert names == [["the", "[MASK]", "[", "s", "##e", "##p", "]", "x"], ["[", "c", "##l", "##s", "]"]]
    assert (asked.starts[0][1], asked.ends[0][1]) == (4, 10)
    assert asked.word_starts[0].numpy().tolist() == [True, True, True, True, False, False, True, True]


def test_special_tokens_as_hugging_face():
    vocab = small_vocab()
    theirs = reference(vocab)
    literals = ("[MASK]", "[unused0]", "[MASK]")  # twice the same is once
    theirs.add_special_tokens(list(literals))
    parts = [
        *literals,
        "[mask]",
        "[SEP]",
        "[MA\u200bSK]",
        "[[MASK]]",
        "[MASK",
        "MASK]",
        "[ MASK]",
        "[]",
        "]",
        "中",
        "é",
    ]
    parts += ["a", "the", " ", "\u0301", "\0", "\x11", "\u200b", "[unused0", "\U0001f600", "x" * 201, "[MASK]" * 3, "."]
    draw = random.Random(4)
    texts = ["".join(draw.choices(parts, k=draw.randint(0, 12))) for _ in range(3000)]
    tokens = Tokenizer(vocab).tokenize_with_offsets(tf.constant(texts), literals)
    assert tokens.ids.to_list() == hugging_face_ids(theirs, texts)
    specials = {vocab.ids[t] for t in literals}
    for text, ids, starts, ends in zip(texts, tokens.ids.to_list(), tokens.starts.to_list(), tokens.ends.to_list()):
        for i, start, end in zip(ids, starts, ends):
            assert i not in specials or text.encode()[start:end].decode() == vocab.tokens[i]
    # Rows do not touch: a literal is not put together from two of them.
    assert (
        vocab.mask_id not in Tokenizer(vocab).tokenize(tf.constant(["[MA", "SK]", "[", "MASK]"]), literals).flat_values
    )


def broken_texts(number, seed):
    """Bytes: whole characters, halves of some, literals and pieces of them, long words, and what is private."""
    parts = [
        b"[MASK]",
        b"[mask]",
        b"[MASK",
        b"MASK]",
        b"[[MASK]]",
        b"[SEP]",
        b"[unused0]",
        b"##ing",
        b"the",
        b"A",
        b".",
    ]
    parts += map(
        str.encode, ("\0", "\n", "\ue000", "\ue001", "é", "e\u0301", "\u200b", "中文", "İ", "\u202e", "\ufffd")
    )
    parts += map(str.encode, ("\u0903", "한", "\U000f0000"))
    parts += [b" ", b"\xff", b"\xe4", b"\xe4\xb8", b"\xf0\x9f", b"\xee\x80", b"\x80"]
    parts += [
        b"b" * 200,
        b"c" * 201,
        "é".encode() * 200,
        "e\u0301".encode() * 201,
        "ß".encode() * 201,
        b"x" * 900,
        b"a," * 150,
    ]
    draw = random.Random(seed)
    for i in range(number):
        text = bytearray(b"".join(draw.choices(parts, k=draw.randint(0, 9))))
        for _ in range(i % 3 if text else 0):
            text[draw.randrange(len(text))] = draw.randrange(256)
        yield bytes(text)


@pytest.mark.parametrize("lower_case", [True, False])
@pytest.mark.parametrize("special_tokens", [(), ("[MASK]",), ("[MASK]", "[unused0]")])
def test_for_a_server_it_is_the_same(lower_case, special_tokens):
    tokenizer = Tokenizer(small_vocab(lower_case))
    texts = [*broken_texts(2000, seed=6), *(t.encode() for t in hostile_texts(200, pools(), seed=7))]
    spec = [tf.TensorSpec([None], tf.string)]
    of_server = tf.function(
        lambda text: tokenizer.tokenize(text, special_tokens, for_server=True), input_signature=spec
    )
    for size in (1, 40):  # of which hardly any, or many, have a long word
        batches = [texts[i : i + size] for i in range(0, len(texts) if size > 1 else 100, size)]
        for batch in [*batches, []]:
            text = tf.constant(batch, tf.string, [len(batch)])
            assert of_server(text).to_list() == tokenizer.tokenize(text, special_tokens).to_list(), batch


def test_a_mark_that_is_written_is_no_mask():
    """What stands for [MASK] in texts of servers is deleted from a user's, as all private characters are."""
    vocab = small_vocab()
    ids = Tokenizer(vocab).tokenize(tf.constant(["the \ue000 [MASK]", "[MA\ue000SK]"]), ("[MASK]",), True)
    assert [[vocab.tokens[i] for i in row] for row in ids.to_list()] == [["the", "[MASK]"], ["[", "mask", "]"]]


@pytest.mark.parametrize("token", ["MASK", "[NONE]", "[MA SK]", "["])
def test_special_token_must_be_a_bracketed_entry(token):
    with pytest.raises(checks.InputError, match="entries of the vocabulary of the form"):
        Tokenizer(small_vocab()).tokenize(tf.constant(["x"]), (token,))


def test_invalid_utf8_spoils_its_word_alone():
    vocab = small_vocab()
    bad = [b"\xff", b"\xc3", b"\xe4\xb8", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe9"]
    texts = [b"the a" + b + b"b mask " + b for b in bad] + [b"the" + b for b in bad]
    for special_tokens in ((), ("[MASK]",)):
        ids = Tokenizer(vocab).tokenize(tf.constant(texts), special_tokens).to_list()
        the, mask = vocab.ids["the"], vocab.ids["mask"]
        assert ids == [[the, vocab.unk_id, mask, vocab.unk_id]] * len(bad) + [[vocab.unk_id]] * len(bad)


def test_empty_batches_and_texts():
    tokenizer = Tokenizer(small_vocab())
    for special_tokens in ((), ("[MASK]",)):
        assert tokenizer.tokenize(tf.constant([], tf.string), special_tokens).to_list() == []
        tokens = tokenizer.tokenize_with_offsets(tf.constant(["", " ", "\0", "\u0301"]), special_tokens)
        assert all(t.to_list() == [[], [], [], []] for t in tokens)


@pytest.mark.parametrize(
    "text, length",
    [
        ("a" * 2**20, 1),
        (" " * 2**20, 0),
        ("!" * 2**20, 2**20),
        ("the mask ing! " * 75_000, 450_000),
        ("é\u0301" * 2**18, 1),
    ],
    ids=["word", "spaces", "marks", "text", "accents"],
)
def test_a_megabyte_takes_bounded_time(text, length):
    tokenizer = Tokenizer(small_vocab())
    for for_server in (False, True):
        begin = time.process_time()
        ids = tokenizer.tokenize(tf.constant([text, "the"]), ("[MASK]",), for_server)
        assert ids.row_lengths().numpy().tolist() == [length, 1]
        assert time.process_time() - begin < 5  # it takes about 0.2 s


def test_odd_vocabulary_entries_keep_their_ids_and_never_match():
    odd = ["", "##", "a b", "##a\tb", "\0", "\x11", "ab\u200b", "中中", "a!", "##!", "##" + "a" * 201, "\ud55c"]
    vocab = Vocab((*SPECIAL_TOKENS, *odd, "a", "##a", "b", "中", "!"))
    texts = ["a b a\tb ab\u200b \x11 \0 中中 a! a!a ##a", "a" * 201, "a" * 199 + " \ud55c"]
    assert Tokenizer(vocab).tokenize(tf.constant(texts)).to_list() == [wordpiece.tokenize(t, vocab) for t in texts]
    with pytest.raises(checks.InputError, match="at most 256 bytes; got 300 bytes on line 6"):
        Tokenizer(Vocab((*SPECIAL_TOKENS, "ไ" * 100)))


def test_known_differences_from_google():
    assert normalizer_table.normal_form("Σ", "Lu", True) == "σ"
    assert "ΟΔΟΣ".lower()[-1] == "ς"  # what tokenization.py has, which lower-cases a word at once
    assert normalizer_table.normal_form("\ue000", "Co", False) == ""


def test_normalizer_table_is_what_the_op_reads():
    for lower_case in (True, False):
        buffer = np.frombuffer(normalizer_table.build(lower_case), np.uint8)
        normalizer = tf_text.FastBertNormalizer(model_buffer=tf.constant(buffer))
        # Surrogates are no UTF-8; unassigned characters stay, those above the last as well as those between.
        points = [
            *range(0xD800),
            *range(0xE000, 0xF000),
            *range(0xF800, 0x20000),
            0x2FA1D,
            0xE0001,
            0xF0000,
            0x10FFFD,
            0x378,
        ]
        clean = normalizer.normalize(tf.constant([f"x{chr(c)}y" for c in points])).numpy()
        forms = [
            chr(c)
            if unicodedata.category(chr(c)) == "Cn"
            else normalizer_table.normal_form(chr(c), unicodedata.category(chr(c)), lower_case)
            for c in points
        ]
        assert [c.decode() for c in clean] == [f"x{f}y" for f in forms]


def test_table_is_built_quickly_and_once():
    normalizer_table.build.cache_clear()
    begin = time.process_time()
    first = normalizer_table.build(True)
    assert time.process_time() - begin < 2  # it takes about 0.4 s
    assert normalizer_table.build(True) is first
    assert len(first) < 300_000


@pytest.fixture(scope="module")
def module():
    """Tokenizer and packing as an export has them, on a module that can be saved."""
    vocab = small_vocab()
    root = tf.Module()
    root.tokenizer = Tokenizer(vocab)

    def pack(text, text_b):
        tokens = root.tokenizer.tokenize_with_offsets(text, ("[MASK]",))
        pair = packing.pack_pair(tokens.ids, root.tokenizer.tokenize(text_b), 13, vocab)
        single = packing.pack_single(root.tokenizer.tokenize(text), 7, vocab)
        return {
            **{f"pair_{k}": v for k, v in pair.items()},
            **{f"single_{k}": v for k, v in single.items()},
            "starts": tokens.starts.to_tensor(-1),
            "ends": tokens.ends.to_tensor(-1),
            "word_starts": tf.cast(tokens.word_starts, tf.int32).to_tensor(-1),
        }

    spec = [tf.TensorSpec([None], tf.string, name) for name in ("text", "text_b")]
    root.pack = tf.function(pack, input_signature=spec)
    return root, pack


BATCHES = [
    (["The cafe\u0301 [MASK][MASK]ing!", "", "a" * 201 + " 가 中", "x"], ["", "the mask", "x" * 30, "[MASK] [mask]"]),
    (["the"], ["a\0b"]),
    ([b"\xff \xe4\xb8 the", "[MASK]"], ["a" * 900, "\u0301"]),
]


def same(got, text, text_b, pack):
    want = pack(tf.constant(text), tf.constant(text_b))
    assert got.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value, name)


@pytest.mark.slow
def test_tflite_without_flex_gives_the_same(module):
    root, pack = module
    converter = tf.lite.TFLiteConverter.from_concrete_functions([root.pack.get_concrete_function()], root)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    converter.allow_custom_ops = True
    model = lite.InterpreterWithCustomOps(
        model_content=converter.convert(), custom_op_registerers=tf_text.tflite_registrar.SELECT_TFTEXT_OPS
    )
    run = model.get_signature_runner()
    for text, text_b in BATCHES:
        got = run(**{k: np.array(tf.constant(v).numpy(), object) for k, v in (("text", text), ("text_b", text_b))})
        same(got, text, text_b, pack)


@pytest.mark.slow
def test_saved_model_in_a_v1_session_gives_the_same(module, tmp_path):
    root, pack = module
    tf.saved_model.save(root, str(tmp_path), signatures={"pack": root.pack})
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        signature = tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path)).signature_def["pack"]
        outputs = {k: v.name for k, v in signature.outputs.items()}
        texts = [tf.compat.as_bytes(t) for t in ("text", "text_b")]
        feeds = [signature.inputs[t.decode()].name for t in texts]
        results = [
            session.run(outputs, {f: [tf.compat.as_bytes(t) for t in ts] for f, ts in zip(feeds, batch)})
            for batch in BATCHES
        ]
        ops = {n.op for n in session.graph_def.node} | {
            n.op for f in session.graph_def.library.function for n in f.node_def
        }
    for got, (text, text_b) in zip(results, BATCHES):
        same(got, text, text_b, pack)
    # TF Serving 2.12 knows these two and no others that this could use; none of them keeps state.
    assert {o for o in ops if o.startswith(("Fast", "TFText"))} == {
        "FastBertNormalize",
        "FastWordpieceTokenizeWithOffsets",
    }
    assert not {o for o in ops if "Table" in o or o.startswith(("VarHandle", "ReadVariable", "PyFunc"))}


def test_inside_tf_data_and_built_inside_a_graph():
    vocab = small_vocab()
    texts = ["the mask", "", "x [MASK]"]
    want = Tokenizer(vocab).tokenize(tf.constant(texts)).to_list()
    data = tf.data.Dataset.from_tensor_slices(texts).batch(2).map(lambda t: Tokenizer(vocab).tokenize(t))
    assert [row for batch in data for row in batch.to_list()] == want
