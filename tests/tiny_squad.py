"""Questions in SQuAD's JSON: a few on real words, with accents and Chinese, for tests."""

import json
import unicodedata

from tfbert.text import vocab as vocab_lib

CONTEXTS = (
    "The Normans were the people who in the 10th and 11th centuries gave their name to Normandy, a région in France.",
    "诺曼人在10世纪和11世纪将名字赋予诺曼底。",
)


def question(context, id_, text, *answers, **more):
    """One entry of "qas"; answers are looked up in the context."""
    found = [{"text": a, "answer_start": context.index(a)} for a in answers]
    return {"id": id_, "question": text, "answers": found, **more}


def content(**more):
    """A file as SQuAD 1.1; `more` goes into the last question."""
    english, chinese = CONTEXTS
    return {
        "version": "1.1",
        "data": [
            {
                "title": "Normans",
                "paragraphs": [
                    {
                        "context": english,
                        "qas": [
                            question(english, "a1", "In what country is Normandy?", "France", "in France"),
                            question(english, "a2", "What is Normandy?", "région"),
                        ],
                    }
                ],
            },
            {
                "title": "诺曼人",
                "paragraphs": [
                    {"context": chinese, "qas": [question(chinese, "b1", "名字赋予了哪里？", "诺曼底", **more)]}
                ],
            },
        ],
    }


def impossible():
    """The same as SQuAD 2.0, with one more question that has no answer."""
    made = content()
    made["version"] = "v2.0"
    for article in made["data"]:
        for paragraph in article["paragraphs"]:
            for q in paragraph["qas"]:
                q["is_impossible"] = False
    more = {"id": "a3", "question": "Who gave his name to Norway?", "answers": [], "is_impossible": True}
    made["data"][0]["paragraphs"][0]["qas"].append(more)
    return made


def write(path, made):
    """Writes it and returns the path."""
    path.write_text(json.dumps(made, ensure_ascii=False), encoding="utf-8")
    return str(path)


def vocab(do_lower_case=True):
    """Every letter of the texts, to begin a word and to go on with one, and a few words."""
    letters = sorted({c for c in unicodedata.normalize("NFD", "".join(CONTEXTS) + "?Wwh(,$") if not c.isspace()})
    words = ["the", "norman", "##s", "in", "france", "19", "##60"]
    tokens = [*vocab_lib.SPECIAL_TOKENS, *words, *letters, *(f"##{c}" for c in letters)]
    return vocab_lib.Vocab(tuple(dict.fromkeys(tokens)), do_lower_case)
