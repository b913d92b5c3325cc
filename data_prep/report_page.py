"""records_report.html: what records hold, in charts."""

import html as escaping

import numpy as np

from data_prep import charts
from data_prep.charts import share

_MOST_FREQUENT = 30
_BINS = 64

_STYLE = """
:root { color-scheme: light dark; --paper: #f6f6f3; --card: #ffffff; --ink: #1d2327; --muted: #667078; --line: #e2e3de;
  --c0: #2f6ea3; --c1: #e0923c; --c2: #6a9a5b; --c3: #9a6fb0; --c4: #b3b8bb; --c5: #c65b5b; }
@media (prefers-color-scheme: dark) { :root { --paper: #16191b; --card: #1f2427; --ink: #e6e9ea; --muted: #98a2a9;
  --line: #343b40; --c0: #6aaee0; --c1: #e5a55c; --c2: #8fbd7f; --c3: #bd97d0; --c4: #666f75; --c5: #e08383; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 28px 24px 48px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
h1 { font-size: 24px; margin: 0 0 2px; } h2 { font-size: 19px; margin: 34px 0 12px; }
h3 { font-size: 15px; margin: 0; } p { margin: 2px 0 10px; color: var(--muted); font-size: 13.5px; }
.tiles { display: grid; gap: 14px; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); margin-bottom: 14px; }
.cards { columns: 2 460px; column-gap: 14px; }
.cards > section { break-inside: avoid; margin-bottom: 14px; }
.tiles > div, .cards > section { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 14px 16px; }
.tiles b { display: block; font-size: 22px; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tiles span { color: var(--muted); font-size: 13.5px; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font-size: 12px; fill: var(--muted); font-variant-numeric: tabular-nums; }
svg .name { fill: var(--ink); font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
svg .note { fill: var(--c1); font-weight: 600; }
svg .grid { stroke: var(--line); } svg .mark { stroke: var(--c1); stroke-width: 1.5; stroke-dasharray: 5 4; }
svg .fill { fill: var(--c0); } svg .hit { fill: transparent; } svg .bar:hover .fill { fill: var(--c1); }
.part0 { fill: var(--c0); background: var(--c0); } .part1 { fill: var(--c1); background: var(--c1); }
.part2 { fill: var(--c2); background: var(--c2); } .part3 { fill: var(--c3); background: var(--c3); }
.part4 { fill: var(--c4); background: var(--c4); } .part5 { fill: var(--c5); background: var(--c5); }
.ribbon svg { border-radius: 4px; height: 26px; }
.ribbon ul { list-style: none; display: flex; flex-wrap: wrap; gap: 2px 18px; margin: 8px 0 16px; padding: 0;
  font-size: 13.5px; }
.ribbon i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 6px; }
.ribbon li span { color: var(--muted); }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
td, th { padding: 3px 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top;
  font-weight: normal; }
td { text-align: right; padding-left: 18px; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
thead th { color: var(--muted); text-align: right; } tr:last-child > * { border-bottom: 0; }
details { margin-top: 30px; } summary { cursor: pointer; font-size: 19px; font-weight: 600; margin-bottom: 12px; }
"""


def _e(text):
    return escaping.escape(str(text))


def _card(title, about, content):
    return f"<section><h3>{_e(title)}</h3><p>{_e(about)}</p>{content}</section>"


def _tiles(tiles):
    return f'<div class="tiles">{"".join(f"<div><b>{_e(v)}</b><span>{_e(k)}</span></div>" for k, v in tiles)}</div>'


def _table(rows, head=()):
    top = "<thead><tr>" + "".join(f"<th>{_e(name)}</th>" for name in head) + "</tr></thead>" if head else ""
    body = "".join(
        f"<tr><th>{_e(name)}</th>{''.join(f'<td>{_e(v)}</td>' for v in values)}</tr>" for name, *values in rows
    )
    return f"<table>{top}<tbody>{body}</tbody></table>"


def _at(counts, name, i):
    values = counts.get(name, ())
    return int(values[i]) if len(values) > i else 0


def _sum(counts, name):
    return int(np.sum(counts.get(name, 0)))


def _moment(values):
    """Sum of i * values[i]."""
    return int(np.arange(len(values)) @ values) if len(values) else 0


def _bins(first, last):
    """[(from, to)] that cut the whole numbers first..last into at most `_BINS` ranges of one size."""
    size = -(-(last - first + 1) // _BINS)
    return [(a, min(a + size - 1, last)) for a in range(first, last + 1, size)]


def _range(a, b):
    return f"{a}" if a == b else f"{a} to {b}"


def _axis(bins):
    """Round numbers below bars of ranges: {bar: number}."""
    names = {}
    for tick in charts.ticks(bins[-1][1], 8):
        names.update({i: f"{tick:g}" for i, (a, b) in enumerate(bins) if a <= tick <= b})
    return names


def _lengths(counts, length, packed):
    values = np.zeros(length + 1, np.int64)
    values[: len(counts["lengths"])] = counts["lengths"]
    bins = _bins(1, length)
    sums = [int(values[a : b + 1].sum()) for a, b in bins]
    tips = [f"{_range(*r)} tokens: {n:,} examples ({share(n, values.sum())})" for r, n in zip(bins, sums)]
    mean = _moment(values) / max(1, values.sum())
    about = f"Examples by their number of tokens, [CLS] and [SEP] counted; {mean:.1f} on average."
    if packed:
        in_rows = counts["examples_per_row"]
        about += f" Rows of {length} tokens hold {_moment(in_rows) / max(1, in_rows.sum()):.1f} of them on average."
    return _card("Lengths", about, charts.columns(sums, tips, _axis(bins), "tokens"))


def _positions(counts, length, prob):
    real, masked = (np.zeros(length, np.int64) for _ in range(2))
    real[: len(counts["real_at"])] = counts["real_at"]
    masked[: len(counts["masked_at"])] = counts["masked_at"]
    bins = _bins(0, length - 1)
    pairs = [(int(masked[a : b + 1].sum()), int(real[a : b + 1].sum())) for a, b in bins]
    tips = [f"position {_range(*r)}: {share(m, n)} of {n:,} tokens" for r, (m, n) in zip(bins, pairs)]
    shares = [100 * m / n if n else 0 for m, n in pairs]
    about = "Share of the tokens at each position that are masked. [CLS], [SEP] and unknown tokens never are."
    mark = (100 * prob, f"masked_lm_prob {charts.number(100 * prob)} %")
    return _card("Masks by position", about, charts.columns(shares, tips, _axis(bins), "position", " %", mark))


def _words(counts, unit):
    values = np.array(counts["words_together"])[1:]
    most = min(max(len(values), 5), 15)
    shown = [_at({"v": values}, "v", i) for i in range(most)]
    rest = int(values[most:].sum())
    shown[-1] += rest
    total = sum(shown)
    names = {i: str(i + 1) for i in range(most)}
    names[most - 1] += "+" if rest else ""
    tips = [f"{names[i]} words: {n:,} ({share(n, total)})" for i, n in enumerate(shown)]
    about = (
        f"Runs of masked neighbours by the words in them (mask_unit {unit}); units that happen to touch are one run."
    )
    return _card("Words masked together", about, charts.columns(shown, tips, names, "words"))


def _shares(counts, names, has_masks):
    parts = []
    if has_masks:
        kinds = ("[MASK]", "unchanged", "another word")
        of = [(name, _at(counts, "replaced", i)) for i, name in enumerate(kinds)]
        parts.append("<p>What the model sees at masked positions</p>" + charts.ribbon(of, "What the model sees"))
    if names:
        labels = [(name, _at(counts, "labels", i)) for i, name in enumerate(names)]
        parts.append("<p>Second segments</p>" + charts.ribbon(labels, "Second segments"))
    real = _sum(counts, "real_at")
    fill = [("tokens", real), ("padding", _at(counts, "slots", 0) - real)]
    parts.append("<p>Places in rows</p>" + charts.ribbon(fill, "Places in rows"))
    return f"<section><h3>Shares</h3>{''.join(parts)}</section>"


def _frequent(counts, vocabulary):
    tokens = np.zeros(len(vocabulary), np.int64)
    tokens[: len(counts["tokens"])] = counts["tokens"]
    tokens[[vocabulary.pad_id, vocabulary.cls_id, vocabulary.sep_id]] = 0
    total, used = int(tokens.sum()), int(np.count_nonzero(tokens))
    top = [int(i) for i in np.argsort(-tokens, kind="stable")[:_MOST_FREQUENT] if tokens[i]]
    notes = [f"{tokens[i]:,} ({share(int(tokens[i]), total)})" for i in top]
    names = [vocabulary.tokens[i] for i in top]
    about = f"The {len(top)} most frequent tokens before masking; {used:,} of {len(vocabulary):,} entries occur."
    return _card("Tokens", about, charts.rows(names, [int(tokens[i]) for i in top], notes, "most frequent tokens"))


def _split(about, counts, vocabulary, names):
    """The tiles and charts of a split."""
    masks = "masked_per_row" in counts
    examples, text = _sum(counts, "lengths"), _sum(counts, "tokens")
    special = sum(_at(counts, "tokens", i) for i in (vocabulary.pad_id, vocabulary.cls_id, vocabulary.sep_id))
    unknown, real = _at(counts, "tokens", vocabulary.unk_id), _sum(counts, "real_at")
    tiles = [("rows", f"{_at(counts, 'rows', 0):,}"), ("examples", f"{examples:,}"), ("tokens", f"{real:,}")]
    tiles.append(("of the places filled", share(real, _at(counts, "slots", 0))))
    tiles.append(("unknown tokens", share(unknown, text - special) if unknown else "none"))
    if masks:
        tiles.append(("of the tokens masked", share(_sum(counts, "masked_at"), real)))
    length = about["max_seq_length"]
    cards = [_lengths(counts, length, about["max_sequences_per_pack"])]
    if masks:
        cards += [_positions(counts, length, about["masked_lm_prob"]), _words(counts, about["mask_unit"])]
    cards += [_shares(counts, names, masks), _frequent(counts, vocabulary)]
    note = "" if masks else "<p>These records are not masked: training masks them anew in every epoch.</p>"
    return f'{note}{_tiles(tiles)}<div class="cards">{"".join(cards)}</div>'


_FATES = (
    ("train", "documents_train"),
    ("held out", "documents_held_out"),
    ("duplicates, dropped", "documents_duplicate"),
    ("without text", "documents_empty"),
    ("without tokens", "documents_without_tokens"),
)


def _corpus(about):
    """What became of each document, all counts of the corpus, and the configuration."""
    read = about["corpus"]
    fates = [(name, read[key]) for name, key in _FATES if read.get(key)]
    counted = [(key.replace("_", " "), f"{value:,}") for key, value in read.items()]
    flags = [(key, ", ".join(map(str, v)) if isinstance(v, (list, tuple)) else v) for key, v in about["config"].items()]
    splits = list(about["counts"])
    keys = list(dict.fromkeys(key for split in splits for key in about["counts"][split]))
    made = [(key.replace("_", " "), *(f"{about['counts'][s].get(key, 0):,}" for s in splits)) for key in keys]
    return "".join(
        (
            '<h2>Corpus and configuration</h2><div class="cards">',
            _card(
                "Documents",
                f"What became of the {read['documents_read']:,} documents of the corpus.",
                charts.ribbon(fates, "documents") + _table(counted),
            ),
            _card("Counts", "What the records hold.", _table(made, ("", *(s.replace("_", " ") for s in splits)))),
            _card(
                "Flags",
                f"The records are a function of these. Tokenizer {about['tokenizer_digest'][:12]}.",
                _table(flags),
            ),
            "</div>",
        )
    )


_LABELS = {"nsp": ("real next", "random"), "sop": ("in order", "swapped"), "none": ()}


def html(about, statistics, vocabulary):
    """The page.

    Args:
        about: What records.json holds.
        statistics: {split: `report.Statistics`}; a split without rows is left out.
        vocabulary: `Vocab`.

    Returns:
        An HTML document that needs no other file, no network and no script.
    """
    names, flags = _LABELS[about["sentence_objective"]], about["config"]
    source = ", ".join(flags.get("input_file") or ()) or flags.get("tfds") or flags.get("source", "")
    parts = [f"<h1>Records</h1><p>{_e(source)}</p>"]
    for split, of_split in statistics.items():
        if not of_split.counts:
            continue
        content, title = _split(about, of_split.counts, vocabulary, names), split.replace("_", " ")
        if split == "train":
            parts.append(f"<h2>Training</h2>{content}")
        else:
            parts.append(f"<details><summary>{_e(title.capitalize())}</summary>{content}</details>")
    parts.append(_corpus(about))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Records</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head>\n<body>{''.join(parts)}</body></html>\n"
    )
