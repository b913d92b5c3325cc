"""Tests of export.serving: warm-up requests, and what a deployment needs, held against the official schemas."""

import json
import re
import shutil

import pytest
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from tensorflow_serving.config import model_server_config_pb2

from export import serving
from tests import test_audit
from tfbert import checks

INT64, BOOL, STRING, MESSAGE = (
    getattr(descriptor_pb2.FieldDescriptorProto, f"TYPE_{t}") for t in ("INT64", "BOOL", "STRING", "MESSAGE")
)
# tensorflow-serving-api has no Python code for these two; their fields are those of TensorFlow Serving's files
# servables/tensorflow/session_bundle_config.proto and config/monitoring_config.proto.
MESSAGES = {
    "Int64Value": {"value": (1, INT64, None)},
    "BatchingParameters": {
        "max_batch_size": (1, MESSAGE, "Int64Value"),
        "batch_timeout_micros": (2, MESSAGE, "Int64Value"),
        "max_enqueued_batches": (3, MESSAGE, "Int64Value"),
        "num_batch_threads": (4, MESSAGE, "Int64Value"),
        "pad_variable_length_inputs": (7, BOOL, None),
    },
    "PrometheusConfig": {"enable": (1, BOOL, None), "path": (2, STRING, None)},
    "MonitoringConfig": {"prometheus_config": (1, MESSAGE, "PrometheusConfig")},
}


def message(name):
    """An empty message of `MESSAGES`."""
    file = descriptor_pb2.FileDescriptorProto(name="test.proto", package="test", syntax="proto3")
    for kind, fields in MESSAGES.items():
        about = file.message_type.add(name=kind)
        for field, (number, of, other) in fields.items():
            about.field.add(name=field, number=number, type=of, label=1, type_name=f".test.{other}" if other else None)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"test.{name}"))()


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """A folder with versions 3, 4 and 11 of a small model, and a folder that is none."""
    folder = tmp_path_factory.mktemp("models")
    test_audit.save(folder / "3", lambda text, other: {"labels": tf.strings.join([text, other])}, tf.string, tf.string)
    for number in ("4", "11", ".unfinished-x"):
        shutil.copytree(folder / "3", folder / number)
    return str(folder)


@pytest.fixture
def written(versions, tmp_path):
    """Writes a deployment; gives {name: text}."""

    def write(**flags):
        cfg = serving.ServingConfig(saved_model=versions, output_dir=str(tmp_path / "deployment"), **flags)
        paths = serving.run(cfg)
        assert sorted(p.name for p in (tmp_path / "deployment").iterdir()) == sorted(p.split("/")[-1] for p in paths)
        return {path.split("/")[-1]: open(path, encoding="utf-8").read() for path in paths}

    return write


def test_warm_up_requests_are_read_as_they_were_written(tmp_path):
    assert serving.read_warmup(str(tmp_path)) == []
    requests = [("serving_default", {"text": [b"a", b"\xff"]}), ("from_ids", {"input_ids": [[1, 2, 3]]})]
    serving.write_warmup(str(tmp_path), "bert", requests)
    read = serving.read_warmup(str(tmp_path))
    assert [(name, {k: v.tolist() for k, v in inputs.items()}) for name, inputs in read] == requests


def test_models_config_is_the_official_message(written):
    files = written(model_name="mnli", stable=4, canary=11)
    (model,) = text_format.Parse(
        files["models.config"], model_server_config_pb2.ModelServerConfig()
    ).model_config_list.config
    assert (model.name, model.base_path, model.model_platform) == ("mnli", "/models/mnli", "tensorflow")
    assert list(model.model_version_policy.specific.versions) == [4, 11]
    assert dict(model.version_labels) == {"stable": 4, "canary": 11}


def test_the_newest_version_is_stable_unless_another_is_chosen(written):
    (model,) = text_format.Parse(
        written()["models.config"], model_server_config_pb2.ModelServerConfig()
    ).model_config_list.config
    assert dict(model.version_labels) == {"stable": 11} == {"stable": model.model_version_policy.specific.versions[0]}


def test_batching_and_monitoring_are_the_official_messages(written):
    files = written(batch_size=17, batch_timeout_micros=0, cpus=3)
    batching = text_format.Parse(files["batching_parameters.txt"], message("BatchingParameters"))
    assert (batching.max_batch_size.value, batching.num_batch_threads.value) == (17, 3)
    assert batching.HasField("batch_timeout_micros") and batching.batch_timeout_micros.value == 0
    assert batching.max_enqueued_batches.value > 0 and batching.pad_variable_length_inputs
    monitoring = text_format.Parse(files["monitoring.config"], message("MonitoringConfig")).prometheus_config
    assert monitoring.enable and monitoring.path == "/monitoring/prometheus/metrics"


def test_dockerfile_copies_the_served_versions(written):
    text = written(model_name="mnli", stable=4, canary=11, serving_version="2.18.0")["Dockerfile"]
    lines = [line for line in re.sub(r"\\\n", " ", text).split("\n") if line and not line.startswith("#")]
    assert [line.split()[0] for line in lines] == ["FROM", "COPY", "COPY", "COPY", "EXPOSE", "CMD"]
    assert lines[0] == "FROM tensorflow/serving:2.18.0"
    assert lines[1:3] == [f"COPY --from=models {n} /models/mnli/{n}" for n in (4, 11)]
    arguments = json.loads(lines[-1].removeprefix("CMD "))
    assert arguments == serving._arguments({"stable": 4})
    copied = set(lines[3].split()[1:-1])
    assert {a.split("=/config/")[1] for a in arguments if "=/config/" in a} == copied


def test_compose_is_what_compose_takes(written):
    compose_spec = pytest.importorskip("compose_spec", reason="needs requirements-deployment.txt")
    yaml = pytest.importorskip("yaml", reason="needs requirements-deployment.txt")
    text = written(model_name="mnli")["docker-compose.yaml"]
    assert set(compose_spec.PyCompose.from_yaml(text).service_names()) == {"server", "prometheus"}
    with pytest.raises(ValueError, match="prots"):  # that a slip is seen
        compose_spec.PyCompose.from_yaml(text.replace("ports:", "prots:"))
    server = yaml.safe_load(text)["services"]["server"]
    assert server["command"] == serving._arguments({"stable": 11})
    assert [v["target"] for v in server["volumes"]] == ["/models/mnli", "/config"]
    assert all(v["read_only"] for v in server["volumes"]) and server["volumes"][0]["source"].startswith("../")
    assert all(port.startswith("127.0.0.1:") for port in server["ports"])
    scrape = yaml.safe_load(written()["prometheus.yml"])["scrape_configs"][0]
    assert scrape["metrics_path"] == "/monitoring/prometheus/metrics"
    assert scrape["static_configs"] == [{"targets": ["server:8501"]}]


def test_manifests_are_what_kubernetes_takes(written):
    validate = pytest.importorskip("kubernetes_validate", reason="needs requirements-deployment.txt")
    yaml = pytest.importorskip("yaml", reason="needs requirements-deployment.txt")
    files = written(model_name="mnli", stable=4, canary=11, image="example.com/mnli:4", cpus=3, max_replicas=5)
    manifests = {m["kind"]: m for m in yaml.safe_load_all(files["kubernetes.yaml"])}
    for manifest in manifests.values():
        for release in ("1.28", "1.35"):
            validate.validate(manifest, release, strict=True)
    broken = {**manifests["Service"], "spec": {**manifests["Service"]["spec"], "prots": []}}
    with pytest.raises(validate.ValidationError):  # that the schemas see a slip
        validate.validate(broken, "1.35", strict=True)
    data = manifests["ConfigMap"]["data"]
    assert data == {n: files[n] for n in ("models.config", "batching_parameters.txt", "monitoring.config")}
    pod = manifests["Deployment"]["spec"]["template"]
    (server,) = pod["spec"]["containers"]
    assert server["image"] == "example.com/mnli:4" and server["args"] == serving._arguments({"stable": 4})
    for probe in ("startupProbe", "readinessProbe"):
        assert server[probe]["httpGet"] == {"path": "/v1/models/mnli/labels/stable/metadata", "port": "rest"}
    assert server["resources"]["requests"]["cpu"] == "3"
    notes = pod["metadata"]["annotations"]
    assert notes["prometheus.io/scrape"] == "true" and notes["prometheus.io/port"] == "8501"
    # Everything that names something else names what is there.
    ports = {p["name"]: p["containerPort"] for p in server["ports"]}
    assert ports == {"grpc": 8500, "rest": 8501}
    assert {p["targetPort"] for p in manifests["Service"]["spec"]["ports"]} == set(ports)
    labels = pod["metadata"]["labels"]
    assert manifests["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert manifests["Service"]["spec"]["selector"] == labels
    assert manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    scaled = manifests["HorizontalPodAutoscaler"]["spec"]
    assert scaled["scaleTargetRef"]["name"] == manifests["Deployment"]["metadata"]["name"]
    assert scaled["maxReplicas"] == 5 and "replicas" not in manifests["Deployment"]["spec"]
    assert pod["spec"]["volumes"][0]["configMap"]["name"] == manifests["ConfigMap"]["metadata"]["name"]


def test_readme_holds_a_request_for_this_model(written):
    text = written(model_name="mnli", stable=4)["README.md"]
    body = json.loads(re.search(r"curl -d '(.*)' \\\n +http://localhost:8501/v1/models/mnli:predict", text)[1])
    assert set(body["instances"][0]) == {"x0", "x1"}
    assert "$" not in text and "versions/4:predict" in text


def test_what_cannot_be_served_is_an_error(versions, tmp_path):
    right = {"saved_model": versions, "output_dir": str(tmp_path / "x")}
    for flags, words in (
        ({"model_name": "My model"}, "name for Kubernetes"),
        ({"model_name": "bert/../x"}, "name for Kubernetes"),
        ({"serving_version": "2.19"}, "three numbers"),
        ({"image": "x y"}, "image's name"),
        ({"batch_size": 0}, "at least 1"),
        ({"saved_model": ""}, "--saved_model must be given"),
        ({"output_dir": ""}, "--output_dir must be given"),
    ):
        with pytest.raises(checks.InputError, match=words):
            serving.ServingConfig(**{**right, **flags})
    for flags, words in (
        ({"stable": 5}, r"stable must be a version that is there; got 5, not \[3, 4, 11\]"),
        ({"stable": 4, "canary": 4}, "different versions"),
        ({"serving_version": "2.11.0"}, "from 2.12 to 2.20"),
        ({"saved_model": f"{versions}/3"}, "folder with numbered versions"),
        ({"saved_model": str(tmp_path)}, "numbered versions"),
    ):
        with pytest.raises(checks.InputError, match=words):
            serving.run(serving.ServingConfig(**{**right, **flags}))
    (tmp_path / "file").write_text("")
    with pytest.raises(checks.InputError, match="output_dir must be a folder"):
        serving.run(serving.ServingConfig(**{**right, "output_dir": str(tmp_path / "file")}))
