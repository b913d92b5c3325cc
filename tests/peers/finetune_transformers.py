"""Fine-tunes with transformers and PyTorch what tfbert.finetune does, on the same files with the same flags.

    .transformers/bin/python tests/peers/finetune_transformers.py --task=classify --train_file=train.csv \
        --test_file=test.csv --label_column=category --init_checkpoint=FOLDER --output_dir=out/theirs

A plain training loop as transformers' examples have it: AdamW without decay of biases and norms, a rate that rises and
falls in straight lines, clipping, batches filled up to their longest row. For speed: autocast to bfloat16, texts of
about the same length together (--bucket_by_length, by the rule of transformers' own LengthGroupedSampler), the fused
AdamW, and an allocator that gives nothing back. It imports nothing of tfbert. What it writes bears the names and the
form that tfbert.finetune gives it: OUTPUT_DIR/test_predictions.tsv, test_tags.tsv or test_predictions.json; and
OUTPUT_DIR/model, as transformers saves it.
"""

import argparse
import os
import sys
import time

KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(8 << 30), "MALLOC_TRIM_THRESHOLD_": str(8 << 30)}
POOL = 50  # batches whose rows are sorted together, as in tfbert and in transformers


def _arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("task", "train_file", "test_file", "init_checkpoint", "output_dir"):
        parser.add_argument(f"--{name}", required=True, help="as of tfbert.finetune")
    for name, default in (
        ("text_column", "text"),
        ("text_pair_column", ""),
        ("label_column", "label"),
        ("mixed_precision", "float32"),
        ("max_seq_length", 128),
        ("doc_stride", 128),
        ("n_best_size", 20),
        ("max_answer_length", 30),
        ("train_batch_size", 32),
        ("eval_batch_size", 32),
        ("num_train_epochs", 3.0),
        ("learning_rate", 5e-5),
        ("warmup_proportion", 0.1),
        ("weight_decay", 0.01),
        ("adam_epsilon", 1e-6),
        ("clip_norm", 1.0),
        ("random_seed", 12345),
        ("threads", 2),
    ):
        parser.add_argument(f"--{name}", type=type(default), default=default, help="as of tfbert.finetune")
    parser.add_argument("--bucket_by_length", action="store_true", help="as of tfbert.finetune")
    return parser.parse_args()


def _epoch(rows, given):
    """Numbers of the rows of each batch, through all rows once in a new order."""
    import torch

    order, size = torch.randperm(len(rows)).tolist(), given.train_batch_size
    if not given.bucket_by_length:
        return [order[i : i + size] for i in range(0, len(order), size)]
    batches = []
    for first in range(0, len(order), POOL * size):
        pool = sorted(order[first : first + POOL * size], key=lambda i: len(rows[i]["input_ids"]))
        batches += [pool[i : i + size] for i in range(0, len(pool), size)]
    return [batches[i] for i in torch.randperm(len(batches)).tolist()]


def _batch(rows):
    """Tensors of rows, filled up to the longest: labels of wordpieces with -100, which counts for nothing."""
    import torch

    longest = max(len(row["input_ids"]) for row in rows)
    features = {}
    for name, value in rows[0].items():
        if isinstance(value, list):
            fill = -100 if name == "labels" else 0
            values = [row[name] + [fill] * (longest - len(row[name])) for row in rows]
        else:
            values = [row[name] for row in rows]
        features[name] = torch.tensor(values)
    return features


def _autocast(given):
    import torch

    return torch.autocast("cpu", torch.bfloat16, enabled=given.mixed_precision == "bfloat16")


def _optimizer(model, given):
    import torch

    groups = [{"params": [], "weight_decay": given.weight_decay}, {"params": [], "weight_decay": 0.0}]
    for name, parameter in model.named_parameters():
        groups[name.endswith("bias") or "LayerNorm" in name]["params"].append(parameter)
    return torch.optim.AdamW(groups, lr=given.learning_rate, eps=given.adam_epsilon, fused=True)


def train(model, rows, given):
    """Trains the model in place; returns the number of steps."""
    import torch
    import transformers

    steps = max(1, round(len(rows) * given.num_train_epochs / given.train_batch_size))
    optimizer = _optimizer(model, given)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, round(given.warmup_proportion * steps), steps)
    model.train()
    done, batches = 0, []
    while done < steps:
        batches = batches or _epoch(rows, given)
        with _autocast(given):
            loss = model(**_batch([rows[i] for i in batches.pop()])).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), given.clip_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        done += 1
        if done % 20 == 0:
            print(f"step {done}/{steps}  loss {loss.item():.3f}", file=sys.stderr, flush=True)
    return steps


def predict(model, rows, given):
    """For each row its logits without what fills it up: {name: float32 array} a row."""
    import torch

    model.eval()
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))
    found = [None] * len(rows)
    for first in range(0, len(order), given.eval_batch_size):
        numbers = order[first : first + given.eval_batch_size]
        with torch.inference_mode(), _autocast(given):
            outputs = model(**_batch([rows[i] for i in numbers]))
        outputs = {name: value.float().numpy() for name, value in outputs.items() if "logits" in name}
        for place, i in enumerate(numbers):
            found[i] = {name: value[place] for name, value in outputs.items()}
    return found


def run(given):
    """Trains, predicts and saves."""
    import peer_tasks
    import torch
    import transformers

    torch.set_num_threads(given.threads)
    torch.manual_seed(given.random_seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(given.init_checkpoint)
    task = peer_tasks.TASKS[given.task](given, tokenizer)
    model = task.model_class.from_pretrained(given.init_checkpoint, dtype=torch.float32, **task.of_model)
    rows = task.train_rows()
    print(f"{len(rows):,} rows to train on", file=sys.stderr, flush=True)
    begin = time.perf_counter()
    steps = train(model, rows, given)
    print(f"Finished {steps:,} steps in {time.perf_counter() - begin:.1f} s", file=sys.stderr, flush=True)
    model.save_pretrained(os.path.join(given.output_dir, "model"))
    rows = task.test_rows()
    task.write(predict(model, rows, given), given.output_dir)


def main():
    """The program, begun again with settings of the allocator, which are read when a process starts."""
    given = _arguments()
    if any(os.environ.get(name) != value for name, value in KEEP_MEMORY.items()):
        os.environ.update(KEEP_MEMORY, OMP_NUM_THREADS=str(given.threads), HF_HUB_OFFLINE="1")
        os.execv(sys.executable, [sys.executable, *sys.argv])
    os.makedirs(given.output_dir, exist_ok=True)
    run(given)


if __name__ == "__main__":
    main()
