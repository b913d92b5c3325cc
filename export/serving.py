"""Writes what a deployment with TensorFlow Serving needs, beside the exported versions.

    python -m export.serving --saved_model=saved_model --output_dir=deployment --stable=1 --canary=2 \
        --batching=batching_parameters.txt

writes models.config, batching_parameters.txt, monitoring.config, Dockerfile, docker-compose.yaml, prometheus.yml,
kubernetes.yaml and a README.md with the commands that use them; the texts with their explanations are those of
export/deployment/. --stable and --canary are versions: requests that name a label go to that version, and all others
to the highest one that is served. Both are refused if --serving_version lacks one of their ops (`export.audit`).
--batching is a file that `export.batching` has measured.

The warm-up requests that an export carries are written here, too: a server answers them while it loads a version, so
that the first user does not wait for the graph's optimisation and for memory.
https://www.tensorflow.org/tfx/serving/saved_model_warmup
"""

from tfbert import quiet  # isort: skip  # noqa: F401 (first: it holds back start-up noise)

import dataclasses
import os
import re
import string
import tempfile
import textwrap

import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from export import audit, batching_parameters, clients, loaders, parity
from tfbert import checks, config

FOLDER, FILE = "assets.extra", "tf_serving_warmup_requests"
TEMPLATES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "deployment")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,40}[a-z0-9])?")  # what Kubernetes takes for a name, with room for a suffix


@dataclasses.dataclass(frozen=True)
class ServingConfig:
    """Flags of this program."""

    saved_model: str = config.field("", "Folder of versions, as export.saved_model writes it.")
    output_dir: str = config.field("", "Folder for the files.")
    model_name: str = config.field("bert", "The name under which it is served.")
    serving_version: str = config.field("2.19.1", "Release of TensorFlow Serving, as its image is tagged.")
    image: str = config.field("", "Name of the image to build, as registry/name:tag; model_name:stable by default.")
    stable: int | None = config.field(None, "Version with the label stable; the newest one by default.", lower_bound=1)
    canary: int | None = config.field(None, "Version with the label canary; none by default.", lower_bound=1)
    batching: str = config.field("", "A batching_parameters.txt that export.batching has measured.")
    batch_size: int | None = config.field(
        None, "Rows of different requests that are answered as one batch; 32 by default.", lower_bound=1
    )
    batch_timeout_micros: int | None = config.field(
        None, "How long a request waits for others; 1000 by default.", lower_bound=0
    )
    cpus: int = config.field(2, "Cores of a server.", lower_bound=1)
    max_replicas: int = config.field(8, "Servers that Kubernetes starts at most.", lower_bound=2)

    def __post_init__(self):
        config.check_bounds(self)
        checks.require(self.saved_model, "--saved_model must be given", "none")
        checks.require(self.output_dir, "--output_dir must be given", "none")
        must = "model_name must be a name for Kubernetes, of a-z, 0-9 and -"
        checks.require(_NAME.fullmatch(self.model_name), must, f"model_name={self.model_name!r}")
        must = "serving_version must have three numbers, as the image's tag"
        right = re.fullmatch(r"\d+\.\d+\.\d+", self.serving_version)
        checks.require(right, must, f"serving_version={self.serving_version!r}")
        checks.require(not re.search(r"[\s\"'#]", self.image), "image must be an image's name", f"image={self.image!r}")
        both = "batching has batch_size and batch_timeout_micros; give the file or the values"
        values = [v for v in (self.batch_size, self.batch_timeout_micros) if v is not None]
        checks.require(not (self.batching and values), both, f"batching={self.batching!r} and {values}")


def write_warmup(folder, model_name, requests):
    """Writes `assets.extra/tf_serving_warmup_requests` into a SavedModel.

    Args:
        folder: The SavedModel.
        model_name: The name under which it will be served.
        requests: A list of (signature name, {input name: array}).
    """
    os.makedirs(os.path.join(folder, FOLDER), exist_ok=True)
    with tf.io.TFRecordWriter(os.path.join(folder, FOLDER, FILE)) as writer:
        for signature, inputs in requests:
            request = predict_pb2.PredictRequest()
            request.model_spec.name = model_name
            request.model_spec.signature_name = signature
            for name, value in inputs.items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
            log = prediction_log_pb2.PredictLog(request=request)
            writer.write(prediction_log_pb2.PredictionLog(predict_log=log).SerializeToString())


def read_warmup(folder):
    """The requests that `write_warmup` wrote, as a server reads them; none if it was not asked to."""
    path, requests = os.path.join(folder, FOLDER, FILE), []
    if not os.path.isfile(path):
        return requests
    for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
        requests.append((request.model_spec.signature_name, inputs))
    return requests


def require_room(folder, batching):
    """Raises `InputError` if a warm-up request has more rows than a batch: a server would end its start there."""
    rows = max((len(value) for _, inputs in read_warmup(folder) for value in inputs.values()), default=0)
    must = "a batch must hold the export's largest warm-up request"
    checks.require(batching.batch_size >= rows, must, f"{batching.batch_size} rows, not {rows}", folder)


def labels_of(cfg):
    """{label: version} of a configuration.

    Raises:
        InputError: there is no such version, or its ops are not those of --serving_version.
    """
    newest = loaders.newest_version(cfg.saved_model)
    number = os.path.basename(newest)
    must = "saved_model must be a folder with numbered versions of a SavedModel"
    do = "Give the folder above, or name it by a number"
    checks.require(number.isdecimal() and newest != cfg.saved_model, must, "a SavedModel", cfg.saved_model, do)
    labels = {"stable": cfg.stable or int(number), **({"canary": cfg.canary} if cfg.canary else {})}
    must = "stable and canary must be different versions"
    checks.require(len(set(labels.values())) == len(labels), must, f"canary={cfg.canary}, stable={labels['stable']}")
    for label, version in labels.items():
        folder = os.path.join(cfg.saved_model, str(version))
        there = sorted(int(n) for n in os.listdir(cfg.saved_model) if n.isdecimal())
        checks.require(os.path.isdir(folder), f"{label} must be a version that is there", f"{version}, not {there}")
        audit.require_loads(folder, cfg.serving_version)
    return labels


def _arguments(labels, threads=()):
    """Arguments of tensorflow_model_server; `threads` as of `parity.threads`."""
    arguments = ["--model_config_file=/config/models.config", "--model_config_file_poll_wait_seconds=60"]
    # Labels are given while the versions that they are for are still being loaded.
    arguments += ["--allow_version_labels_for_unavailable_models=true"] if labels else []
    arguments += ["--enable_batching=true", "--batching_parameters_file=/config/batching_parameters.txt"]
    arguments += [f"--tensorflow_{name}_op_parallelism={n}" for name, n in zip(("intra", "inter"), threads)]
    return [*arguments, "--monitoring_config_file=/config/monitoring.config"]


def _memory(folder):
    """Megabytes that a server of one version needs, roughly: its files twice, and what TensorFlow takes."""
    total = sum(os.path.getsize(os.path.join(parent, n)) for parent, _, names in os.walk(folder) for n in names)
    return 512 + 2 * total // 2**20


def _batching(cfg):
    """(the text of batching_parameters.txt, its values, what README says of them)."""
    if cfg.batching:
        values = batching_parameters.read(cfg.batching)
        with open(cfg.batching, encoding="utf-8") as f:
            return f.read(), values, "were measured; batching_parameters.txt says on what and with what load"
    size = 32 if cfg.batch_size is None else cfg.batch_size
    wait = 1000 if cfg.batch_timeout_micros is None else cfg.batch_timeout_micros
    values = batching_parameters.Batching(size, wait, cfg.cpus)
    origin = "are places to start from: `python -m export.batching` measures which are good for your texts"
    return batching_parameters.text(values, f"These values {origin}.".replace("`", "")), values, origin


def files(cfg, labels):
    """{name of a file: its text}.

    Args:
        cfg: A `ServingConfig`.
        labels: Of `labels_of`.
    """
    versions = sorted(labels.values())
    memory = sum(_memory(os.path.join(cfg.saved_model, str(version))) for version in versions)
    image = cfg.image or f"{cfg.model_name}:{labels['stable']}"
    stable = os.path.join(cfg.saved_model, str(labels["stable"]))
    arguments = _arguments(labels, parity.threads(stable, cfg.cpus))
    batching, values, origin = _batching(cfg)
    for version in versions:
        require_room(os.path.join(cfg.saved_model, str(version)), values)
    written = {"batching_parameters.txt": batching}
    blanks = {f.name: getattr(cfg, f.name) for f in dataclasses.fields(cfg)} | {
        "name": cfg.model_name,
        "image": image,
        "stable_version": labels["stable"],
        "versions": "\n".join(f"        versions: {version}" for version in versions),
        "labels": "\n".join(f'    version_labels {{ key: "{k}" value: {v} }}' for k, v in labels.items()),
        "copies": "\n".join(f"COPY --from=models {v} /models/{cfg.model_name}/{v}" for v in versions),
        "models": os.path.relpath(cfg.saved_model, cfg.output_dir).replace(os.sep, "/"),
        "health": f"/v1/models/{cfg.model_name}/labels/stable/metadata",
        "batching_origin": origin,
        **dataclasses.asdict(values),
        "memory": memory,
        "memory_limit": 2 * memory,
        "example": clients.example_body(loaders.signatures(stable)),
    }

    def fill(name, **more):
        with open(os.path.join(TEMPLATES, name), encoding="utf-8") as f:
            written[name] = string.Template(f.read()).substitute(blanks, **more)

    for name in ("models.config", "monitoring.config", "prometheus.yml"):
        fill(name)
    # A bind mount's relative path needs its dot.
    blanks["models"] = blanks["models"] if blanks["models"].startswith(("/", ".")) else "./" + blanks["models"]
    fill("Dockerfile", arguments=",\n".join(f'  "{a}"' for a in arguments).replace("\n", " \\\n"))
    fill("docker-compose.yaml", arguments="\n".join(f"      - {a}" for a in arguments))
    configs = {
        "models_config": "models.config",
        "batching_parameters": "batching_parameters.txt",
        "monitoring": "monitoring.config",
    }
    inside = {blank: textwrap.indent(written[name].rstrip(), "    ") for blank, name in configs.items()}
    fill("kubernetes.yaml", arguments="\n".join(f"            - {a}" for a in arguments), **inside)
    fill("README.md")
    return written


def run(cfg):
    """Writes the files; returns their paths."""
    labels = labels_of(cfg)
    texts = files(cfg, labels)
    try:
        os.makedirs(cfg.output_dir, exist_ok=True)
        for name, text in texts.items():
            # Aside and renamed: a server that reads models.config anew never sees half of it.
            with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=cfg.output_dir) as aside:
                path = os.path.join(aside, name)
                with open(path, "w", encoding="utf-8") as f:
                    f.write(text)
                os.replace(path, os.path.join(cfg.output_dir, name))
    except OSError as e:
        must = "output_dir must be a folder that can be written"
        raise checks.error(must, e.strerror, cfg.output_dir, "Choose another --output_dir, or free the disk") from e
    said = ", ".join(f"{label} is version {version}" for label, version in labels.items())
    print(f"{cfg.output_dir}: {', '.join(texts)}; {said}. Begin with its README.md.")
    return [os.path.join(cfg.output_dir, name) for name in texts]


def main(argv):
    """The program."""
    del argv
    loaders.hush()
    run(config.from_flags(ServingConfig))


if __name__ == "__main__":
    config.define_flags(ServingConfig)
    checks.run_program(main)
