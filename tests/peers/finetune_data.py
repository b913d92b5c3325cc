"""Puts six public sets of labelled data into the files that tests/peers/finetune_both.py takes.

    python tests/peers/finetune_data.py --source=FOLDER --output=out/labelled

FOLDER holds the files as their authors publish them, in folders of any names; BUILD.md says where they come from.
"""

import argparse
import csv
import gzip
import json
import os
import pathlib

COPIED = {  # what is only renamed: file of the source -> file here
    "wnut17train.conll": "wnut17/train.conll",
    "emerging.test.annotated": "wnut17/test.conll",
    "en_ewt-ud-train.conllu": "ud_ewt/train.conllu",
    "en_ewt-ud-test.conllu": "ud_ewt/test.conllu",
}
INTENTS = (
    "AddToPlaylist",
    "BookRestaurant",
    "GetWeather",
    "PlayMusic",
    "RateBook",
    "SearchCreativeWork",
    "SearchScreeningEvent",
)
EVERY = 5  # each fifth article of XQuAD is held out


def _find(source, name, *parts):
    """Text of the one file of a name, or of it with .gz, whose path has all the parts."""
    found = [p for p in sorted(pathlib.Path(source).rglob(f"{name}*")) if all(part in str(p) for part in parts)]
    found = [p for p in found if p.name in (name, f"{name}.gz")]
    if not found:
        raise SystemExit(f"there must be a file {name} in {source}; got none")
    data = gzip.decompress(found[0].read_bytes()) if found[0].suffix == ".gz" else found[0].read_bytes()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:  # some files of SNIPS
        return data.decode("latin-1")


def _write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as f:
        f.write(text)


def _write_table(path, header, rows):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as f:
        csv.writer(f).writerows([header, *rows])


def snips(source, kind):
    """[text, intent] of each utterance of "train" or "validate"."""
    rows = []
    for intent in INTENTS:
        name = f"{kind}_{intent}{'_full' if kind == 'train' else ''}.json"
        for utterance in json.loads(_find(source, name))[intent]:
            text = "".join(part["text"] for part in utterance["data"])
            rows.append([" ".join(text.split()), intent])
    return rows


def split_by_article(squad):
    """(to train on, to test on): no article is in both, and each fifth one is in the second."""
    articles = squad["data"]
    test = articles[EVERY - 1 :: EVERY]
    return [{**squad, "data": part} for part in ([a for a in articles if a not in test], test)]


def make(source, output):
    """Writes the twelve files."""
    for name, there in COPIED.items():
        _write(os.path.join(output, there), _find(source, name))
    for split in ("train", "test"):
        _write(os.path.join(output, f"banking77/{split}.csv"), _find(source, f"{split}.csv", "banking"))
        pairs = csv.reader(_find(source, f"stsb-en-{split}.csv").splitlines())
        _write_table(os.path.join(output, f"stsb/{split}.csv"), ["sentence1", "sentence2", "score"], pairs)
        rows = snips(source, "train" if split == "train" else "validate")
        _write_table(os.path.join(output, f"snips/{split}.csv"), ["text", "intent"], rows)
    parts = split_by_article(json.loads(_find(source, "xquad.en.json")))
    for split, part in zip(("train", "test"), parts):
        _write(os.path.join(output, f"xquad/{split}.json"), json.dumps(part, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--source", required=True, help="folder with the published files")
    parser.add_argument("--output", required=True, help="folder to make")
    given = parser.parse_args()
    make(given.source, given.output)
