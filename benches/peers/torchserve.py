#!/usr/bin/env python3
"""torchserve.py MODEL.pt BATCH FOLDER PORT COLUMNS: serves one model by TorchServe, as FOLDER's only tenant.

The model takes f32[-1, COLUMNS] as raw bytes and answers raw bytes. One worker, one thread, batches up to BATCH. Becomes the
server, so that whoever started it can measure and end it.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import ts

HANDLER = """
import torch

class Handler:
    def initialize(self, context):
        torch.set_num_threads(1)
        self.model = torch.jit.load(context.system_properties["model_dir"] + "/model.pt").eval()

    def handle(self, data, context):
        rows = [bytearray(row.get("body") or row.get("data")) for row in data]
        x = torch.frombuffer(bytearray().join(rows), dtype=torch.float32).reshape(len(rows), COLUMNS)
        with torch.inference_mode():
            y = self.model(x)
        return [row.numpy().tobytes() for row in y]
"""

SETTINGS = """
inference_address=http://127.0.0.1:{port}
management_address=http://127.0.0.1:{management}
metrics_address=http://127.0.0.1:{metrics}
grpc_inference_port={grpc}
grpc_management_port={grpc_management}
disable_token_authorization=true
default_workers_per_model=1
disable_system_metrics=true
models={models}
"""


def main(model: str, batch: str, folder: str, port: str, columns: str) -> None:
    store = Path(folder) / "store"
    unpacked = store / "model"
    (unpacked / "MAR-INF").mkdir(parents=True)
    shutil.copy(model, unpacked / "model.pt")
    (unpacked / "handler.py").write_text(HANDLER.replace("COLUMNS", columns))
    described = {"modelName": "model", "modelVersion": "1.0", "serializedFile": "model.pt", "handler": "handler.py"}
    manifest = {"runtime": "python", "model": described, "archiverVersion": "0.12.0"}
    (unpacked / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
    served = {"defaultVersion": True, "marName": "model", "minWorkers": 1, "maxWorkers": 1, "batchSize": int(batch)}
    served |= {"maxBatchDelay": 1, "responseTimeout": 120}
    first = int(port)
    ports = {"management": first + 1, "metrics": first + 2, "grpc": first + 3, "grpc_management": first + 4}
    settings = Path(folder) / "config.properties"
    settings.write_text(SETTINGS.format(port=first, models=json.dumps({"model": {"1.0": served}}), **ports))
    home = Path(ts.__file__).parent
    os.chdir(folder)
    # Its Python must be this one.
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    java = ["java", f"-Dmodel_server_home={home.parent}", "-cp", f".:{home}/frontend/*", "org.pytorch.serve.ModelServer"]
    java += ["--python", sys.executable, "-f", str(settings), "-s", str(store), "-ncs", "-m", "model=model"]
    os.execvp(java[0], java)


if __name__ == "__main__":
    main(*sys.argv[1:])
