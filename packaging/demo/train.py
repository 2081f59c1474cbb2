#!/usr/bin/env python3
"""Train the demo's classifier on scikit-learn's handwritten digits and write it as a Casemate model store.

Same packages, same bytes: the seed, the thread count and the instruction set of the arithmetic are fixed, and nothing
that depends on the machine or on the day goes into the archive. A second run must leave `git status` empty.
"""

import os

# Before torch is imported: by default MKL and ATen choose their kernels by CPU, and the kernels round differently.
os.environ["MKL_CBWR"] = "COMPATIBLE"
os.environ["ATEN_CPU_CAPABILITY"] = "default"

import hashlib
import json
from pathlib import Path

import numpy
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
STORE = HERE / "store" / "digits" / "1"
SEED = 20
EPOCHS = 80
BATCH = 64
HIDDEN = 96
SAMPLES = 20


class Digits(nn.Module):
    """64 grey values in, ten probabilities and the likeliest digit out."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(64, HIDDEN)
        self.out = nn.Linear(HIDDEN, 10)

    def logits(self, pixels: Tensor) -> Tensor:
        # The data set counts 0..16; centred on zero it trains faster. Clients send it as it is.
        return self.out(torch.relu(self.hidden(pixels / 8.0 - 1.0)))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        scores = torch.softmax(self.logits(pixels), 1)
        return scores, scores.argmax(1)


def train(pixels: Tensor, labels: Tensor) -> Digits:
    model = Digits()
    steps = EPOCHS * -(-len(pixels) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(pixels)).split(BATCH):
            # A little noise stands in for the augmentation that 1,400 images need.
            noisy = pixels[rows] + torch.randn(len(rows), 64)
            loss = nn.functional.cross_entropy(model.logits(noisy), labels[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def save(model: Digits, path: Path) -> str:
    """Write the model as TorchScript and return its SHA-256.

    `torch.jit.save` keeps the path of every source file in `*.debug_pkl` records, for prettier stack traces. They would
    make the file depend on where this script lies, so they are left out; the loader does without them.
    """
    frozen = torch.jit.freeze(torch.jit.script(model))
    frozen.save(str(path))
    archive = torch._C.PyTorchFileReader(str(path))
    written_by_the_writer = {"version", ".data/serialization_id"}
    records = {
        name: archive.get_record(name)
        for name in archive.get_all_records()
        if not name.endswith(".debug_pkl") and name not in written_by_the_writer
    }
    del archive
    writer = torch._C.PyTorchFileWriter(str(path))
    for name, record in records.items():
        writer.write_record(name, record, len(record))
    writer.write_end_of_file()
    return hashlib.sha256(path.read_bytes()).hexdigest()


MANIFEST = """\
format = "torchscript"
sha256 = "{sha256}"

[[input]]
name = "pixels"
dtype = "FP32"
shape = [-1, 64]

[[output]]
name = "scores"
dtype = "FP32"
shape = [-1, 10]

[[output]]
name = "digit"
dtype = "INT64"
shape = [-1]

[batching]
max_batch_size = 32
max_batch_delay_us = 0

[limits]
deadline_ms = 10000
"""


def samples(pixels: Tensor, labels: Tensor) -> str:
    """Held-out images, one a line: two of each digit where there are that many, in the order of the data set."""
    chosen = sorted(row for digit in range(10) for row in (labels == digit).nonzero().flatten()[: SAMPLES // 10].tolist())
    lines = (
        json.dumps({"label": labels[row].item(), "pixels": pixels[row].int().tolist()}, separators=(",", ":"))
        for row in chosen
    )
    return "[\n" + ",\n".join(lines) + "\n]\n"


def main() -> None:
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)

    data = load_digits()
    split = train_test_split(
        data.data.astype(numpy.float32), data.target, test_size=0.2, stratify=data.target, random_state=SEED
    )
    train_x, test_x, train_y, test_y = (torch.from_numpy(part) for part in split)

    model = train(train_x, train_y)
    STORE.mkdir(parents=True, exist_ok=True)
    sha256 = save(model, STORE / "model.pt")
    (STORE / "model.toml").write_text(MANIFEST.format(sha256=sha256))
    (HERE / "samples.json").write_text(samples(test_x, test_y))

    # Judged from the file, as it will be served.
    _, answer = torch.jit.load(str(STORE / "model.pt"))(test_x)
    right = int((answer == test_y).sum())
    print(f"trained on {len(train_x)} images; right on {right} of {len(test_x)} held out ({right / len(test_x):.2%})")
    print(f"model.pt: {(STORE / 'model.pt').stat().st_size} bytes, sha256 {sha256}")


if __name__ == "__main__":
    main()
