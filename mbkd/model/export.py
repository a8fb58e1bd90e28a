"""A trained classifier as one ONNX graph: exported, checked against torch, measured.

Letters: B rows, n tokens, C classes.
"""

import contextlib
import copy
import logging
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mbkd.data import toy
from mbkd.data.batches import evaluation_batches
from mbkd.errors import UserError
from mbkd.model import saved
from mbkd.runs import write_json

FILES = {"fp32": "model.onnx", "fp16": "model_fp16.onnx", "int8": "model_int8.onnx"}  # as the hub calls them
REPORT = "export.json"
ROWS = 1000  # of the toy's reviews, in six languages, on which a graph is checked and measured
TOKENS_PER_BATCH = 2048
TOLERANCE = 1e-4  # largest difference of fp32 logits
PROTOBUF_BYTES = 1.8e9  # a graph in one file ends at 2 GB; larger weights lie beside it

Batch = dict[str, np.ndarray]


class Graph(nn.Module):
    """The classifier as a function of tensors in a fixed order; its logits are fp32 whatever it computes in."""

    def __init__(self, model: Any, names: list[str]):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *tensors: Tensor) -> Tensor:
        """Logits (B, C) of tensors (B, n) as `names` has them."""
        return self.model(**dict(zip(self.names, tensors, strict=True))).logits.float()


def export(path: Path, dtypes: list[str], out: Path | None) -> tuple[dict[str, Any], Path]:
    """Write a graph for each of `dtypes` (keys of FILES) and what was measured, as export.json.

    The inputs are input_ids, attention_mask and, where the tokenizer gives them, token_type_ids, each (B, n) int64 with
    any B and any n up to what the model was made for; no language id. out: a folder, by default `onnx` in the model's.
    Returns what export.json holds, and the folder. Raises UserError, also for an fp32 graph with other logits; what was
    in the folder then stays as it was.
    """
    if unknown := [x for x in dtypes if x not in FILES]:
        raise UserError(f"dtype {unknown[0]!r}: one of {', '.join(FILES)}")
    dtypes = list(dict.fromkeys(dtypes))
    _import_extra()
    folder = saved.folder(path)
    model, tokenizer = saved.load(folder), saved.load_tokenizer(folder)
    out = out or folder / "onnx"
    with _workshop(out) as part:
        report = _export(model, tokenizer, dtypes, part)
        for dtype in dtypes:
            _put_in_place(part, FILES[dtype], out)
        (part / REPORT).replace(out / REPORT)
    return report, out


@contextlib.contextmanager
def _workshop(out: Path) -> Iterator[Path]:
    """A folder for what is not checked yet, in `out`: surely on its disk, and hidden, so that no push takes it along.

    Nothing of it stays, nor does an `out` that is empty in the end.
    """
    out.mkdir(parents=True, exist_ok=True)
    part = out / ".part"
    shutil.rmtree(part, ignore_errors=True)  # what a killed process left
    part.mkdir()
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)
        with contextlib.suppress(OSError):
            out.rmdir()


def _put_in_place(part: Path, name: str, out: Path) -> None:
    """Move a graph to `out`, weights beside it first: what is there at any time is whole, if anything is."""
    for old in (out / name, *out.glob(f"{name}.*")):
        old.unlink(missing_ok=True)
    for new in (*part.glob(f"{name}.*"), part / name):
        new.replace(out / new.name)


def _export(model: Any, tokenizer: Any, dtypes: list[str], out: Path) -> dict[str, Any]:
    """Write the graphs and export.json to a folder; returns what the latter holds. Raises UserError as `export`."""
    length = saved.max_tokens(model.config, tokenizer)
    names = [x for x in ("input_ids", "attention_mask", "token_type_ids") if x in tokenizer.model_input_names]
    batches = _batches(tokenizer, names, length)

    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    engines: dict[str, Callable[..., Tensor]] = {"torch fp32": Graph(model, names).eval()}
    with _quietly():
        if {"fp32", "int8"} & set(dtypes):
            _write(model, names, batches, length, out / FILES["fp32"], weights > PROTOBUF_BYTES)
        for dtype in dtypes:
            file = out / FILES[dtype]
            if dtype == "fp16":
                _write(copy.deepcopy(model).half(), names, batches, length, file, weights / 2 > PROTOBUF_BYTES)
            if dtype == "int8":
                _quantise(out / FILES["fp32"], file, weights > PROTOBUF_BYTES)
            engines[f"onnx {dtype}"] = _session(file, names)
    logits, speeds = _run(engines, batches)

    expected = logits["torch fp32"]
    found: dict[str, Any] = {"torch fp32": {"bytes": weights, "rows_per_second": speeds["torch fp32"]}}
    for dtype in dtypes:
        file, answer = out / FILES[dtype], logits[f"onnx {dtype}"]
        difference = float(np.abs(answer - expected).max())
        if dtype == "fp32" and not difference <= TOLERANCE:
            raise UserError(f"{file.name}: its logits differ from the model's by {difference:.2g}; it is not kept")
        found[f"onnx {dtype}"] = {
            "file": file.name,
            "bytes": sum(x.stat().st_size for x in out.glob(f"{file.name}*")),
            "rows_per_second": speeds[f"onnx {dtype}"],
            "agreement": float((answer.argmax(1) == expected.argmax(1)).mean()),
            "largest_difference": difference,
        }
    report = {
        "rows": len(expected),
        "tokens_per_batch": TOKENS_PER_BATCH,
        "threads": torch.get_num_threads(),
        "versions": {x: version(x) for x in ("torch", "transformers", "onnx", "onnxruntime", "onnxscript")},
        "engines": found,
    }
    write_json(out / REPORT, report)
    return report


def _import_extra() -> None:
    """Raise UserError unless all that is needed is installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; pip install 'mbkd[export]'") from None


def _batches(tokenizer: Any, names: list[str], length: int) -> list[Batch]:
    """The toy's reviews as padded batches of many shapes: the widest possible and a row alone among them."""
    each = -(-ROWS // len(toy.LANGUAGES))
    pairs = list(chain.from_iterable(toy.unlabelled(language, each) for language in toy.LANGUAGES))[:ROWS]
    first, second = ([pair[i] for pair in pairs] for i in (0, 1))
    encoded = tokenizer(first, second, truncation="longest_first", max_length=length)
    lengths = np.array([len(ids) for ids in encoded["input_ids"]])
    rows = evaluation_batches(lengths, TOKENS_PER_BATCH, 0, 1)
    rows = [rows[0][:1], rows[0][1:], *rows[1:]]
    found = []
    for i, batch in enumerate(x for x in rows if len(x)):
        part = {name: [encoded[name][row] for row in batch] for name in names}
        wide = {"padding": "max_length", "max_length": min(length, 512)} if i == 1 else {}
        padded = tokenizer.pad(part, return_tensors="np", **wide)
        found.append({name: padded[name] for name in names})
    return found


def _write(model: Any, names: list[str], batches: list[Batch], length: int, file: Path, external: bool) -> None:
    """Export a graph with any number of rows and of tokens up to `length`."""
    # Rows of different length: an attention mask without zeros could be taken for a constant.
    example = min((b for b in batches if not b["attention_mask"].all()), key=lambda b: b["input_ids"].size)
    rows = tuple(torch.from_numpy(example[name]) for name in names)
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=length)}
    torch.onnx.export(
        Graph(model, names).eval(),
        rows,
        file,
        input_names=names,
        output_names=["logits"],
        dynamic_shapes=(tuple(free for _ in names),),
        dynamo=True,
        external_data=external,
        verbose=False,
    )


def _quantise(source: Path, file: Path, external: bool) -> None:
    """Weights as 8-bit integers, activations quantised as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(source, file, weight_type=QuantType.QInt8, use_external_data_format=external)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what the exporters say of packages that are not there and of steps that only convolutions need."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _session(file: Path, names: list[str]) -> Callable[..., Tensor]:
    """The graph in onnxruntime on the CPU, with as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def run(*tensors: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {n: x.numpy() for n, x in zip(names, tensors, strict=True)})[0])

    return run


@torch.inference_mode()
def _run(
    engines: dict[str, Callable[..., Tensor]], batches: list[Batch]
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Each engine's logits (rows, C), and its rows per second.

    They take turns at every batch, so that whatever else the machine does slows all of them.
    """
    found: dict[str, list[np.ndarray]] = {name: [] for name in engines}
    seconds = dict.fromkeys(engines, 0.0)
    inputs = [tuple(torch.from_numpy(values) for values in batch.values()) for batch in batches]
    for engine in engines.values():
        engine(*inputs[0])  # the first call also prepares
    for tensors in inputs:
        for name, engine in engines.items():
            began = time.perf_counter()
            found[name].append(engine(*tensors).numpy())
            seconds[name] += time.perf_counter() - began
    logits = {name: np.concatenate(parts) for name, parts in found.items()}
    return logits, {name: len(logits[name]) / seconds[name] for name in engines}
