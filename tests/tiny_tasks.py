"""Run folders of each task with random weights: what exports are tried on, without any training."""

from tests import tiny, tiny_run, tiny_squad
from tfbert import run_folder
from tfbert.loop import checkpoints
from tfbert.tasks import kinds

MAX_SEQ_LENGTH = 17
STEP = 3
LABELS = ("O", "B-animal", "I-animal", "I-place")
ABOUT = {
    "classify": {"kind": "classify", "text_column": "text", "labels": ["animal", "thing", "place"]},
    "pairs": {"kind": "regress", "text_column": "a", "text_pair_column": "b", "labels": []},
    "tag": {"kind": "tag", "labels": list(LABELS)},
    "answer": {
        "kind": "answer",
        "doc_stride": 4,
        "max_query_length": 6,
        "max_answer_length": 5,
        "version_2_with_negative": True,
    },
}


def make(folder, name):
    """Writes the run folder of a task of ABOUT, and returns its path. One layer will do: more are exported alike."""
    about = dict(ABOUT[name])
    vocab = tiny_squad.vocab() if name == "answer" else tiny_run.vocab()
    config = tiny.config(vocab_size=len(vocab), num_hidden_layers=1)
    more = {"finetune": {}, "records": {"max_seq_length": MAX_SEQ_LENGTH}, "task": about}
    run = run_folder.create(str(folder), config, vocab, more)
    model = tiny.randomize(kinds.of_run(run).build_model(config, False), scale=0.6)
    checkpoints.Checkpoints(str(folder), model).save(STEP)
    return str(folder)
