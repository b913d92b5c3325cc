"""The lines of a report of runs: what came out, what the model answers, the recipe and the environment."""

import typing

import numpy as np

from tfbert.watching import progress, run_logs

NOTHING = "-"
# Flags that say where things lie, and no recipe.
_PLACES = ("output_dir",)


class Run(typing.NamedTuple):
    """A run as a report shows it.

    Attributes:
        name: Short, and its own among the runs of the report.
        logs: Its `RunLogs`.
        parameters: Numbers that the model learns; None without a checkpoint.
        step: Of the checkpoint that answered; None without one.
        answers: For each text of the report, for each of its masks, [(wordpiece, probability)], best first.
    """

    name: str
    logs: run_logs.RunLogs
    parameters: int | None
    step: int | None
    answers: tuple


def fitted(text, width):
    """Text in `width` letters: what is too long loses its middle."""
    if len(text) <= width:
        return text.ljust(width)
    tail = (width - 1) // 2
    return text[: width - 1 - tail] + "…" + text[len(text) - tail :]


def table(rows, room):
    """Rows of cells as lines: columns as wide as their widest cell, the first cut so that lines fit in `room`."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    widths[0] = max(8, min(widths[0], room - sum(widths[1:]) - 2 * (len(widths) - 1)))
    return tuple(
        "  ".join(fitted(c, w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))).rstrip()
        for row in rows
    )


# --- What came out ------------------------------------------------------------------------------------


def last(logs, name, split):
    """The last value of a metric that is a number, or None."""
    _, values = logs.series(name, split)
    values = values[np.isfinite(values)]
    return values[-1] if len(values) else None


def shown(value, pattern, factor=1):
    """A number in a pattern; `NOTHING` for None."""
    return NOTHING if value is None else pattern.format(factor * value)


def duration(seconds):
    """Seconds as people write them; `NOTHING` for none."""
    return progress.duration(float(seconds)) if seconds else NOTHING


def typical(logs, name):
    """The median of what speed.jsonl holds; the first lap, which holds compilation, counts only alone."""
    _, values = logs.speeds(name)
    return np.median(values[1:] if len(values) > 1 else values) if len(values) else None


def _evaluated_on(run):
    """What tells the records that a run is evaluated on from others."""
    about = run.logs.config.get("records", {}).get("held_out") or {}
    flags = run.logs.flags
    batches = flags.get("max_eval_steps")
    rows = batches and batches * flags["eval_batch_size"]
    return about.get("instances"), about.get("bytes"), about.get("tokenizer_digest"), rows


def _held_out_alike(runs):
    """Whether all runs were evaluated on the same records, as far as their configurations tell."""
    return len({_evaluated_on(run) for run in runs}) == 1


def _common_loss(runs):
    """The lowest held-out MLM loss that each run came to; None for one run, or if they cannot be compared."""
    if not _held_out_alike(runs):
        return None
    lowest = [np.nanmin(run.logs.series("masked_lm_loss", run_logs.HELD_OUT)[1], initial=np.inf) for run in runs]
    return max(lowest) if len(runs) > 1 and np.isfinite(lowest).all() else None


def seconds_to(logs, loss):
    """Seconds of training until the held-out MLM loss first was as low; between evaluations it falls evenly."""
    steps, losses = logs.series("masked_lm_loss", run_logs.HELD_OUT)
    steps, losses = steps[np.isfinite(losses)], losses[np.isfinite(losses)]
    seconds = logs.seconds_at(steps)
    first = int(np.argmax(losses <= loss))
    if first == 0:
        return float(seconds[0])
    before = slice(first - 1, first + 1)
    return float(np.interp(-loss, -losses[before], seconds[before]))


def results(runs, room):
    """A table of what came out of each run: its heading, then one line a run.

    The last column says how long each took to the loss that all of them reached: what recipes are compared by. A
    last line says if the runs were not evaluated on the same records.
    """
    common = _common_loss(runs)
    heads = ["run", "parameters", "steps", "trained for", "seq/s", "tokens/s", "padding", "input wait"]
    heads += ["MLM loss", "MLM accuracy", "NSP accuracy"]
    rows = [heads + ([f"time to loss {common:.3f}"] if common is not None else [])]
    for run in runs:
        logs = run.logs
        rows.append(
            [
                run.name,
                shown(run.parameters, "{:,}"),
                f"{logs.last_step:,}",
                duration(logs.seconds_at(logs.last_step)),
                shown(typical(logs, "sequences_per_second"), "{:,.1f}"),
                shown(typical(logs, "tokens_per_second"), "{:,.0f}"),
                shown(last(logs, "padding_share", run_logs.TRAIN), "{:.1f} %", 100),
                shown(typical(logs, "input_wait_share"), "{:.1f} %", 100),
                shown(last(logs, "masked_lm_loss", run_logs.HELD_OUT), "{:.3f}"),
                shown(last(logs, "masked_lm_accuracy", run_logs.HELD_OUT), "{:.1f} %", 100),
                shown(last(logs, "next_sentence_accuracy", run_logs.HELD_OUT), "{:.1f} %", 100),
                *([duration(seconds_to(logs, common))] if common is not None else []),
            ]
        )
    unlike = () if _held_out_alike(runs) else ("note: held-out records differ from run to run: losses do not compare",)
    return (*table(rows, room), *unlike)


# --- What the model answers ---------------------------------------------------------------------------


def answers(runs, texts, room):
    """The texts, and below each what the last checkpoint of each run fills its masks with."""
    lines = []
    named = min(30, max(len(run.name) for run in runs)) if len(runs) > 1 else 0
    for i, text in enumerate(texts):
        lines += [""] if lines else []
        lines.append(fitted(text, room).rstrip())
        for run in runs:
            before = f"  {fitted(run.name, named)}" if named else " "
            if run.step is None:
                lines.append(f"{before} no checkpoint yet")
                continue
            for number, words in enumerate(run.answers[i], 1):
                mask = f"[MASK] {number}:" if len(run.answers[i]) > 1 else ""
                cells = "   ".join(f"{word} {100 * p:.1f} %" for word, p in words)
                lines.append(fitted(f"{before} {mask} {cells}", room).rstrip())
            if not run.answers[i]:
                lines.append(f"{before} (no [MASK] in this text)")
    return tuple(lines)


# --- Recipe and environment ---------------------------------------------------------------------------


def _value(value):
    if isinstance(value, list):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _flags(run):
    """{flag: text} of what is set."""
    flags = run.logs.flags
    return {n: _value(v) for n, v in flags.items() if v not in (None, "", []) and n not in _PLACES}


def _model(run):
    """The encoder's sizes in a line."""
    e = run.logs.config["encoder"]
    dropout = f"{e.get('hidden_dropout_prob', 0):g} and {e.get('attention_probs_dropout_prob', 0):g} in attention"
    return (
        f"{e['num_hidden_layers']} layers, hidden size {e['hidden_size']}, {e['num_attention_heads']} heads, "
        f"intermediate size {e['intermediate_size']}, vocabulary {e['vocab_size']:,}, "
        f"{e['max_position_embeddings']} positions, {e['hidden_act']}, dropout {dropout}"
    )


def _records(run):
    """The records in a line."""
    about = run.logs.config.get("records", {})
    train, held_out = about.get("train") or {}, about.get("held_out") or {}
    parts = [f"{train['instances']:,} rows to train on"] if "instances" in train else []
    parts.append(f"{held_out['instances']:,} held out" if "instances" in held_out else "none held out")
    if "max_seq_length" in about:
        parts.append(f"{about['max_seq_length']} tokens a row")
    if "max_predictions_per_seq" in about:
        parts.append(f"at most {about['max_predictions_per_seq']} masked")
    if train.get("max_sequences_per_pack"):
        parts.append(f"up to {train['max_sequences_per_pack']} examples a row")
    if train.get("masking"):
        parts.append("masked anew in every epoch")
    parts.append({"sop": "sentence order", "none": "MLM alone"}.get(train.get("sentence_objective"), "next sentence"))
    return ", ".join(parts)


def _environment(run):
    """Versions and machine in a line."""
    versions = run.logs.config.get("versions") or {}
    machine = run.logs.config.get("machine")
    parts = [f"{name} {version}" for name, version in versions.items()]
    if machine:
        parts += [machine["cpu"], f"{machine['cores']} cores", f"{machine['memory_gb']:g} GB", *machine["devices"]]
    else:
        parts.append("machine not recorded")
    return ", ".join(parts)


def _about(runs, describe):
    """One line if it holds for all runs, else one a run."""
    described = [describe(run) for run in runs]
    if len(set(described)) == 1:
        return [described[0]]
    named = min(30, max(len(run.name) for run in runs))
    return [f"{fitted(run.name, named)}  {text}" for run, text in zip(runs, described)]


def wrapped(lines, room):
    """Lines broken at commas and spaces, their continuations indented."""
    out = []
    for line in lines:
        while len(line) > room:
            cut = line.rfind(" ", 0, room)
            cut = cut if cut > 8 else room
            out.append(line[:cut].rstrip())
            line = "    " + line[cut:].lstrip()
        out.append(line)
    return tuple(out)


def _in_columns(cells, room, columns=4):
    """Cells in columns, downwards."""
    width = (room - 2 * (columns - 1)) // columns
    count = -(-len(cells) // columns)
    return ["  ".join(fitted(cells[i], width) for i in range(row, len(cells), count)).rstrip() for row in range(count)]


def recipe(runs, room, describe_data=_records):
    """Model, data, and the flags that are set: first those in which runs differ.

    Args:
        runs: The runs.
        room: Letters of a line.
        describe_data: run -> what it was trained on, in a line.
    """
    model, records = (wrapped(_about(runs, describe), room) for describe in (_model, describe_data))
    lines = [*model, *([""] if len(model) > 1 else []), *records, ""]
    flags = [_flags(run) for run in runs]
    names = list(dict.fromkeys(name for f in flags for name in f))
    differing = [n for n in names if len({f.get(n) for f in flags}) > 1]
    if differing:
        width = max(12, (room - 30) // len(runs) - 2)
        rows = [["differing flag", *(fitted(run.name, width).strip() for run in runs)]]
        rows += [[n, *(fitted(f.get(n, NOTHING), width).strip() for f in flags)] for n in differing]
        lines += [*table(rows, room), "", "the same in all:"]
    same = [f"{name}={flags[0][name]}" for name in names if name not in differing]
    return (*lines, *_in_columns(same, room))


def environment(runs, room):
    """Versions, processor and devices, and what is to be known of the files."""
    notes = [f"note: {run.name}: {note}" for run in runs for note in run.logs.notes]
    return wrapped([*_about(runs, _environment), *notes], room)
