"""Tests of tfbert.tasks.squad_files: what is read, and what is said of what cannot be."""

import copy
import gzip
import json
import random

import numpy as np
import pytest

from tests import tiny_squad
from tfbert import checks
from tfbert.tasks import squad_files


def read(tmp_path, made, **flags):
    return squad_files.read(tiny_squad.write(tmp_path / "dev.json", made), **flags)


def test_reads_questions(tmp_path):
    questions = read(tmp_path, tiny_squad.content())
    assert [q.id for q in questions] == ["a1", "a2", "b1"]
    first, second, third = questions
    assert first.context is second.context and first.context == tiny_squad.CONTEXTS[0]
    assert first.question == "In what country is Normandy?"
    assert [a.text for a in first.answers] == ["France", "in France"]
    assert third.where == f"{tmp_path / 'dev.json'}, 诺曼人, question b1"
    for q in questions:
        for a in q.answers:
            assert q.context.encode()[a.start :].startswith(a.text.encode())
    assert third.label == third.answers


def test_a_file_without_answers(tmp_path):
    made = tiny_squad.content()
    for article in made["data"]:
        for q in article["paragraphs"][0]["qas"]:
            del q["answers"]
    assert [q.label for q in read(tmp_path, made)] == [None] * 3
    made["data"][1]["paragraphs"][0]["qas"][0]["answers"] = [{"text": "名字", "answer_start": 0}]
    with pytest.raises(checks.InputError, match=r"must stand in its context.*stands at 14 \(at .*诺曼人, question b1"):
        read(tmp_path, made)
    made["data"][1]["paragraphs"][0]["qas"][0]["answers"][0]["answer_start"] = tiny_squad.CONTEXTS[1].index("名字")
    with pytest.raises(checks.InputError, match=r"all questions of a file must have answers.*question b1"):
        read(tmp_path, made)


def test_questions_without_an_answer(tmp_path):
    made = tiny_squad.impossible()
    questions = read(tmp_path, made, with_negative=True)
    assert [(q.id, q.answers == ()) for q in questions] == [("a1", False), ("a2", False), ("a3", True), ("b1", False)]
    with pytest.raises(checks.InputError, match=r"question a3\)\. Give --version_2_with_negative"):
        read(tmp_path, made)
    made["data"][0]["paragraphs"][0]["qas"][-1]["is_impossible"] = False
    with pytest.raises(checks.InputError, match="if it is not is_impossible; got is_impossible=False and 0"):
        read(tmp_path, made, with_negative=True)


def test_answers_that_are_not_there(tmp_path):
    made = tiny_squad.content()
    made["data"][0]["paragraphs"][0]["qas"][1]["answers"][0]["answer_start"] += 1
    with pytest.raises(checks.InputError) as caught:
        read(tmp_path, made)
    place = tiny_squad.CONTEXTS[0].index("région")
    assert str(caught.value) == (
        "an answer must stand in its context at answer_start; got 'région' at "
        f"{place + 1}, where the context has 'égion '; it stands at {place} (at {tmp_path / 'dev.json'}, Normans, "
        "question a2). Mend the file, or give --skip_bad_rows to leave such questions out of training."
    )
    questions = read(tmp_path, made, skip_bad=True)
    assert questions[1].answers == (squad_files.Answer("région", -1),)
    for start in (-1, 10**6, 10**30):
        made["data"][0]["paragraphs"][0]["qas"][1]["answers"][0]["answer_start"] = start
        with pytest.raises(checks.InputError, match="an answer must stand in its context"):
            read(tmp_path, made)


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "Expecting value (at {path}, line 1, column 1)"),
        ('{"data": [\n  {"title": }]}', "line 2, column 13"),
        ("[]", 'must be a JSON object with a list "data", as SQuAD has it; got a list of 0'),
        ('{"data": 3}', 'a list "data"'),
        ('{"data": []}', "a file of questions must hold some; got none"),
        ('{"data": [7]}', "every entry must be a JSON object; got 7 (at {path}, article 1)"),
        ('{"data": [{"title": "T"}]}', "must have 'paragraphs', a list; got only ['title'] (at {path}, article 1)"),
        ("[" * 100_000, "a file of questions must hold JSON"),
        ('{"data": [' + "9" * 5000 + "]}", "every entry must be a JSON object; got inf (at {path}, article 1)"),
        ('{"data": [], "data": [7]}', "SQuAD has it; got an object with 'data' more than once (at {path})"),
        (
            '{"data": [{"paragraphs": [{"context": "x", "qas": [{"id": "1", "question": " "}]}]}]}',
            "question must have text",
        ),
        (
            '{"data": [{"paragraphs": [{"context": "", "qas": [{"id": "1", "question": "x"}]}]}]}',
            "must have a context; got ''",
        ),
        ('{"data": [{"paragraphs": [{"context": "\\ud800", "qas": []}]}]}', "half of a surrogate pair"),
    ],
    ids=range(13),
)
def test_files_of_another_kind(tmp_path, text, words):
    path = tmp_path / "dev.json"
    path.write_text(text)
    with pytest.raises(checks.InputError) as caught:
        squad_files.read(str(path))
    assert words.format(path=path) in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(checks.InputError, match="No such file"):
        squad_files.read(str(tmp_path / "none.json"))
    (tmp_path / "latin.json").write_bytes(b'{"data": "\xe9"}')
    with gzip.open(tmp_path / "dev.json.gz", "wt") as f:
        json.dump(tiny_squad.content(), f)
    assert len(squad_files.read(str(tmp_path / "dev.json.gz"))) == 3
    (tmp_path / "cut.json.gz").write_bytes((tmp_path / "dev.json.gz").read_bytes()[:-20])
    with pytest.raises(checks.InputError, match=r"can be read; got Compressed file ended .*cut\.json\.gz"):
        squad_files.read(str(tmp_path / "cut.json.gz"))
    with pytest.raises(
        checks.InputError, match=r"must be UTF-8; got byte 0xe9 at byte 10 of the line .*latin\.json, line 1"
    ):
        squad_files.read(str(tmp_path / "latin.json"))


def test_an_id_of_two_questions(tmp_path):
    made = tiny_squad.content(id="a2")
    with pytest.raises(checks.InputError, match=r"of one question; got that of .*question a2 again \(at .*诺曼人"):
        read(tmp_path, made)


def test_entries_that_are_no_questions_are_left_out_if_asked_for(tmp_path, capsys):
    made = tiny_squad.content()
    made["data"][0]["paragraphs"][0]["qas"] += [7, {"id": "a1", "question": "x", "answers": []}]
    with pytest.raises(
        checks.InputError, match=r"every entry must be a JSON object; got 7 .*Normans, paragraph 1, question 3"
    ):
        read(tmp_path, made)
    assert [q.id for q in read(tmp_path, made, skip_bad=True)] == ["a1", "a2", "b1"]
    out = capsys.readouterr().out
    assert out.startswith(f"{tmp_path}/dev.json: 2 entries left out, 3 questions used. The first: every entry must be")
    made["data"] = made["data"][:1]
    made["data"][0]["paragraphs"][0]["qas"] = [7]
    with pytest.raises(checks.InputError, match="must hold some; got 1 that are none"):
        read(tmp_path, made, skip_bad=True)


def places(content, path=()):
    """Paths to every value in JSON."""
    yield path
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


def test_fuzz(tmp_path):
    """Any value replaced or deleted ends in an error that names the file, or still reads as questions."""
    rng = random.Random(5)
    whole = tiny_squad.impossible()
    every = list(places(whole))
    path = str(tmp_path / "dev.json")
    refused = 0
    for path_in in every:
        for value in (None, 3, -1, 1.5, "", "x", [], {}, [[]], True, float("nan"), "\ud800", [{}], ...):
            made = copy.deepcopy(whole)
            if not path_in:
                made = None if value is ... else value
            else:
                parent = made
                for key in path_in[:-1]:
                    parent = parent[key]
                if value is ...:
                    del parent[path_in[-1]]
                else:
                    parent[path_in[-1]] = value
            text = json.dumps(made)
            if rng.random() < 0.1:
                text = text[: rng.randrange(len(text))]
            with open(path, "w", encoding="utf-8") as f:
                f.write(text)
            try:
                questions = squad_files.read(path, with_negative=True)
                assert all(isinstance(q.context, str) for q in questions)
            except checks.InputError as e:
                assert path in str(e) and len(str(e)) < 600
                refused += 1
    assert refused > 500


@pytest.mark.slow
def test_a_dataset_of_tensorflow_datasets(tmp_path):
    """The features that its squad/v2.0 has."""
    import tensorflow_datasets as tfds

    place = tmp_path / "tiny_squad" / "1.0.0"
    place.mkdir(parents=True)
    identity = tfds.core.DatasetIdentity(
        name="tiny_squad", version=tfds.core.Version("1.0.0"), data_dir=str(place), module_name="tests"
    )
    answers = tfds.features.Sequence({"text": np.str_, "answer_start": np.int32})
    texts = {name: np.str_ for name in ("id", "title", "context", "question")}
    features = tfds.features.FeaturesDict({**texts, "answers": answers, "is_impossible": np.bool_})
    info = tfds.core.DatasetInfo(builder=identity, features=features, description="For a test.")
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=9)
    writer.initialize_splits(["train"])
    rows = []
    for article in tiny_squad.impossible()["data"]:
        (paragraph,) = article["paragraphs"]
        rows += [{**q, "title": article["title"], "context": paragraph["context"]} for q in paragraph["qas"]]
    writer.add_examples({"train": rows})
    writer.close_all()
    found = squad_files.read("tfds:tiny_squad:train", with_negative=True, tfds_data_dir=str(tmp_path))
    expected = read(tmp_path, tiny_squad.impossible(), with_negative=True)
    assert [(q.id, q.question, q.context, q.answers) for q in found] == [
        (q.id, q.question, q.context, q.answers) for q in expected
    ]
    assert found[0].where == "tfds:tiny_squad:train, Normans, question a1"
    with pytest.raises(checks.InputError, match=r"question a3\)\. Give --version_2_with_negative"):
        squad_files.read("tfds:tiny_squad:train", tfds_data_dir=str(tmp_path))
