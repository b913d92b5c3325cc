"""Where paragraphs are split into sentences."""

import random
import unicodedata

import pytest
import tensorflow as tf
import tensorflow_text as tf_text

from data_prep import sentences


class TestSentences:
    @pytest.mark.parametrize(
        "expected",
        [
            ["See `tf.data.Dataset` for x.", "It is 3.5 times faster, i.e. good."],
            ["Why?", "Because!", "No end here"],
            ["Read https://example.org/a?b=c first.", "Then go on."],
            ['He said "Stop."', 'Then he said "Go!"', "(In brackets.)"],
            ["Use lists, tuples, etc. as you like.", "Dr. Who came vs. others, cf. Smith et al. 2019."],
            ["Nächstes Jahr wird's schön.", "Ça va.", "你好。", "再见！"],
        ],
    )
    def test_known_traps(self, expected):
        text = " ".join(expected)
        assert [s.decode() for s in sentences.split([text.encode()])[0]] == expected

    @pytest.mark.parametrize("short", ["Mr", "Mrs", "Ms", "Prof", "Fig", "Eq", "cf", "vs", "e.g", "i.e"])
    def test_abbreviations(self, short):
        for text, n in (
            (f"It is {short}. That.", 1),
            (f"({short}. a b", 1),
            (f"It is {short}.", 1),
            (f"a{short}. B", 2),
        ):
            assert len(sentences.split([text.encode()])[0]) == n, text

    @pytest.mark.parametrize("short", ["etc", "al", "resp", "approx"])
    def test_abbreviations_that_may_end_a_sentence(self, short):
        for text, n in (
            (f"It {short}. is so.", 1),
            (f"It {short}. Is so.", 2),
            (f"It {short}.", 1),
            (f"a{short}. b", 2),
        ):
            assert len(sentences.split([text.encode()])[0]) == n, text

    def test_white_space_of_unicode_is_stripped_whole(self):
        text = "你好。\u3000再见！\u00a0\u2003Yes.\x1c No.\u3000"
        assert sentences.split([text.encode()]) == [[s.encode() for s in ("你好。", "再见！", "Yes.", "No.")]]

    def test_no_text_is_lost_or_changed(self):
        rng = random.Random(3)
        parts = ["a", "B", ".", "?", "!", " ", '"', "'", ")", ":", "é", "世", "\x01", "e.g.", "3.5", "  ", "。", "😀"]
        paragraphs = ["".join(rng.choices(parts, k=rng.randint(0, 40))) for _ in range(2000)]
        for paragraph, found in zip(paragraphs, sentences.split([p.encode() for p in paragraphs]), strict=True):
            assert "".join(paragraph.split()) == "".join("".join(s.decode() for s in found).split())

    def test_documents_without_paragraphs_stay_in_their_place(self):
        stream = [("a", []), ("b", [b"One. Two.", b"Three"]), ("c", [])]
        expected = [("a", []), ("b", [b"One.", b"Two.", b"Three"]), ("c", [])]
        assert list(sentences.split_documents(stream)) == expected
        assert list(sentences.split_documents([])) == []


SMILEYS = (
    ":) :( :o) :3 =] :} :^) :-D :-))))) >:[ :-c :c D:< >:O XD DX 8-) B) B-) 8'( X-o X( O=) o_o; u_u -_- (=^.^=) "
    "=^_^= -<@% <3 <\\3 o.o O.O T_T x_x :-, :-. 0:-) 3:-) |-O ;* ^_^;; ~@~ :(|) (]:{ :-|| :S"
)
PARTS = [
    *(
        "a",
        "B",
        "X",
        "U.S. ",
        "U.S.A.",
        "x.",
        "A.",
        ".",
        "..",
        "...",
        "?",
        "!",
        " ",
        "  ",
        '"',
        "'",
        "''",
        ")",
        "(",
        "]",
    ),
    *(
        "[",
        "}",
        ":",
        "-",
        "é",
        "ß",
        "世",
        "界",
        "«",
        "»",
        "“",
        "”",
        "\x01",
        "e.g. ",
        "etc. ",
        "3.5",
        "。",
        "！",
        "…",
        "😀",
    ),
    *("\u037e", "한", "Я", "ñ", "\t", ",", "0", "8", "_", "か", *SMILEYS.split()),
]


def by_the_breaker(paragraphs):
    """Sentences as the breaker finds them in the whole of each paragraph."""
    shown = tf.constant([sentences._for_breaker(p.decode()) for p in paragraphs])
    _, starts, ends = tf_text.StateBasedSentenceBreaker().break_sentences_with_offsets(shown)
    rows = zip(paragraphs, starts.to_list(), ends.to_list())
    return [[s for a, b in zip(begins, stops) if (s := p[a:b].strip())] for p, begins, stops in rows]


class TestWhatTheBreakerIsShown:
    @pytest.mark.parametrize("seed", range(4))
    def test_made_up_text(self, seed):
        rng = random.Random(seed)
        paragraphs = ["".join(rng.choices(PARTS, k=rng.randint(0, 20))).strip().encode() for _ in range(5000)]
        for paragraph, ours, theirs in zip(paragraphs, sentences.split(paragraphs), by_the_breaker(paragraphs)):
            assert ours == theirs, paragraph

    @pytest.mark.slow
    def test_every_character_of_the_basic_planes(self):
        """One in 16 of what stands there by the thousand: ideographs, syllables, what is private or not given yet."""
        characters = [c for c in map(chr, [*range(33, 0xD800), *range(0xE000, 0x20000)]) if not c.isspace()]
        by_the_thousand = {c for c in characters if c > "\u3100" and unicodedata.category(c) in ("Lo", "Co", "Cn")}
        characters = [c for c in characters if c not in by_the_thousand or ord(c) % 16 == 7]
        assert len(characters) > 20_000
        paragraphs = [f"a{c}b {c}. c.{c}D{c}” x.{c} y".encode() for c in characters]
        for i in range(0, len(paragraphs), 20_000):
            some = paragraphs[i : i + 20_000]
            assert sentences.split(some) == by_the_breaker(some)
