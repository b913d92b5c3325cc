"""Vocabularies that are learned: what they hold, that they are always the same, and bad input."""

import collections
import os
import random
import subprocess
import sys

import pytest
import tensorflow as tf

from data_prep import learn_vocab
from data_prep.learn_vocab import Config
from tests import wordpiece
from tfbert import checks
from tfbert.text import vocab
from tfbert.text.tokenizer import Tokenizer

SPECIAL = list(vocab.SPECIAL_TOKENS)


def made_up_words(n, seed=0):
    """{word: count} of n pronounceable words, most of them rare, so that many pairs are equally frequent."""
    rng = random.Random(seed)
    syllables = [c + v + e for c in "bdfgklmnprst" for v in "aeiou" for e in ("", "n", "s", "ng")]
    words = {"".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(n)}
    return {w: rng.randint(1, 9) for w in sorted(words)}


def corpus_file(folder, documents=60, name="a.txt"):
    rng, words = random.Random(1), list(made_up_words(300))
    lines = ["\n".join(" ".join(rng.choices(words, k=9)) + "." for _ in range(3)) for _ in range(documents)]
    path = folder / name
    path.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


class TestWords:
    TEXTS = (
        "Héllo, WÖRLD! It isn't [MASK] or ##ing.",
        "北京 is\u00a0x², a\u200bb \x00 c\x07d\tÅngström…  İstanbul ﬁne Straße ½",
        "",
        " \u3000 ",
        "مرحبا नमस्ते 한국어 Ελληνικός e\u0301te\u0301",
        "x" * 300,
    )

    @pytest.mark.parametrize("lower_case", [True, False])
    def test_words_are_those_of_the_reference(self, lower_case):
        found = learn_vocab.WordSplitter(lower_case)([t.encode() for t in self.TEXTS])
        assert [[w.decode() for w in ws] for ws in found] == [wordpiece.words(t, lower_case) for t in self.TEXTS]

    @pytest.mark.parametrize("lower_case", [True, False])
    def test_each_word_is_one_to_the_tokenizer(self, lower_case):
        """A tokenizer that knows the words gives one piece a word, the same for the text and for the words."""
        texts = [t.encode() for t in self.TEXTS[:-1]]
        found = learn_vocab.WordSplitter(lower_case)(texts)
        known = sorted({w.decode() for ws in found for w in ws})
        vocabulary = vocab.Vocab((*SPECIAL, *known), lower_case)
        ids = Tokenizer(vocabulary).tokenize(tf.constant(texts)).to_list()
        assert ids == [[vocabulary.ids[w.decode()] for w in ws] for ws in found]

    def test_held_out_documents_are_not_counted(self, tmp_path):
        path = corpus_file(tmp_path)
        cfg = Config(input_file=(path,), output_dir=str(tmp_path), held_out_fraction=0.5)
        counts = collections.Counter()
        words = learn_vocab.count_words(cfg, counts, lambda _: None)
        assert 10 < counts["documents_held_out"] < 50
        assert sum(words.values()) == counts["documents_train"] * 30
        assert words["."] == counts["documents_train"] * 3

    def test_batches_change_nothing_and_are_bounded(self, tmp_path, monkeypatch):
        cfg = Config(input_file=(corpus_file(tmp_path),), output_dir=str(tmp_path))
        whole = learn_vocab.count_words(cfg, collections.Counter(), lambda _: None)
        assert [len(b) for b in learn_vocab._batches_of_texts([b"a"] * 5000)] == [4096, 904]
        monkeypatch.setattr(learn_vocab, "BATCH_BYTES", 200)
        assert [len(b) for b in learn_vocab._batches_of_texts([b"a" * 99, b"b" * 101, b"c" * 500, b"d"])] == [2, 1, 1]
        assert learn_vocab.count_words(cfg, collections.Counter(), lambda _: None) == whole


class TestLearn:
    def test_merges_of_a_small_example(self):
        # h+##u 15 (hug, hum), then hu+##g 10, then p+##u 12... by hand from the counts of pairs.
        words = {"hug": 10, "pug": 5, "pun": 12, "bun": 4, "hugs": 5}
        tokens = learn_vocab.learn(words, 40)
        alphabet = ["##g", "##n", "##s", "##u", "b", "g", "h", "n", "p", "s", "u"]
        assert [t for t in tokens if len(t.removeprefix("##")) == 1] == sorted({*"bghnpsu", *alphabet})
        merged = [t for t in tokens[5:] if len(t.removeprefix("##")) > 1]
        # ##u+##g 20, ##u+##n 16, h+##ug 15, p+##un 12, then two of 5 in the order of their parts, b+##un 4.
        assert merged[:4] == ["##ug", "##un", "hug", "pun"]
        assert set(merged[4:6]) == {"hugs", "pug"} and merged[6:] == ["bun"]

    def test_special_tokens_come_first(self):
        tokens = learn_vocab.learn(made_up_words(200), 150, num_unused=3)
        assert list(tokens[:8]) == [*SPECIAL, "[unused0]", "[unused1]", "[unused2]"]
        assert tokens[0] == "[PAD]"
        assert vocab.Vocab(tokens).special_ids == tuple(range(8))

    @pytest.mark.parametrize("vocab_size", [60, 211, 500])
    def test_size_is_kept_to_the_entry(self, vocab_size):
        tokens = learn_vocab.learn(made_up_words(400), vocab_size)
        assert len(tokens) == len(set(tokens)) == vocab_size

    def test_a_small_corpus_gives_fewer_entries(self):
        tokens = learn_vocab.learn({"ab": 5, "abc": 1, "z": 1}, 1000)
        assert tokens == (*SPECIAL, "##b", "a", "b", "ab")

    def test_the_order_of_the_words_does_not_matter(self):
        """Ties are many here; the trainer by itself numbers characters in random order."""
        words = made_up_words(1500)
        items, results = list(words.items()), set()
        for seed in range(4):
            random.Random(seed).shuffle(items)
            results.add(learn_vocab.learn(dict(items), 700))
        assert len(results) == 1

    def test_every_frequent_character_has_its_entries(self):
        words = {**made_up_words(300), "naïve": 2, "ï": 1, "zoë": 1, "!": 40, "漢": 3, "字": 1}
        tokens = set(learn_vocab.learn(words, 300))
        assert {"ï", "##ï", "!", "漢", "a", "##a"} <= tokens
        assert not {"ë", "##ë", "字", "##!", "##漢"} & tokens  # once only, or never inside a word

    def test_characters_fill_half_at_most_and_what_is_left_over(self):
        ideographs = {chr(0x4E00 + i): 1000 - i for i in range(200)}
        tokens = learn_vocab.learn({**ideographs, "ab": 2000, "ac": 1500}, 105)
        # 50 of 100 go to characters (a, ##b, b, ##c, c and 45 ideographs), 2 to merges, 48 to more characters.
        assert len(tokens) == 105 and {"ab", "ac", *list(ideographs)[:93]} <= set(tokens)
        assert list(ideographs)[93] not in tokens

    def test_a_word_of_a_character_that_is_left_out_teaches_nothing(self):
        rare = {"q" + w: n for w, n in made_up_words(30).items()}
        words = {w: n for w, n in made_up_words(300, seed=2).items()}
        assert "q" not in "".join(words)
        with_rare = learn_vocab.learn({**words, **dict.fromkeys(rare, 1)}, 200, min_frequency=50)
        assert not any("q" in t for t in with_rare)

    def test_min_frequency(self):
        words = made_up_words(500)
        pairs = [len(learn_vocab.learn(words, 5000, min_frequency=n)) for n in (1, 2, 5, 40)]
        assert pairs == sorted(pairs, reverse=True) and pairs[0] > pairs[-1]

    def test_counts_are_handed_over_in_full(self, monkeypatch):
        words = made_up_words(400)
        whole = learn_vocab.learn(words, 300)
        monkeypatch.setattr(learn_vocab, "REPEATS", 2)
        assert learn_vocab.learn(words, 300) == whole

    def test_words_longer_than_the_tokenizer_takes_teach_nothing(self):
        tokens = learn_vocab.learn({"xy" * 101: 1000, "ab": 3}, 100)
        assert tokens == (*SPECIAL, "##b", "##x", "##y", "a", "b", "x", "y", "ab")


class TestMeasure:
    def test_pieces_and_unknown_words_are_weighted(self):
        vocabulary = vocab.Vocab((*SPECIAL, "ab", "a", "##a", "##b"))
        assert learn_vocab.measure(vocabulary, {"ab": 10, "aab": 7, "c": 3, "ca": 2}) == (10 + 21 + 3 + 2, 5)


class TestRun:
    def config(self, folder, **kwargs):
        path = corpus_file(folder)
        return Config(**{"input_file": (path,), "vocab_size": 150, "output_dir": str(folder / "out"), **kwargs})

    def test_what_is_written_loads(self, tmp_path, capsys):
        cfg = self.config(tmp_path, do_lower_case=False)
        learned = learn_vocab.run(cfg)
        loaded = vocab.load(cfg.output_dir)
        assert loaded == learned and not loaded.do_lower_case and len(loaded) == 150
        shown = capsys.readouterr().out
        assert "documents train" in shown and "150 of 150" in shown and "0 (0.000 %)" in shown
        assert learned.digest[:12] in shown

    @pytest.mark.slow
    def test_the_same_files_in_another_process_with_another_hash_seed(self, tmp_path):
        cfg = self.config(tmp_path)
        learn_vocab.run(cfg)
        other = tmp_path / "other"
        command = [sys.executable, "-m", "data_prep.learn_vocab", f"--input_file={cfg.input_file[0]}"]
        command += ["--vocab_size=150", f"--output_dir={other}"]
        environment = {**os.environ, "PYTHONHASHSEED": "12345", "RAYON_NUM_THREADS": "1"}
        subprocess.run(command, check=True, env=environment, capture_output=True)
        for name in (vocab.VOCAB_FILE, vocab.TOKENIZER_FILE):
            assert (other / name).read_bytes() == (tmp_path / "out" / name).read_bytes()

    @pytest.mark.slow
    def test_no_word_of_the_training_text_is_unknown(self, tmp_path):
        vocabulary = learn_vocab.run(self.config(tmp_path))
        text = tf.constant((tmp_path / "a.txt").read_bytes().split(b"\n"))
        assert vocabulary.unk_id not in Tokenizer(vocabulary).tokenize(text).flat_values

    def test_another_vocabulary_is_not_overwritten(self, tmp_path):
        cfg = self.config(tmp_path)
        first = learn_vocab.run(cfg)
        assert learn_vocab.run(cfg) == first  # the same one is no harm
        with pytest.raises(checks.InputError, match=r"must not hold another vocabulary; got digest .* --overwrite"):
            learn_vocab.run(self.config(tmp_path, vocab_size=140))
        assert vocab.load(cfg.output_dir) == first
        learn_vocab.run(self.config(tmp_path, vocab_size=140, overwrite=True))
        assert len(vocab.load(cfg.output_dir)) == 140

    @pytest.mark.parametrize(
        "kwargs, words",
        [
            ({"output_dir": ""}, "output_dir must be given"),
            ({"vocab_size": 15}, "vocab_size must be at least 16"),
            ({"num_unused": 145}, "vocab_size must leave room"),
            ({"min_frequency": 0}, "min_frequency must be at least 1"),
            ({"held_out_fraction": 1.0}, "must hold words to learn from; got none in 60 documents"),
            ({"input_file": ("/no/such/file",)}, "must match at least one file"),
        ],
    )
    def test_bad_flags(self, tmp_path, kwargs, words):
        with pytest.raises(checks.InputError, match=words):
            learn_vocab.run(self.config(tmp_path, **kwargs))

    def test_an_output_folder_that_cannot_be_made(self, tmp_path):
        (tmp_path / "out").write_text("a file")
        with pytest.raises(checks.InputError, match="a folder that can be made"):
            learn_vocab.run(self.config(tmp_path))
