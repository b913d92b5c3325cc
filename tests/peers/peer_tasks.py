"""The four kinds of tasks as transformers' examples do them, for tests/peers/finetune_transformers.py.

Each class reads the files of the flags, makes rows of them ({name: list or number}, as the model takes them), and
writes predictions in the form of tfbert.finetune. It imports nothing of tfbert.
"""

import csv
import gzip
import json
import os

import transformers

INPUTS = ("input_ids", "token_type_ids", "attention_mask")
_COLUMNS_OF_CONLLU = 10


def _open(path):
    return gzip.open(path, "rt", encoding="utf-8") if path.endswith(".gz") else open(path, encoding="utf-8")


class Texts:
    """Classes or, with --task=regress, scores of texts and pairs of texts, from CSV with a header."""

    model_class = transformers.AutoModelForSequenceClassification

    def __init__(self, given, tokenizer):
        self._given, self._tokenizer = given, tokenizer
        self._train, self._test = (self._read(path) for path in (given.train_file, given.test_file))
        self._classes = given.task == "classify"
        self._labels = sorted({row[given.label_column] for row in self._train}) if self._classes else []
        kind = "single_label_classification" if self._classes else "regression"
        self.of_model = {"num_labels": len(self._labels) or 1, "problem_type": kind}

    def _read(self, path):
        with open(path, encoding="utf-8", newline="") as f:
            return list(csv.DictReader(f))

    def _rows(self, examples):
        columns = [c for c in (self._given.text_column, self._given.text_pair_column) if c]
        texts = ([e[column] for e in examples] for column in columns)
        encoded = self._tokenizer(*texts, truncation=True, max_length=self._given.max_seq_length, padding=False)
        return [{name: encoded[name][i] for name in INPUTS} for i in range(len(examples))]

    def train_rows(self):
        """The rows to train on."""
        number = {label: i for i, label in enumerate(self._labels)}
        labels = [row[self._given.label_column] for row in self._train]
        labels = [number[label] if self._classes else float(label) for label in labels]
        return [{**row, "labels": label} for row, label in zip(self._rows(self._train), labels)]

    def test_rows(self):
        """The rows to predict."""
        return self._rows(self._test)

    def write(self, outputs, folder):
        """Writes test_predictions.tsv: index, prediction, label."""
        with open(os.path.join(folder, "test_predictions.tsv"), "w", encoding="utf-8") as f:
            f.write("index\tprediction\tlabel\n")
            for i, (found, example) in enumerate(zip(outputs, self._test, strict=True)):
                logits = found["logits"]
                said = self._labels[logits.argmax()] if self._classes else f"{float(logits[0]):.8g}"
                f.write(f"{i}\t{said}\t{example[self._given.label_column]}\n")


class Tags:
    """A tag for each word, from CoNLL's columns (first and last) or CoNLL-U (form and upos)."""

    model_class = transformers.AutoModelForTokenClassification

    def __init__(self, given, tokenizer):
        self._given, self._tokenizer = given, tokenizer
        self._train, self._test = (self._read(path) for path in (given.train_file, given.test_file))
        self._labels = sorted({tag for sentence in self._train for _, tag in sentence})
        self.of_model = {"num_labels": len(self._labels)}

    def _read(self, path):
        """A list of sentences: lists of (word, tag)."""
        conllu = ".conllu" in path
        sentences, sentence = [], []
        with _open(path) as f:
            for line in [*f, ""]:
                cells = line.strip("\n").split("\t")
                if not line.strip():
                    sentences += [sentence] if sentence else []
                    sentence = []
                elif not conllu:
                    sentence.append((cells[0], cells[-1]))
                elif len(cells) == _COLUMNS_OF_CONLLU and cells[0].isdigit():
                    sentence.append((cells[1], cells[3]))
        return sentences

    def _encode(self, sentences):
        words = [[word for word, _ in sentence] for sentence in sentences]
        length = self._given.max_seq_length
        return self._tokenizer(words, is_split_into_words=True, truncation=True, max_length=length, padding=False)

    def _firsts(self, encoded, i):
        """Places of the first wordpieces of the words of sentence i: {word: place}."""
        firsts = {}
        for place, word in enumerate(encoded.word_ids(i)):
            if word is not None:
                firsts.setdefault(word, place)
        return firsts

    def train_rows(self):
        """The rows to train on."""
        number = {label: i for i, label in enumerate(self._labels)}
        encoded, rows = self._encode(self._train), []
        for i, sentence in enumerate(self._train):
            labels = [-100] * len(encoded["input_ids"][i])
            for word, place in self._firsts(encoded, i).items():
                labels[place] = number[sentence[word][1]]
            rows.append({**{name: encoded[name][i] for name in INPUTS}, "labels": labels})
        return rows

    def test_rows(self):
        """The rows to predict."""
        self._encoded = self._encode(self._test)
        return [{name: self._encoded[name][i] for name in INPUTS} for i in range(len(self._test))]

    def write(self, outputs, folder):
        """Writes test_tags.tsv: word, tag, predicted tag; a word that was cut off, or has no wordpiece, is "O" or X."""
        default = "O" if "O" in self._labels else "X"
        with open(os.path.join(folder, "test_tags.tsv"), "w", encoding="utf-8") as f:
            for i, (found, sentence) in enumerate(zip(outputs, self._test, strict=True)):
                best, firsts = found["logits"].argmax(-1), self._firsts(self._encoded, i)
                for number, (word, tag) in enumerate(sentence):
                    said = self._labels[best[firsts[number]]] if number in firsts else default
                    f.write(f"{word}\t{tag}\t{said}\n")
                f.write("\n")


class Answers:
    """Stretches of texts that answer questions, from JSON as SQuAD 1.1 has it; as transformers' run_qa.py does it.

    --doc_stride is what windows share, as there, and not the way from one to the next.
    """

    model_class = transformers.AutoModelForQuestionAnswering

    def __init__(self, given, tokenizer):
        self._given, self._tokenizer, self.of_model = given, tokenizer, {}
        self._train, self._test = (self._read(path) for path in (given.train_file, given.test_file))

    def _read(self, path):
        """A list of (id, question, context, text of the first answer, its character)."""
        with open(path, encoding="utf-8") as f:
            paragraphs = [p for article in json.load(f)["data"] for p in article["paragraphs"]]
        return [
            (q["id"], q["question"].lstrip(), p["context"], q["answers"][0]["text"], q["answers"][0]["answer_start"])
            for p in paragraphs
            for q in p["qas"]
        ]

    def _encode(self, questions):
        """(encoded windows, the question of each, for each wordpiece its characters in the context or None)."""
        encoded = self._tokenizer(
            [q[1] for q in questions],
            [q[2] for q in questions],
            truncation="only_second",
            max_length=self._given.max_seq_length,
            stride=self._given.doc_stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            padding=False,
        )
        places = [
            [place if part == 1 else None for place, part in zip(offsets, encoded.sequence_ids(i))]
            for i, offsets in enumerate(encoded["offset_mapping"])
        ]
        return encoded, encoded["overflow_to_sample_mapping"], places

    def train_rows(self):
        """The rows to train on; a window without the answer points to [CLS]."""
        encoded, owners, places = self._encode(self._train)
        rows = []
        for i, owner in enumerate(owners):
            _, _, _, answer, begin = self._train[owner]
            end = begin + len(answer)
            inside = [j for j, place in enumerate(places[i]) if place and place[1] > begin and place[0] < end]
            known = [place for place in places[i] if place]
            whole = inside and known[0][0] <= begin and end <= known[-1][1]
            first, last = (inside[0], inside[-1]) if whole else (0, 0)
            row = {name: encoded[name][i] for name in INPUTS}
            rows.append({**row, "start_positions": first, "end_positions": last})
        return rows

    def test_rows(self):
        """The rows to predict."""
        encoded, self._owners, self._places = self._encode(self._test)
        return [{name: encoded[name][i] for name in INPUTS} for i in range(len(self._owners))]

    def _best(self, found, places):
        """(score, first character, last) of the likeliest span of a window."""
        begin, end, count = found["start_logits"], found["end_logits"], self._given.n_best_size
        candidates = [(float("-inf"), 0, 0)]
        for i in begin.argsort()[::-1][:count]:
            for j in end.argsort()[::-1][:count]:
                inside = max(i, j) < len(places) and places[i] and places[j]
                if inside and i <= j < i + self._given.max_answer_length:
                    candidates.append((float(begin[i] + end[j]), places[i][0], places[j][1]))
        return max(candidates)

    def write(self, outputs, folder):
        """Writes test_predictions.json: {id: text}."""
        best = {}
        for owner, found, places in zip(self._owners, outputs, self._places, strict=True):
            best[owner] = max(best.get(owner, (float("-inf"), 0, 0)), self._best(found, places))
        answers = {q[0]: q[2][best[i][1] : best[i][2]] for i, q in enumerate(self._test)}
        with open(os.path.join(folder, "test_predictions.json"), "w", encoding="utf-8") as f:
            json.dump(answers, f, indent=4, ensure_ascii=False)


TASKS = {"classify": Texts, "regress": Texts, "tag": Tags, "answer": Answers}
