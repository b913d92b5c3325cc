"""Tests of export.playground: what it serves, and what a person sees in a browser."""

import contextlib
import http.server
import json
import threading
import urllib.error
import urllib.request

import pytest

from export import playground, rest_api
from tests.test_tensorboard_browser import BROWSER, DRIVER, Page, ask, server, waited
from tfbert import checks

TEXT = "naïve Ada 🙂 met <b>Bob</b>"


def at(text, part):
    """{"starts", "ends"} of a part of a text, in bytes."""
    start = len(text[: text.index(part)].encode())
    return start, start + len(part.encode())


def pieces(row):
    """What `tokenize` says of a text: words, cut in two behind their fourth letter."""
    out, place = [], 0
    for word in row["text"].split():
        place = row["text"].index(word, place)
        start = len(row["text"][:place].encode())
        cut = len(word[:4].encode())
        out.append((word[:4], start, start + cut))
        if word[4:]:
            out.append(("##" + word[4:], start + cut, start + len(word.encode())))
    tokens, starts, ends = zip(*[*out, ("", -1, -1)])
    return {"tokens": tokens, "ids": list(range(len(tokens))), "starts": starts, "ends": ends}


def fill(row):
    masks = row["text"].count("[MASK]")
    return {
        "tokens": [["fox", "dog"], ["<i>hen</i>", "cat"]][: masks or 1],
        "ids": [[3, 4]] * (masks or 1),
        "probabilities": [[0.75, 0.0004]] * (masks or 1),
        "positions": [4, 6][:masks] or [-1],
        "mask_count": masks,
        "truncated": len(row["text"]) > 60,
    }


def tag(row):
    words = row["text"].split()
    tags = ["B-PER" if word == "Ada" else "O" for word in words]
    offsets = [at(row["text"], word) for word in words]
    return {
        "words": [*words, ""],
        "tags": [*tags, ""],
        "starts": [*(start for start, _ in offsets), -1],
        "ends": [*(end for _, end in offsets), -1],
        "probabilities": [0.9] * len(words) + [0],
        "truncated": False,
    }


def find(row):
    spans = [at(row["context"], part) for part in ("Ada", "Ada 🙂 met")]
    return {
        "answer": "" if row["question"] == "none" else "Ada",
        "answers": ["Ada", "Ada 🙂 met", ""],
        "starts": [spans[0][0], spans[1][0], -1],
        "ends": [spans[0][1], spans[1][1], -1],
        "scores": [5.0, 3.0, 0.0],
        "probabilities": [0.8, 0.15, 0.0],
        "null_odds": -2.5,
        "truncated": False,
    }


# name: (inputs, what it answers to a row)
MODELS = {
    "fills": (["text"], fill),
    "labels": (["text", "text_pair"], lambda row: {"labels": ["late", "lost"], "probabilities": [0.96, 0.04]}),
    "scores": (["text", "text_pair"], lambda row: {"score": 4.25}),
    "tags": (["text"], tag),
    "finds": (["question", "context"], find),
}


class ModelServer(http.server.BaseHTTPRequestHandler):
    """A model server with canned answers, in the shape of TensorFlow Serving's."""

    def log_message(self, *args):
        pass

    def reply(self, status, value):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        name = self.path.split("/")[3]
        if name not in MODELS or not self.path.endswith("/metadata"):
            return self.reply(404, {"error": f"Servable not found for request: Latest({name})"})
        inputs, answer = MODELS[name]
        outputs = answer(dict.fromkeys(inputs, TEXT))
        signatures = {
            "serving_default": {"inputs": {n: {} for n in inputs}, "outputs": {n: {} for n in outputs}},
            "tokenize": {"inputs": {"text": {}}, "outputs": {n: {} for n in ("tokens", "ids", "starts", "ends")}},
        }
        spec = {"name": name, "signature_name": "", "version": "7"}
        self.reply(200, {"model_spec": spec, "metadata": {"signature_def": {"signature_def": signatures}}})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body["instances"][0].get("text") == "refuse":
            return self.reply(400, {"error": "input text must be <b>string</b>"})
        answer = MODELS[self.path.split("/")[3].split(":")[0]][1]
        if body["signature_name"] == "tokenize":
            answer = pieces
        rows = [answer(row) for row in body["instances"]]
        self.reply(200, {"predictions": [next(iter(r.values())) if len(r) == 1 else r for r in rows]})


@contextlib.contextmanager
def serving(listening):
    """Runs an HTTP server in a thread; gives its address."""
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    try:
        yield "http://{}:{}".format(*listening.server_address[:2])
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()


@pytest.fixture(scope="module")
def upstream():
    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), ModelServer)) as address:
        yield address


@contextlib.contextmanager
def playing(**flags):
    with serving(playground.server_of(playground.PlaygroundConfig(port=0, **flags))) as address:
        yield address


def refused(address, body=None, **headers):
    """(status, JSON) of a request that is refused."""
    request = urllib.request.Request(address, body, headers)
    with pytest.raises(urllib.error.HTTPError) as e:
        urllib.request.urlopen(request, timeout=30)
    with e.value as answer:
        return answer.code, json.load(answer)


class TestServed:
    def test_page_loads_nothing_from_elsewhere(self, upstream):
        with playing(server=upstream, model_name="fills") as address:
            for path in ("/", "/playground.css", "/playground.js"):
                with urllib.request.urlopen(address + path, timeout=30) as answer:
                    policy, text = answer.headers["Content-Security-Policy"], answer.read().decode()
                assert "default-src 'self'" in policy and "unsafe" not in policy
                assert "://" not in text
                assert "innerHTML" not in text and "eval(" not in text
            for path in ("/../playground.py", "/monitoring/prometheus/metrics", "/v1/"):
                assert refused(address + path)[0] == refused(address + path, b"{}")[0] == 404

    def test_hands_on_what_the_server_says(self, upstream):
        with playing(server=upstream + "/", model_name="scores") as address:
            assert ask(address + "/settings.json") == {"path": "v1/models/scores", "source": upstream + "/"}
            predict = address + "/v1/models/scores:predict"
            body = {"signature_name": "serving_default", "instances": [{"text": "a", "text_pair": "b"}]}
            assert ask(predict, body) == {"predictions": [4.25]}
            body["instances"] = [{"text": "refuse"}]
            assert refused(predict, json.dumps(body).encode()) == (400, {"error": "input text must be <b>string</b>"})

    def test_says_that_the_server_is_down(self):
        with playing(server="http://127.0.0.1:9") as address:
            status, told = refused(address + "/v1/models/bert/metadata")
        assert status == 502 and "127.0.0.1:9 does not answer" in told["error"]

    def test_answers_to_names_of_this_machine_only(self, upstream):
        """Else a page of the web could reach it, by a name of its own that leads to 127.0.0.1."""
        with playing(server=upstream, model_name="fills") as address:
            for host in ("evil.example", "127.0.0.1.evil.example", ""):
                assert refused(address + "/", Host=host)[0] == 403
                assert refused(address + "/v1/models/fills:predict", b"{}", Host=host)[0] == 403
            request = urllib.request.Request(address, headers={"Host": "localhost:8600"})
            assert urllib.request.urlopen(request, timeout=30).status == 200

    def test_bodies_are_bounded(self, upstream):
        with playing(server=upstream, model_name="fills") as address:
            for length in (str(rest_api.MAX_BODY + 1), "-1", "x"):
                assert refused(address + "/v1/models/fills:predict", b"{}", **{"Content-Length": length})[0] == 413

    def test_wrong_flags_are_errors(self, upstream, tmp_path):
        for flags, words in (
            ({}, "neither"),
            ({"saved_model": "a", "server": upstream}, "both"),
            ({"server": "localhost:8500"}, "must be an address"),
            ({"saved_model": "a", "label": "stable"}, "label is for --server"),
        ):
            with pytest.raises(checks.InputError, match=words):
                playground.PlaygroundConfig(**flags)
        with pytest.raises(checks.InputError, match="numbered versions"):
            playground.server_of(playground.PlaygroundConfig(saved_model=str(tmp_path)))
        port = int(upstream.rsplit(":", 1)[1])
        with pytest.raises(checks.InputError, match="free to listen on"):
            playground.server_of(playground.PlaygroundConfig(server=upstream, port=port))


class Typist(Page):
    """A browser's window in which somebody types."""

    def run(self, script, *args):
        return ask(self._session + "/execute/sync", {"script": script, "args": list(args)})["value"]

    def element(self, selector):
        found = ask(self._session + "/element", {"using": "css selector", "value": selector})["value"]
        return f"{self._session}/element/{next(iter(found.values()))}"

    def type(self, selector, text):
        self.run(f"document.querySelector({json.dumps(selector)}).value = ''")
        ask(self.element(selector) + "/value", {"text": text})

    def click(self, selector):
        ask(self.element(selector) + "/click", {})

    def wait(self, script):
        return waited(lambda: self.run("return " + script), lambda: self.text(), seconds=60)

    def errors(self):
        """What the browser complained about."""
        return ask(self._session + "/se/log", {"type": "browser"})["value"]


@pytest.fixture(scope="module")
def typist(tmp_path_factory):
    if not (BROWSER and DRIVER):
        pytest.skip("needs a browser and its driver: apt-get install chromium chromium-driver")
    with server([DRIVER, "--port=0"], r"started successfully on port (\d+)") as match:
        page = Typist(f"http://127.0.0.1:{match[1]}", tmp_path_factory.mktemp("profile"))
        yield page
        page.close()


SHOWN = "!document.getElementById('answer').hidden && document.getElementById('answer').innerText"
PIECES = "[...document.querySelectorAll('.piece')].map((p) => p.innerText.replace('\\n', ' '))"


@pytest.mark.slow
class TestSeen:
    """A browser on canned answers: every kind of model, with texts that could break a page."""

    def open(self, typist, address):
        typist.visit(address, "")
        typist.wait("!document.getElementById('ask').disabled")

    def test_masks(self, typist, upstream, tmp_path):
        with playing(server=upstream, model_name="fills") as address:
            self.open(typist, address)
            typist.type("#input-text", "naïve [MASK] met <b>[MASK]</b>")
            typist.click("#ask")
            said = typist.wait(SHOWN)
            assert "naïve fox1 met <b><i>hen</i>2</b>" in said.replace("\n", "")  # as text, not as markup
            assert "75 %" in said and "< 0.1 %" in said and "Mask 2" in said
            shares = typist.run(
                "return [...document.querySelectorAll('.fill')].map((f) => f.offsetWidth / f.parentNode.offsetWidth)"
            )
            assert shares[0] == pytest.approx(0.75, abs=0.01) and shares[1] < 0.02
            typist.click(".bars button:nth-of-type(2)")  # another word takes its place
            assert "naïve dog1 met" in typist.wait(SHOWN).replace("\n", "")
            assert typist.wait(PIECES)[:2] == ["naïv 0–5", "##e 5–6"]
            assert "ms" in typist.run("return document.getElementById('latency').innerText")
            typist.type("#input-text", "[MASK] " + "long " * 20)
            typist.click("#ask")
            typist.wait("document.querySelector('.warn')?.innerText.includes('was cut')")
            typist.type("#input-text", "none")
            typist.click("#ask")
            typist.wait(SHOWN.replace("innerText", "innerText.includes('Write [MASK]')"))
            typist.screenshot(tmp_path / "masks.png")

    def test_refusals(self, typist, upstream, tmp_path):
        with playing(server=upstream, model_name="fills") as address:
            self.open(typist, address)
            typist.type("#input-text", "refuse")
            typist.click("#ask")
            assert "input text must be <b>string</b>" in typist.wait(SHOWN)
            typist.type("#input-text", "the [MASK]")
            typist.click("#ask")
            typist.wait(SHOWN.replace("innerText", "innerText.includes('fox')"))
            assert not typist.run("return document.querySelector('.error')")
        with playing(server=upstream, model_name="nobody") as address:
            typist.visit(address, "")
            assert "Servable not found for request: Latest(nobody)" in typist.wait(SHOWN)
            typist.screenshot(tmp_path / "refused.png")

    @pytest.mark.parametrize(("name", "words"), [("labels", ["late", "96 %"]), ("scores", ["4.250"])])
    def test_pairs(self, typist, upstream, name, words):
        with playing(server=upstream, model_name=name) as address:
            self.open(typist, address)
            typist.type("#input-text", "one")
            typist.type("#input-text_pair", "two three")
            typist.click("#ask")
            said = typist.wait(SHOWN)
            assert all(word in said for word in words)
            typist.wait("document.querySelectorAll('.pieces').length === 2")

    def test_tags(self, typist, upstream, tmp_path):
        with playing(server=upstream, model_name="tags") as address:
            self.open(typist, address)
            typist.type("#input-text", "naïve Ada met <b>Bob</b>")
            typist.click("#ask")
            assert "<b>Bob</b>" in typist.wait(SHOWN)
            coloured = "[...document.querySelectorAll('[data-hue]')].map((w) => w.innerText.replace('\\n', ' '))"
            assert typist.wait(coloured) == ["Ada B-PER"]
            typist.screenshot(tmp_path / "tags.png")

    def test_answers(self, typist, upstream, tmp_path):
        """Offsets are bytes, and the page's strings are UTF-16: the text before and inside of an answer has both."""
        with playing(server=upstream, model_name="finds") as address:
            self.open(typist, address)
            typist.type("#input-question", "Who?")
            typist.run("document.getElementById('input-context').value = arguments[0]", TEXT)  # keys have no emoji
            typist.click("#ask")
            said = typist.wait(SHOWN)
            assert said.startswith("Ada\n") and TEXT in said and "ahead of none by 2.50" in said
            marks = typist.run("return [...document.querySelectorAll('mark')].map((m) => [m.innerText, m.className])")
            assert marks == [["Ada", "best"], [" 🙂 met", ""]]
            typist.type("#input-question", "none")
            typist.click("#ask")
            typist.wait(SHOWN.replace("innerText", "innerText.startsWith('No answer in this passage')"))
            assert not typist.run("return document.querySelector('mark.best')")
            typist.screenshot(tmp_path / "answers.png")


@pytest.mark.slow
def test_a_real_model_answers_in_the_browser(typist, tiny_versions, tmp_path):
    with playing(saved_model=tiny_versions) as address:
        typist.visit(address, "")
        typist.wait("!document.getElementById('ask').disabled")
        assert "fill-mask" in typist.text()
        typist.type("#input-text", "the lazy [MASK] returns")
        typist.click("#ask")
        typist.wait(SHOWN.replace("innerText", "querySelectorAll('.bars .name').length === 4"))
        assert typist.wait(PIECES)[:2] == ["the 0–3", "lazy 4–8"]  # of the export's own signature `tokenize`
        typist.screenshot(tmp_path / "real.png")
