"""`mbkd serve` against handlers that run the model once per request, with many local clients.

usage: python -m benchmarks.serving [--width 96] [--depth 4] [--clients 64] [--repeat 3] [--out FILE.json]

The servers alternate. Each is a separate process with the same model, web server and number of threads:
  one by one   a FastAPI handler (`async def`) that tokenises and runs the model for one request at a time
  thread pool  the same handler as a plain `def`, which FastAPI runs in its thread pool
  mbkd serve   rows of all requests in batches, with torch and with the ONNX graphs (--engine onnx, onnx-int8)
Clients share an event loop. Each sends one text, waits for the answer, and sends the next text. Every round starts
after 200 uncounted requests, and ends after `--requests` or after `--seconds`.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from benchmarks import common
from mbkd.data.tokens import load_tokenizer
from mbkd.demo import toy

LANGUAGES = ("en", "fr", "zh")
WARM = 200
TARGET = 4.0
SERVERS = {
    "one by one": ("-m", "benchmarks.serving", "--serve", "one by one"),
    "thread pool": ("-m", "benchmarks.serving", "--serve", "thread pool"),
    "mbkd serve": ("-m", "mbkd", "serve", "--port", "0"),
    "mbkd serve, onnx": ("-m", "mbkd", "serve", "--port", "0", "--engine", "onnx"),
    "mbkd serve, onnx-int8": ("-m", "mbkd", "serve", "--port", "0", "--engine", "onnx-int8"),
}


def make_model(folder: Path, width: int, depth: int) -> None:
    """Write an MBLM with K = 2 and three branches on a random encoder, and its tokenizer."""
    from mbkd.model.mblm import MBLMForSequenceClassification

    tokenizer = common.random_encoder(folder / "encoder", width, depth, 128)
    model = MBLMForSequenceClassification.from_pretrained(
        folder / "encoder", branch_languages=LANGUAGES, branch_depth=2, num_labels=5
    )
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")


def serve_naively(folder: Path, kind: str) -> None:
    """Run a naive server, whose handler runs the model."""
    import torch
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel

    from mbkd.model import saved
    from mbkd.serve.server import listen

    class Row(BaseModel):
        text: str

    model, tokenizer = saved.load(folder), load_tokenizer(folder)
    app = FastAPI()

    def answer(row: Row) -> dict[str, Any]:
        with torch.inference_mode():
            logits = model(**tokenizer(row.text, truncation=True, max_length=128, return_tensors="pt")).logits
            values = logits[0].softmax(-1).tolist()
        probabilities = {model.config.id2label[i]: value for i, value in enumerate(values)}
        return {"label": max(probabilities, key=probabilities.__getitem__), "probabilities": probabilities}

    async def answer_at_once(row: Row) -> dict[str, Any]:
        return answer(row)

    app.post("/classify")(answer if kind == "thread pool" else answer_at_once)
    with listen("127.0.0.1", 0) as listener:
        print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


class Clients:
    """Clients that send requests until their number or the time is reached; latencies in seconds."""

    def __init__(self, port: int, texts: list[str], requests: int, seconds: float) -> None:
        self.port, self.texts, self.requests, self.end = port, texts, requests, time.perf_counter() + seconds
        self.sent, self.failed, self.latencies = 0, 0, list[float]()

    async def ask(self) -> None:
        """Run one client."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        while self.sent < self.requests and time.perf_counter() < self.end:
            body = json.dumps({"text": self.texts[self.sent % len(self.texts)]}).encode()
            self.sent += 1
            head = (
                f"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
            )
            began = time.perf_counter()
            try:
                writer.write(head.encode() + b"\r\n\r\n" + body)
                reply = await reader.readuntil(b"\r\n\r\n")
                fields = dict(line.lower().split(b": ", 1) for line in reply.split(b"\r\n")[1:] if line)
                answer = json.loads(await reader.readexactly(int(fields[b"content-length"])))
                self.failed += not (reply.startswith(b"HTTP/1.1 200") and "probabilities" in answer)
            except (OSError, EOFError, ValueError):
                self.failed += 1
                return
            self.latencies.append(time.perf_counter() - began)
        writer.close()

    async def all(self, clients: int) -> None:
        """Run all clients concurrently."""
        await asyncio.gather(*(self.ask() for _ in range(clients)))


def measure(kind: str, folder: Path, texts: list[str], asked: argparse.Namespace) -> dict[str, float]:
    """Measure a server: requests per second, latencies in ms, processor time, failed requests."""
    import psutil
    import uvloop

    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}  # as the `mbkd` command sets it
    environment |= {"OMP_NUM_THREADS": str(asked.threads)} if asked.threads else {}
    command = [sys.executable, *SERVERS[kind], str(folder / "model")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            address = process.stdout.readline().strip()
            port = int(address.rpartition(":")[2])
            uvloop.run(Clients(port, texts, WARM, asked.seconds).all(asked.clients))
            server = psutil.Process(process.pid)
            clients, began, before = (
                Clients(port, texts, asked.requests, asked.seconds),
                time.perf_counter(),
                _cpu(server),
            )
            uvloop.run(clients.all(asked.clients))
            seconds, used = time.perf_counter() - began, _cpu(server) - before
            batches = urlopen(f"{address}/metrics").read().decode() if kind.startswith("mbkd serve") else ""
        finally:
            process.terminate()
    cuts = statistics.quantiles(clients.latencies, n=100)
    found = {
        "requests_per_second": len(clients.latencies) / seconds,
        "p50_ms": 1e3 * cuts[49],
        "p99_ms": 1e3 * cuts[98],
        "server_cpu_ms": 1e3 * used / len(clients.latencies),  # per request; less affected by other processes
        "requests": float(clients.sent),
        "failed": float(clients.failed),
    }
    values = dict(line.rsplit(" ", 1) for line in batches.splitlines() if line[:1] != "#")
    if values:
        rows = float(values["mbkd_rows_total"])
        found["rows_per_batch"] = rows / float(values["mbkd_batch_rows_count"])
        found["tokens_per_row"] = float(values["mbkd_tokens_total"]) / rows
    return found


def main() -> None:
    parser = common.parser("benchmarks.serving", __doc__)
    parser.add_argument("--width", type=int, default=96, help="width of the encoder, a multiple of 32; 96 in the toy")
    parser.add_argument("--depth", type=int, default=4, help="layers of the encoder, at least two; 4 in the toy")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=2000, help="requests per round")
    parser.add_argument("--seconds", type=float, default=20.0, help="maximum seconds per round")
    parser.add_argument("--threads", type=int, help="OMP_NUM_THREADS of each server; default: all cores")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--serve", choices=["one by one", "thread pool"], help=argparse.SUPPRESS)
    parser.add_argument("model", nargs="?", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        serve_naively(asked.model, asked.serve)
        return
    from mbkd.predict.export import export

    texts = [
        text for number in zip(*(toy.unlabelled(x, 200) for x in toy.LANGUAGES), strict=True) for text, _ in number
    ]
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in SERVERS}
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder), asked.width, asked.depth)
        export(Path(folder, "model"), ["fp32", "int8"], None, toy.unlabelled("en", 20))
        for number in range(asked.repeat):
            for kind, rounds in found.items():
                rounds.append(measure(kind, Path(folder), texts, asked))
                print(f"{number + 1}/{asked.repeat} {kind}: {rounds[-1]}", file=sys.stderr)
    ratios = {
        kind: [ours["requests_per_second"] / theirs["requests_per_second"] for ours, theirs in pairs]
        for kind in SERVERS
        if kind != "mbkd serve"
        if (pairs := list(zip(found["mbkd serve"], found[kind], strict=True)))
    }
    columns = ("server", "n", "requests/s", "p50 ms", "p99 ms", "CPU ms", "failed", "mbkd serve / it")
    rows = []
    for kind, rounds in found.items():
        cells = [common.spread([x[key] for x in rounds], 0) for key in ("requests_per_second", "p50_ms", "p99_ms")]
        cells.append(common.spread([x["server_cpu_ms"] for x in rounds], 2))
        failed = f"{sum(x['failed'] for x in rounds):.0f} of {sum(x['requests'] for x in rounds):.0f}"
        times = common.spread(ratios[kind], 2) if kind in ratios else ""
        rows.append((kind, len(rounds), *cells, failed, times))
    common.print_table(f"{asked.clients} clients; one by one: at least {TARGET:.0f} times", columns, rows)
    common.record("benchmarks.serving", asked.out, {"clients": asked.clients, "rounds": found, "ratios": ratios})


def _cpu(process: Any) -> float:
    """Return the processor seconds of a process."""
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main()
