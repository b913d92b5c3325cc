"""What transformers' own way of pre-training reaches in a budget of time; for a Python with transformers and torch.

    PYTHON tests/peers/train_transformers.py --blocks=out/blocks.npz --vocab=out/vocab/vocab.txt \
        --output=out/transformers --minutes=10 --rate=1e-3

BertForMaskedLM with the rule of DataCollatorForLanguageModeling (15 %, 80/10/10, anew each time) on blocks of whole
length, AdamW, gradients clipped at 1, a rate that falls on a line to 0 over the time: what the example run_mlm.py does.
For speed: bfloat16, and scores at masked positions only, which BertForMaskedLM does not do by itself: 32 positions a
row at most, so that hardly one is lost. Only training counts: neither start-up nor the folders written on the way. It
imports nothing of tfbert. The folders hold what transformers saves, and vocab.txt: tests/peers/score.py reads them.
"""

import argparse
import json
import os
import shutil
import time

SLOTS = 32  # masked positions a row; 15 % of 128 are 19, and more than 32 come once in 2,000 rows
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(8 << 30), "MALLOC_TRIM_THRESHOLD_": str(8 << 30)}


def _arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--blocks", required=True, help="input_ids [N, L] of tests/peers/blocks.py")
    parser.add_argument("--vocab", required=True, help="vocab.txt")
    parser.add_argument("--output", required=True, help="folder to make, with one folder of weights for each save")
    parser.add_argument("--minutes", type=float, default=10.0, help="time of training")
    parser.add_argument("--save_every", type=float, default=1.0, help="minutes from save to save")
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--warmup", type=float, default=0.0, help="share of the time in which the rate rises")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu_time", action="store_true", help="count CPU time: for pilots, where others work too")
    return parser.parse_args()


def _model(given, vocab_size):
    """(model, optimizer) of BERT-tiny."""
    import torch
    import transformers

    config = transformers.BertConfig(
        vocab_size=vocab_size,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=512,
        hidden_dropout_prob=given.dropout,
        attention_probs_dropout_prob=given.dropout,
    )
    model = transformers.BertForMaskedLM(config).train()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    return model, torch.optim.AdamW(groups, lr=given.rate, fused=True)


def _batches(ids, size, vocab):
    """(inputs [B, L], labels [B, L]) without end, in a new order each time round, masked by transformers' own rule."""
    import torch
    import transformers

    tokenizer = transformers.BertTokenizerFast(vocab, do_lower_case=True)
    collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm=True, mlm_probability=0.15)
    special = torch.isin(ids, torch.tensor([tokenizer.cls_token_id, tokenizer.sep_token_id]))
    while True:
        order = torch.randperm(len(ids))
        for first in range(0, len(ids) - size + 1, size):
            rows = order[first : first + size]
            yield collator.torch_mask_tokens(ids[rows], special_tokens_mask=special[rows])


def _loss(model, inputs, labels):
    """Mean cross-entropy of the masked positions, scored there only."""
    import torch

    masked, places = (labels != -100).int().sort(dim=1, descending=True, stable=True)
    masked, places = masked[:, :SLOTS].bool(), places[:, :SLOTS]
    hidden = model.bert(input_ids=inputs).last_hidden_state
    hidden = torch.gather(hidden, 1, places[..., None].expand(-1, -1, hidden.shape[-1]))
    targets = torch.where(masked, torch.gather(labels, 1, places), -100)
    return torch.nn.functional.cross_entropy(model.cls(hidden).float().flatten(0, 1), targets.flatten())


def _save(model, given, seconds, steps):
    import torch

    folder = os.path.join(given.output, f"{round(seconds):04d}")
    with torch.no_grad():  # blocks have one segment: the second one's row, never trained, would be noise to others
        segments = model.bert.embeddings.token_type_embeddings.weight
        segments[1] = segments[0]
    model.save_pretrained(folder)
    shutil.copy(given.vocab, os.path.join(folder, "vocab.txt"))
    about = {"seconds": round(seconds, 1), "steps": steps, "sequences": steps * given.batch}
    with open(os.path.join(folder, "progress.json"), "w") as f:
        json.dump(about, f)
    print(json.dumps(about), flush=True)


def train(given):
    """Trains for the time, and saves on the way and at its end."""
    import numpy as np
    import torch

    torch.set_num_threads(given.threads)
    torch.manual_seed(12345)
    ids = torch.from_numpy(np.load(given.blocks)["input_ids"]).long()
    with open(given.vocab, encoding="utf-8") as f:
        model, optimizer = _model(given, sum(1 for _ in f))
    batches = _batches(ids, given.batch, given.vocab)
    clock = time.process_time if given.cpu_time else time.perf_counter
    budget, seconds, steps, saves = given.minutes * 60, 0.0, 0, 0
    while seconds < budget:
        begin = clock()
        done = seconds / budget
        rise = done / given.warmup if done < given.warmup else (1 - done) / (1 - given.warmup)
        for group in optimizer.param_groups:
            group["lr"] = given.rate * rise
        with torch.autocast("cpu", torch.bfloat16):
            loss = _loss(model, *next(batches))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds, steps = seconds + clock() - begin, steps + 1
        if steps % 500 == 0:
            print(f"step {steps}  {seconds:.0f} s  loss {loss.item():.3f}", flush=True)
        if seconds >= min((saves + 1) * given.save_every * 60, budget):
            saves += 1
            _save(model, given, seconds, steps)


def main():
    """The program, begun again with settings of the allocator, which are read when a process starts."""
    import sys

    given = _arguments()
    if any(os.environ.get(name) != value for name, value in KEEP_MEMORY.items()):
        os.environ.update(KEEP_MEMORY, OMP_NUM_THREADS=str(given.threads), HF_HUB_OFFLINE="1")
        os.execv(sys.executable, [sys.executable, *sys.argv])
    train(given)


if __name__ == "__main__":
    main()
