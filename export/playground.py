"""A page on which a model is tried: type a text, see what the model makes of it.

    python -m export.playground --saved_model=saved_model
    python -m export.playground --server=http://localhost:8501 --model_name=bert

then open the address that it prints. A pre-trained model fills each [MASK]; a fine-tuned one labels or scores texts
and pairs, tags words, or answers questions from a passage. Below stand the word pieces with their bytes, if the export
has the signature `tokenize`. The page is served to this machine alone (--host for others: whoever reaches it can
ask the model), asks nothing of any other machine, and talks to the model through TensorFlow Serving's REST interface:
of a SavedModel in this process (`export.rest_api`), or of the server that --server names.
"""

from tfbert import quiet  # isort: skip  # noqa: F401 (first: it holds back start-up noise)

import dataclasses
import json
import os
import urllib.error
import urllib.parse
import urllib.request

from export import loaders, rest_api
from tfbert import checks, config

PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "page")
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/playground.css": ("playground.css", "text/css; charset=utf-8"),
    "/playground.js": ("playground.js", "text/javascript; charset=utf-8"),
}
_MODELS = "/v1/models/"
# The page may load nothing but its own files, and no other page may hold it in a frame.
_HEADERS = (
    ("Content-Security-Policy", "default-src 'self'; img-src data:; frame-ancestors 'none'; form-action 'none'"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
)


@dataclasses.dataclass(frozen=True)
class PlaygroundConfig:
    """Flags of this program."""

    saved_model: str = config.field("", "A SavedModel, or the folder with its numbered versions; the newest is loaded.")
    server: str = config.field("", "REST address of a model server instead, as http://localhost:8501.")
    model_name: str = config.field("bert", "The name under which the server has the model.")
    label: str = config.field("", "Ask the server's version with this label, as canary.")
    host: str = config.field("127.0.0.1", "Address to listen on; 0.0.0.0 lets other machines in.")
    port: int = config.field(8600, "Port to listen on; 0 takes a free one.", lower_bound=0, upper_bound=65535)

    def __post_init__(self):
        config.check_bounds(self)
        given = bool(self.saved_model) + bool(self.server)
        checks.require(given == 1, "--saved_model or --server must be given", "both" if given else "neither")
        must = "server must be an address as http://localhost:8501"
        web = self.server.startswith(("http://", "https://"))
        checks.require(not self.server or web, must, f"server={self.server!r}")
        checks.require(self.server or not self.label, "label is for --server", f"label={self.label!r}")


class _Remote:
    """Hands requests on to a model server; the counterpart of `rest_api.Server`."""

    def __init__(self, address):
        self._address = address.rstrip("/")

    def handle(self, method, path, body):
        """As `rest_api.Server.handle`."""
        data, headers = (body or None) if method == "POST" else None, {"Content-Type": "application/json"}
        try:
            with urllib.request.urlopen(
                urllib.request.Request(self._address + path, data, headers, method=method), timeout=60
            ) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as e:
            with e:
                said = e.read().decode("utf-8", "replace")
            try:
                return e.code, {"error": json.loads(said)["error"]}
            except (ValueError, KeyError, TypeError):
                return e.code, {"error": said[:500]}
        except (OSError, ValueError) as e:
            return 502, {"error": f"The model server at {self._address} does not answer: {e}"}


class Handler(rest_api.Handler):
    """Serves the page, and the model beside it."""

    def _known_host(self):
        """Refuses names that somebody else's page could point at this machine (DNS rebinding)."""
        host = urllib.parse.urlsplit("//" + self.headers.get("Host", "")).hostname
        if self.server.local and host not in ("127.0.0.1", "localhost", "::1"):
            self.answer(403, {"error": "the playground answers to 127.0.0.1 and localhost only"})
            return False
        return True

    def do_GET(self):
        """The page's files, its settings, and what the model says of itself."""
        path = self.path.split("?")[0]
        if not self._known_host():
            return
        if path in _FILES:
            name, kind = _FILES[path]
            with open(os.path.join(PAGE, name), "rb") as f:
                self.send(200, kind, f.read(), _HEADERS)
        elif path == "/settings.json":
            self.answer(200, self.server.settings)
        elif path.startswith(_MODELS):
            super().do_GET()
        else:
            self.answer(404, {"error": "the playground has no such page"})

    def do_POST(self):
        """Predictions."""
        if self._known_host() and (body := self.body()) is not None:
            found = self.path.startswith(_MODELS)  # nothing else of a model server is to be had through this one
            wrong = 404, {"error": "the playground has no such page"}
            self.answer(*(self.server.api.handle("POST", self.path, body) if found else wrong))


def server_of(cfg):
    """The HTTP server of a configuration, listening: a `rest_api.HttpServer`."""
    if cfg.server:
        api, source = _Remote(cfg.server), cfg.server
    else:
        source = loaders.newest_version(cfg.saved_model)
        api = rest_api.load(source, cfg.model_name)
    path = f"/v1/models/{urllib.parse.quote(cfg.model_name)}" + (f"/labels/{cfg.label}" if cfg.label else "")
    settings = {"path": path.removeprefix("/"), "source": source}
    local = cfg.host in ("127.0.0.1", "localhost", "::1")
    return rest_api.HttpServer((cfg.host, cfg.port), Handler, api=api, settings=settings, local=local)


def run(cfg):
    """Serves until it is interrupted."""
    with server_of(cfg) as server:
        host = "127.0.0.1" if cfg.host == "0.0.0.0" else cfg.host
        print(f"Open http://{host}:{server.server_address[1]}/ (Ctrl-C ends it).", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


def main(argv):
    """The program."""
    del argv
    loaders.hush()
    run(config.from_flags(PlaygroundConfig))


if __name__ == "__main__":
    config.define_flags(PlaygroundConfig)
    checks.run_program(main)
