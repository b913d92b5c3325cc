"""What the page of a report shows of one run, and what of several that are compared."""

from tfbert.watching import report_texts
from tfbert.watching.report_figures import COLOURS, COLUMNS, MARKS, REFERENCE, Curve, Panel, Row, Style, Text, page
from tfbert.watching.run_logs import HELD_OUT, TRAIN

_STEPS = "optimizer step"
_REFERENCES = "to compare with: the commonest wordpiece for MLM, a coin for the second task, the bound of the gradient"
LOSSES = "losses may lie above their panel in the first tenth of a run"


class Panels:
    """Makes panels of runs.

    Args:
        runs: `report_texts.Run`s.
    """

    def __init__(self, runs):
        self._runs = runs
        longest = max(float(run.logs.seconds_at(run.logs.last_step)) for run in runs)
        units = ((3 * 3600, 3600, "hours"), (180, 60, "minutes"), (0, 1, "seconds"))
        self._second, unit = next((length, name) for least, length, name in units if longest >= least)
        self.over_time = f"training time ({unit})"

    def styles(self, index):
        """{split: `Style`} of a run: of one alone two colours, of several one colour each.

        Among several, training is a pale thin line, unless the run has nothing else to compare by.
        """
        alone = len(self._runs) == 1
        colour = COLOURS[index]
        if alone or not self._runs[index].logs.metrics[HELD_OUT]:
            train = Style(colour)
        else:
            train = Style(colour, width=1.0, alpha=0.5)
        return {TRAIN: train, HELD_OUT: Style(COLOURS[1] if alone else colour, mark=MARKS[index])}

    def _over(self, name, split, over_time, factor=1.0):
        """[(steps or time, values)] of each run."""
        points = [run.logs.series(name, split) for run in self._runs]
        if over_time:
            points = [(run.logs.seconds_at(x) / self._second, y) for run, (x, y) in zip(self._runs, points)]
        return [(x, factor * y) for x, y in points]

    def panel(self, title, unit, name, split=TRAIN, factor=1.0, **more):
        """A panel of what has one curve a run; `split` None is of speed.jsonl, and over time."""
        over_time = split is None
        points = self._over(name, split, over_time, factor)
        curves = tuple(Curve(*xy, Style(COLOURS[i])) for i, xy in enumerate(points) if len(xy[0]))
        return Panel(title, unit, self.over_time if over_time else _STEPS, curves, **more)

    def quality(self, name, over_time=False):
        """The panel of a loss or an accuracy, in training and held out."""
        second = "Sentence order" if self._has_sentence_order() else "Next sentence"
        title = f"{'Masked LM' if name.startswith('masked') else second}: {'loss' if 'loss' in name else 'accuracy'}"
        unit, factor = ("nats", 1.0) if "loss" in name else ("%", 100.0)
        curves = [
            Curve(*xy, self.styles(i)[split])
            for split in (TRAIN, HELD_OUT)
            for i, xy in enumerate(self._over(name, split, over_time, factor))
            if len(xy[0])
        ]
        over = self.over_time if over_time else _STEPS
        return Panel(title, unit, over, tuple(curves), self._reference(name), falling="loss" in name)

    def _has_sentence_order(self):
        trained_on = [(run.logs.config.get("records", {}).get("train") or {}) for run in self._runs]
        return all(about.get("sentence_objective") == "sop" for about in trained_on)

    def _reference(self, name):
        """What an accuracy is compared with: the commonest wordpiece, or a coin."""
        if name == "next_sentence_accuracy":
            return 50.0
        found = [run.logs.series("masked_lm_unigram_accuracy", HELD_OUT)[1] for run in self._runs]
        known = {round(100 * float(values[-1]), 2) for values in found if len(values)}
        # Runs that were held to different records have no one value.
        return known.pop() if name == "masked_lm_accuracy" and len(known) == 1 else None

    def speed(self):
        """Panels of throughput, learning rate, gradient norm, padding and input wait."""
        clips = {run.logs.flags.get("clip_norm") for run in self._runs}
        clip = clips.pop() if len(clips) == 1 else None
        return (
            self.panel("Throughput", "sequences/s", "sequences_per_second", None, from_zero=True),
            self.panel("Learning rate", "rate", "learning_rate", from_zero=True),
            self.panel("Gradient norm", "norm", "gradient_norm", from_zero=True, reference=clip or None),
            self.panel("Padding", "% of the tokens", "padding_share", factor=100.0, from_zero=True),
            self.panel("Input wait", "% of the time", "input_wait_share", None, 100.0, from_zero=True),
        )


def _curves(panels, runs):
    """The key and the rows of panels."""
    sentences = any(len(run.logs.series("next_sentence_loss", s)[0]) for run in runs for s in (TRAIN, HELD_OUT))
    tasks = ("masked_lm", "next_sentence") if sentences else ("masked_lm",)
    names = [f"{task}_{what}" for task in tasks for what in ("loss", "accuracy")]
    if len(runs) == 1:
        styles = panels.styles(0)
        samples = {0: styles[TRAIN], 1: styles[HELD_OUT], 2: REFERENCE}
        key = Text("", ("in training", f"held out ({LOSSES})", _REFERENCES), samples)
        rows = [Row(tuple(panels.quality(name) for name in names))]
    else:
        lines = (f"curves with marks: held out; pale ones: in training; {LOSSES}", _REFERENCES)
        key = Text("", lines, {1: REFERENCE})
        rows = [Row((panels.quality(n), panels.quality(n, True)), 3.4) for n in names[:2]]
        if sentences:
            rows.append(Row(tuple(panels.quality(n, t) for n in names[2:] for t in (False, True))))
    return [key, *rows, Row(panels.speed())]


def draw(runs, texts):
    """The matplotlib `Figure` of a page about runs.

    Args:
        runs: `report_texts.Run`s, as many as there are colours at most.
        texts: What they have answered.
    """
    panels, room, several = Panels(runs), COLUMNS, len(runs) > 1
    samples = {i + 1: panels.styles(i)[HELD_OUT] for i in range(len(runs))} if several else {}
    steps = {run.step for run in runs}
    asked = f" of step {steps.pop():,}" if len(steps) == 1 and None not in steps else ""
    blocks = [
        Text("Results (loss and accuracies: held out)", report_texts.results(runs, room), samples),
        *_curves(panels, runs),
        Text(f"What the last checkpoint{asked} fills in", report_texts.answers(runs, texts, room)),
        Text("Recipe", report_texts.recipe(runs, room)),
        Text("Environment", report_texts.environment(runs, room)),
    ]
    title = f"{len(runs)} runs compared" if several else f"Run {runs[0].logs.dir}"
    return page(report_texts.fitted(title, 100).rstrip(), blocks)
