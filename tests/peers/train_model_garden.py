"""What the TensorFlow Model Garden's pre-training reaches in a budget of time; for a Python with tf-models-official.

    PYTHON tests/peers/train_model_garden.py --records='out/google/records/train-*' --vocab=out/vocab/vocab.txt \
        --output=out/model_garden --minutes=10 --rate=1e-3

Its MaskedLMTask with both heads on BERT-tiny, its reader of static records (google.flags' own), its AdamW with decay as
its experiment bert/pretraining sets it, gradients clipped at 1, a rate that rises for a share of the time and falls on
a line to 0. For speed: bfloat16, oneDNN on, XLA off, large thresholds of the allocator. Only training counts: neither
start-up nor the checkpoints written on the way. It imports nothing of tfbert. Each folder holds a checkpoint of the
Garden's kind, bert_config.json and vocab.txt: tests/peers/score.py reads them.
"""

import argparse
import json
import os
import shutil
import sys
import time

LENGTH, SLOTS = 128, 20
ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(8 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
    "TF_USE_LEGACY_KERAS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "CUDA_VISIBLE_DEVICES": "",
}
SIZES = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}


def _arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--records", required=True, help="glob of masked records with sentence pairs")
    parser.add_argument("--vocab", required=True, help="vocab.txt")
    parser.add_argument("--output", required=True, help="folder to make, with one folder of weights for each save")
    parser.add_argument("--minutes", type=float, default=10.0, help="time of training")
    parser.add_argument("--save_every", type=float, default=1.0, help="minutes from save to save")
    parser.add_argument("--rate", type=float, default=1e-4, help="peak learning rate")
    parser.add_argument("--warmup", type=float, default=0.01, help="share of the time in which the rate rises")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu_time", action="store_true", help="count CPU time: for pilots, where others work too")
    return parser.parse_args()


def _task(given, vocab_size):
    """(task, model, optimizer) of the Garden."""
    import tf_keras
    from official.modeling import optimization
    from official.nlp.configs import bert, encoders
    from official.nlp.data import pretrain_dataloader
    from official.nlp.tasks import masked_lm

    tf_keras.utils.set_random_seed(12345)
    tf_keras.mixed_precision.set_global_policy("mixed_bfloat16")
    encoder = encoders.BertEncoderConfig(
        vocab_size=vocab_size,
        hidden_size=SIZES["hidden_size"],
        num_layers=SIZES["num_hidden_layers"],
        num_attention_heads=SIZES["num_attention_heads"],
        intermediate_size=SIZES["intermediate_size"],
        max_position_embeddings=512,
    )
    head = bert.ClsHeadConfig(inner_dim=SIZES["hidden_size"], num_classes=2, dropout_rate=0.1, name="next_sentence")
    data = pretrain_dataloader.BertPretrainDataConfig(
        input_path=given.records,
        global_batch_size=given.batch,
        seq_length=LENGTH,
        max_predictions_per_seq=SLOTS,
        use_next_sentence_label=True,
        is_training=True,
        shuffle_buffer_size=10_000,
    )
    task = masked_lm.MaskedLMTask(
        masked_lm.MaskedLMConfig(
            model=bert.PretrainerConfig(encoder=encoders.EncoderConfig(type="bert", bert=encoder), cls_heads=[head]),
            train_data=data,
        )
    )
    adamw = {
        "weight_decay_rate": 0.01,
        "exclude_from_weight_decay": ["LayerNorm", "layer_norm", "bias"],
        "gradient_clip_norm": 1.0,
    }
    factory = optimization.OptimizerFactory(
        optimization.OptimizationConfig(
            {
                "optimizer": {"type": "adamw", "adamw": adamw},
                "learning_rate": {"type": "constant", "constant": {"learning_rate": given.rate}},
            }
        )
    )
    return task, task.build_model(), factory.build_optimizer(factory.build_learning_rate())


def _save(checkpoint, given, vocab_size, seconds, steps):
    folder = os.path.join(given.output, f"{round(seconds):04d}")
    checkpoint.write(os.path.join(folder, "model.ckpt"))
    shutil.copy(given.vocab, os.path.join(folder, "vocab.txt"))
    config = {
        **SIZES,
        "vocab_size": vocab_size,
        "hidden_act": "gelu",
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "initializer_range": 0.02,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
    }
    about = {"seconds": round(seconds, 1), "steps": steps, "sequences": steps * given.batch}
    for name, content in (("bert_config.json", config), ("progress.json", about)):
        with open(os.path.join(folder, name), "w") as f:
            json.dump(content, f)
    print(json.dumps(about), flush=True)


def train(given):
    """Trains for the time, and saves on the way and at its end."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(given.threads)
    tf.config.threading.set_inter_op_parallelism_threads(given.threads)
    with open(given.vocab, encoding="utf-8") as f:
        vocab_size = sum(1 for _ in f)
    task, model, optimizer = _task(given, vocab_size)
    metrics = task.build_metrics()
    checkpoint = tf.train.Checkpoint(**model.checkpoint_items)
    batches = iter(task.build_inputs(task.task_config.train_data))

    @tf.function
    def step(batch):
        return task.train_step(batch, model, optimizer, metrics)[task.loss]

    optimizer.learning_rate = 0.0
    step(next(batches))  # traces, and learns nothing
    clock = time.process_time if given.cpu_time else time.perf_counter
    budget, seconds, steps, saves = given.minutes * 60, 0.0, 0, 0
    while seconds < budget:
        begin = clock()
        done = seconds / budget
        rise = done / given.warmup if done < given.warmup else (1 - done) / (1 - given.warmup)
        optimizer.learning_rate = given.rate * rise
        loss = step(next(batches))
        seconds, steps = seconds + clock() - begin, steps + 1
        if steps % 500 == 0:
            print(f"step {steps}  {seconds:.0f} s  loss {float(loss):.3f}", flush=True)
        if seconds >= min((saves + 1) * given.save_every * 60, budget):
            saves += 1
            _save(checkpoint, given, vocab_size, seconds, steps)


def main():
    """The program, begun again with settings of the environment, which are read when a process starts."""
    given = _arguments()
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        os.environ.update(ENVIRONMENT, OMP_NUM_THREADS=str(given.threads))
        os.execv(sys.executable, [sys.executable, *sys.argv])
    train(given)


if __name__ == "__main__":
    main()
