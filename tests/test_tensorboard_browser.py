"""What TensorBoard serves of a run, asked for over HTTP, and what a person sees of it in a browser."""

import base64
import contextlib
import html
import itertools
import json
import re
import shutil
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request

import numpy as np
import pytest
from tensorboard import program

from tests import tiny
from tfbert import heads
from tfbert.text import vocab as vocab_lib
from tfbert.watching import guesses, hooks, progress, summaries

pytestmark = pytest.mark.slow  # whole programs, minutes in all

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
# The figures of a made-up run: what is looked at is how they are shown.
STEPS = range(10, 101, 10)
KILLED_AT, CHECKPOINT, FAULT, LAST = 70, 40, 80, 100
SAID = "a loss of 97.3 at step 80; went back to ckpt-60"
METRICS = ("masked_lm_accuracy", "masked_lm_loss", "next_sentence_accuracy", "next_sentence_loss", "loss")
SCALARS = ("learning_rate", "gradient_norm", "padding_share")
HPARAMS = {"learning_rate": 1e-4, "train_batch_size": 32, "input_file": ["a", "b"], "model": "", "max_eval_steps": None}
PARTS = ("embeddings", "layer_00", "layer_01", "pooler", "heads")
WORDS = ("the", "function", "returns", "value", "list", "of", "object", "##s", "file", "|")


def figures(step, shift):
    share = step / LAST
    falling, rising = 7 - 3 * share + shift, 0.4 * share + shift / 10
    return {name: rising if "accuracy" in name else falling for name in METRICS}


def train(run_dir, resume_step, last):
    """Reports made-up figures to the hooks of a run, from a checkpoint to a step."""
    vocab = vocab_lib.Vocab((*vocab_lib.SPECIAL_TOKENS, *WORDS, *(f"word{i}" for i in range(tiny.V - len(WORDS) - 5))))
    model = tiny.randomize(heads.build_pretrainer(tiny.config()))
    counts = np.arange(tiny.V) ** 2
    watched = progress.Watched(
        run_dir, LAST, 32, resume_step, HPARAMS, model, tiny.features(), vocab, wordpiece_counts=counts
    )
    made = hooks.of_run(watched)
    for step in STEPS:
        if (resume_step or 0) < step <= last:
            others = {"learning_rate": 1e-4 * step, "gradient_norm": 1.0, "padding_share": 0.1}
            others |= {f"gradient_norm/{part}": step / LAST + place for place, part in enumerate(PARTS)}
            for hook in made:
                hook(step, {**figures(step, 0.0), **others}, "train")
            if step % 20 == 0:
                tiny.randomize(model, seed=step)
                for hook in made:
                    hook(step, figures(step, 0.2), "held_out")
            if step == FAULT:
                (panel,) = (hook for hook in made if isinstance(hook, summaries.TensorBoard))
                panel.event(step, "rollback", SAID)
    for hook in made:
        hook.close()
    return guesses.masked_guesses(model, tiny.features(), vocab)


@contextlib.contextmanager
def server(command, ready):
    """Starts a program that serves; gives the match of the pattern `ready` in what it says."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, text=True)
        try:
            yield waited(lambda: re.search(ready, said(log)), lambda: said(log))
        finally:
            process.terminate()
            process.wait()


def said(log):
    log.seek(0)
    return log.read()


def waited(look, tell, seconds=90):
    """The first true result of `look`; fails with what `tell` gives when it takes too long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.05)
    pytest.fail(f"took longer than {seconds} s: {tell()}")


def ask(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(run folder, last guesses) of a run that was killed and went on."""
    run_dir = tmp_path_factory.mktemp("run")
    train(run_dir, None, KILLED_AT)
    for file in run_dir.glob("tensorboard/*/*"):  # names begin with the second; a restart takes longer than one
        file.rename(re.sub(r"tfevents\.[0-9]+", "tfevents.1700000000", str(file)))
    return run_dir, train(run_dir, CHECKPOINT, LAST)


@pytest.fixture(scope="module", params=["true", pytest.param("false", marks=pytest.mark.slow)])
def tensorboard(request, run):
    """The address of a TensorBoard that has read the run, with its fast loader or without.

    It serves from a thread of this process: as a process it would import TensorFlow first.
    """
    board = program.TensorBoard()
    flags = [f"--logdir={run[0] / 'tensorboard'}", "--port=0", "--host=127.0.0.1"]
    board.configure([None, *flags, f"--load_fast={request.param}", "--reload_interval=0"])  # reads all once
    address = board.launch().rstrip("/")
    page = address + "/data/plugin/scalars/tags"
    waited(lambda: all(ask(page).get(split) for split in ("train", "held_out")), lambda: ask(page))
    return address


class TestServed:
    """What TensorBoard's own pages ask its server for."""

    def get(self, address, page, **query):
        return ask(f"{address}/data/plugin/{page}?{urllib.parse.urlencode(query)}")

    def test_scalars(self, tensorboard):
        tags = self.get(tensorboard, "scalars/tags")
        quality = {f"quality/{name}" for name in METRICS}
        speed = {"training/sequences_per_second"}
        assert set(tags) == {"train", "held_out"}
        assert set(tags["held_out"]) == quality  # the same tags: each chart shows both curves
        of_parts = {f"training.{name}_norm/{part}" for name in ("gradient", "weight") for part in PARTS}
        of_parts |= {f"training.attention_entropy/layer_{i:02}" for i in range(tiny.LAYERS)}
        training = {f"training/{name}" for name in SCALARS} | speed | of_parts
        assert set(tags["train"]) == quality | training | {"events/rollback"}
        assert "gradient before it is clipped" in tags["train"]["training.gradient_norm/pooler"]["description"]

    def test_a_killed_run_has_one_curve(self, tensorboard):
        for split, shift in (("train", 0.0), ("held_out", 0.2)):
            steps = STEPS if split == "train" else [s for s in STEPS if s % 20 == 0]
            for name in METRICS:
                # Rows of wall time, step, value.
                rows = self.get(tensorboard, "scalars/scalars", run=split, tag=f"quality/{name}")
                assert [row[1] for row in rows] == list(steps)
                assert [row[2] for row in rows] == pytest.approx([figures(s, shift)[name] for s in steps])

    def test_guesses(self, tensorboard, run):
        assert self.get(tensorboard, "text/tags") == {"held_out": ["held_out_guesses"], "train": ["events"]}
        rows = self.get(tensorboard, "text/text", run="held_out", tag="held_out_guesses")
        assert [row["step"] for row in rows] == [20, 40, 60, 80, 100]
        page = rows[-1]["text"]
        assert page.count("<table>") == tiny.B
        assert page.count("<tr>") == sum(1 + len(record.masked) for record in run[1])
        truth = run[1][0].masked[0].truth
        assert f"<strong>{truth}</strong>" in page

    def test_histograms(self, tensorboard):
        tags = self.get(tensorboard, "histograms/tags")["held_out"]
        assert {tag.split("/")[0] for tag in tags} == {
            "weights.embeddings",
            "weights.layer_00",
            "weights.layer_01",
            "weights.pooler",
            "weights.cls.predictions",
            "weights.cls.seq_relationship",
        }
        rows = self.get(tensorboard, "histograms/histograms", run="held_out", tag="weights.embeddings/word_embeddings")
        assert [row[1] for row in rows] == [20, 40, 60, 80, 100]
        assert sum(count for _, _, count in rows[0][2]) == tiny.V * tiny.D

    def test_events(self, tensorboard):
        ((row),) = self.get(tensorboard, "text/text", run="train", tag="events")
        assert row["step"] == FAULT and "rollback" in row["text"] and SAID in html.unescape(row["text"])

    def test_one_chart_has_all_parts(self, tensorboard):
        layout = self.get(tensorboard, "custom_scalars/layout")
        charts = {chart["title"]: chart for category in layout["category"] for chart in category["chart"]}
        (pattern,) = charts["gradient norm of each part"]["multiline"]["tag"]
        lines = self.get(tensorboard, "custom_scalars/scalars", run="train", tag=pattern)["tag_to_events"]
        assert set(lines) == {f"training.gradient_norm/{part}" for part in PARTS}
        assert [row[1] for row in lines["training.gradient_norm/layer_01"]] == list(STEPS)

    def test_projector(self, tensorboard):
        query = {"run": "held_out", "name": f"word_embeddings_at_{LAST}"}
        assert self.get(tensorboard, "projector/runs") == ["held_out"]
        (table,) = self.get(tensorboard, "projector/info", **query)["embeddings"]
        assert (table["tensorName"], table["tensorShape"]) == (query["name"], [tiny.V, tiny.D])
        address = f"{tensorboard}/data/plugin/projector/metadata?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(address, timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        assert lines[0].split("\t")[:2] == ["wordpiece", "log10 of frequency"] and len(lines) == 1 + tiny.V
        assert lines[1].split("\t")[:3] == [f"word{tiny.V - len(WORDS) - 6}", "3.965", str((tiny.V - 1) ** 2)]

    def test_hparams(self, tensorboard, run):
        expected = {"learning_rate": 1e-4, "train_batch_size": 32, "input_file": "a,b"}  # what is set
        experiment = ask(tensorboard + "/data/plugin/hparams/experiment", {"experimentName": ""})
        assert [info["name"] for info in experiment["hparamInfos"]] == sorted(expected)
        statuses = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]
        columns = [{"metric": info["name"]} for info in experiment["metricInfos"]]
        query = {"experimentName": "", "allowedStatuses": statuses, "colParams": columns, "startIndex": 0}
        groups = ask(tensorboard + "/data/plugin/hparams/session_groups", {**query, "sliceSize": 10})
        (group,) = groups["sessionGroups"]
        assert group["name"] == f"{run[0].name} in {run[0].parent}"
        assert group["hparams"] == expected
        values = {v["name"]["tag"]: v["value"] for v in group["metricValues"]}
        assert values == pytest.approx({f"quality/{name}": figures(LAST, 0.2)[name] for name in METRICS})


# What a person can read on the page, without spaces. TensorBoard's parts are shadow trees, which `innerText`
# leaves out.
READ = """
const hidden = new Set(['STYLE', 'SCRIPT', 'NOSCRIPT', 'TEMPLATE', 'DOM-MODULE']);
function read(node) {
  if (node.nodeType === Node.TEXT_NODE) return node.data;
  if (hidden.has(node.nodeName)) return '';
  if (node.nodeType === Node.ELEMENT_NODE && getComputedStyle(node).display === 'none') return '';
  const inside = node.shadowRoot ? [node.shadowRoot] : [];
  return [...inside, ...node.childNodes].map(read).join('');
}
return read(document.body).replace(/\\s+/g, '');
"""


class Page:
    """A browser's window, over the WebDriver protocol."""

    def __init__(self, driver, profile):
        flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
        flags += "--disable-component-update --disable-sync --window-size=1500,1400 --user-data-dir="
        options = {"binary": BROWSER, "args": (flags + str(profile)).split()}
        capabilities = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
        self._session = f"{driver}/session/" + ask(f"{driver}/session", capabilities)["value"]["sessionId"]
        self._visits = itertools.count()

    def visit(self, url, panel):
        # A new query makes the browser load the page anew, and not only follow the fragment.
        ask(self._session + "/url", {"url": f"{url}/?visit={next(self._visits)}#{panel}"})

    def text(self):
        return ask(self._session + "/execute/sync", {"script": READ, "args": []})["value"]

    def shows(self, words):
        text = self.text()
        return all(word.replace(" ", "") in text for word in words)

    def screenshot(self, path):
        path.write_bytes(base64.b64decode(ask(self._session + "/screenshot")["value"]))

    def close(self):
        urllib.request.urlopen(urllib.request.Request(self._session, method="DELETE"), timeout=60).close()


@pytest.mark.slow
@pytest.mark.skipif(
    not (BROWSER and DRIVER),
    reason="needs a browser and its driver: apt-get install chromium chromium-driver",
)
@pytest.mark.parametrize("tensorboard", ["true"], indirect=True)
def test_a_person_sees_it(tensorboard, run, tmp_path):
    """Opens each panel, waits for its words, and keeps pictures in pytest's folder of this test."""
    with server([DRIVER, "--port=0"], r"started successfully on port (\d+)") as match:
        page = Page(f"http://127.0.0.1:{match[1]}", tmp_path / "profile")
        try:
            first = run[1][0]
            expected = {
                "timeseries": ["quality/masked_lm_accuracy", "quality/next_sentence_loss", "held_out", "train"],
                "scalars": ["quality/masked_lm_accuracy", "quality/loss", "training"],
                "histograms": ["weights.layer_00", "weights.layer_01", "weights.embeddings"],
                "custom_scalars": ["gradient norm of each part", "attention entropy of each layer", "Matches"],
                "text": [
                    "events",
                    "rollback",
                    SAID,
                    "held_out_guesses",
                    "the model saw",
                    first.masked[0].truth,
                    "⟦1⟧",
                    "guess 5",
                ],
                "hparams": ["learning_rate", "train_batch_size", "quality/masked_lm_accuracy"],
            }
            for panel, words in expected.items():
                page.visit(tensorboard, panel)
                waited(lambda words=words: page.shows(words), page.text, seconds=60)
                page.screenshot(tmp_path / f"{panel}.png")
        finally:
            page.close()
