"""Export a trained classifier as one ONNX graph, check the graph against torch, and measure it.

Letters: B rows, n tokens, C classes.
"""

import contextlib
import copy
import logging
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mbkd.config import Task, read
from mbkd.data import tasks
from mbkd.data.batches import evaluation_batches, evenly_spaced
from mbkd.data.classifiers import label_order
from mbkd.data.tokens import load_tokenizer
from mbkd.errors import UserError
from mbkd.files import refuse_full, write_json
from mbkd.model import saved

FILES = {"fp32": "model.onnx", "fp16": "model_fp16.onnx", "int8": "model_int8.onnx"}  # names as on the Hugging Face hub
REPORT = "export.json"
ROWS = 1000  # maximum rows to check and measure a graph; with a given task, per language
LOST = 0.01  # loss of accuracy in any language above which a graph is not `good`
TOKENS_PER_BATCH = 2048
TOLERANCE = 1e-4  # largest difference of fp32 logits, relative to the largest logit or to 1
PROTOBUF_BYTES = 1.8e9  # protobuf files are limited to 2 GB; larger weights go to a separate file

Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class Rows:
    """The rows that graphs are checked on: a text each, or a pair of texts; and their source.

    language, label, names: language and class of each row, and the task's label names; empty if unknown.
    """

    texts: Sequence[tuple[str, str | None]]
    source: str
    language: tuple[str, ...] = ()
    label: tuple[int, ...] = ()
    names: tuple[str, ...] = ()


class Graph(nn.Module):
    """The classifier as a function of tensors in a fixed order. Logits are fp32 in every precision."""

    def __init__(self, model: Any, names: list[str]):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *tensors: Tensor) -> Tensor:
        """Logits (B, C) of tensors (B, n) in the order of `names`."""
        return self.model(**dict(zip(self.names, tensors, strict=True))).logits.float()


def export(
    path: Path,
    dtypes: list[str],
    out: Path | None,
    rows: Sequence[tuple[str, str | None]] = (),
    task: Task | None = None,
) -> tuple[dict[str, Any], Path]:
    """Write a graph for each of `dtypes` (keys of FILES), and the measurements as export.json.

    Inputs of a graph: input_ids, attention_mask and, if the tokenizer returns them, token_type_ids; each (B, n) int64,
    any B, any n up to the model's maximum. A graph takes no language id.
    out: a folder; default: `onnx` in the model's folder.
    task: check and measure on the task's dev rows (else test, else train), up to ROWS per language.
    rows: check and measure on these texts or pairs of texts, up to ROWS.
    Without task and rows, the graphs are checked on up to ROWS rows of the run's task; for other folders on random
    tokens.
    Labelled rows also give accuracies. A graph that loses more than LOST in a language is kept but not `good`.
    Returns the content of export.json, and the folder. Raises UserError, also if the logits of an fp32 graph differ
    from the model's; the folder is then unchanged.
    """
    if unknown := [x for x in dtypes if x not in FILES]:
        raise UserError(f"--dtype {unknown[0]}: must be one of {', '.join(FILES)}")
    dtypes = list(dict.fromkeys(dtypes))
    _import_extra()
    folder = saved.folder(path)
    model, tokenizer = saved.load(folder), load_tokenizer(folder)
    out = out or folder / "onnx"
    if task is not None:
        checked = _task_rows(task, ROWS, "the task's")
    elif rows:
        checked = Rows(list(rows)[:ROWS], "the given rows")
    else:
        checked = _own_rows(path, tokenizer, saved.max_tokens(model.config, tokenizer))
    order = label_order(model.config.id2label, checked.names, str(folder)) if checked.names else None
    with _staging(out) as part:
        report = _export(model, tokenizer, dtypes, part, checked, order) | {"rows_from": checked.source}
        write_json(part / REPORT, report)
        for dtype in dtypes:
            _put_in_place(part, FILES[dtype], out)
        (part / REPORT).replace(out / REPORT)
    return report, out


@contextlib.contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """Create a hidden staging folder inside `out`, on the same filesystem; `push` skips it.

    The staging folder is always removed, and `out` too if empty.
    """
    part = out / ".part"
    try:
        with refuse_full(out):
            out.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(part, ignore_errors=True)  # left by a killed process
            part.mkdir()
            yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)
        with contextlib.suppress(OSError):
            out.rmdir()


def _put_in_place(part: Path, name: str, out: Path) -> None:
    """Move a graph to `out`, external weights first, so that `out` never holds an incomplete graph."""
    for old in (out / name, *out.glob(f"{name}.*")):
        old.unlink(missing_ok=True)
    for new in (*part.glob(f"{name}.*"), part / name):
        new.replace(out / new.name)


def _export(model: Any, tokenizer: Any, dtypes: list[str], out: Path, checked: Rows, order: Any) -> dict[str, Any]:
    """Write the graphs to a folder. Returns the content of export.json. Raises UserError as `export`.

    order: the model's classes in the order of the rows' labels.
    """
    length = saved.max_tokens(model.config, tokenizer)
    names = [x for x in ("input_ids", "attention_mask", "token_type_ids") if x in tokenizer.model_input_names]
    rows, batches = _batches(tokenizer, names, length, checked.texts)

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
    logits, speeds = _run(engines, rows, batches)

    expected = logits["torch fp32"]
    before = accuracies(expected, checked, order)
    found: dict[str, Any] = {
        "torch fp32": {"bytes": weights, "rows_per_second": speeds["torch fp32"], "accuracy": before}
    }
    for dtype in dtypes:
        file, answer = out / FILES[dtype], logits[f"onnx {dtype}"]
        difference = float(np.abs(answer - expected).max())
        if dtype == "fp32" and not difference <= TOLERANCE * max(1, float(np.abs(expected).max())):
            raise UserError(f"{file.name}: logits differ from the model's by {difference:.2g}; the graph is not kept")
        found[f"onnx {dtype}"] = {
            "file": file.name,
            "bytes": sum(x.stat().st_size for x in out.glob(f"{file.name}*")),
            "rows_per_second": speeds[f"onnx {dtype}"],
            "agreement": float((answer.argmax(1) == expected.argmax(1)).mean()),
            "agreement_by_language": _mean_by_language(answer.argmax(1) == expected.argmax(1), checked),
            "largest_difference": difference,
            "accuracy": (accuracy := accuracies(answer, checked, order)),
            "good": not lost(before, accuracy) if before else None,
        }
    return {
        "rows": len(expected),
        "rows_by_language": {x: checked.language.count(x) for x in dict.fromkeys(checked.language)},
        "tokens_per_batch": TOKENS_PER_BATCH,
        "threads": torch.get_num_threads(),
        "processor": _processor(),
        "versions": {x: version(x) for x in ("torch", "transformers", "onnx", "onnxruntime", "onnxscript")},
        "engines": found,
    }


def _import_extra() -> None:
    """Raise UserError if a package of the `export` extra is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; pip install 'mbkd[export]'") from None


def _own_rows(path: Path, tokenizer: Any, length: int) -> Rows:
    """The same number of rows per language of a run's task; random rows if `path` is not a run or lacks its data."""
    with contextlib.suppress(UserError):
        if (path / "config.yaml").is_file():
            task = read(path / "config.yaml").task
            return _task_rows(task, max(1, ROWS // len(task.languages)), "the run's")
    return Rows([(text, None) for text in _random_texts(tokenizer, min(length, 128))], "random tokens")


def _task_rows(task: Task, count: int, whose: str) -> Rows:
    """`count` rows per language, evenly spaced, of a task's dev split (else test, else train). Raises UserError."""
    split = next(x for x in ("dev", "test", "train") if x in tasks.splits(task))
    languages = tasks.languages(task, split)
    there = []
    for language in languages:
        rows = tasks.load(task, split, language)
        there += [(row, language) for row in rows.select(evenly_spaced(len(rows), count))]
    return Rows(
        [(row["text_a"], row["text_b"] or None) for row, _ in there],
        f"{whose} {split} rows in {len(languages)} languages",
        tuple(language for _, language in there),
        tuple(row["label"] for row, _ in there),
        tasks.label_names(task),
    )


def lost(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Accuracy that a graph loses against the model, in the languages where the loss exceeds LOST."""
    lower = {x: before[x] - after[x] for x in before}
    return {x: value for x, value in lower.items() if value > LOST + 1e-9}  # tolerates rounding at exactly LOST


def _mean_by_language(holds: np.ndarray, checked: Rows) -> dict[str, float]:
    """Share of true values of `holds` (rows,) in each language; empty if the languages are unknown."""
    languages = np.array(checked.language)
    return {x: float(holds[languages == x].mean()) for x in dict.fromkeys(checked.language)}


def accuracies(logits: np.ndarray, checked: Rows, order: Any) -> dict[str, float]:
    """Accuracy of logits (rows, C) in each language; empty if the labels are unknown. order: as in `_export`."""
    if not checked.label:
        return {}
    return _mean_by_language(logits[:, order].argmax(1) == np.array(checked.label), checked)


def _processor() -> str:
    """Name of the processor, and whether it has VNNI, which determines the speed of 8-bit graphs."""
    from cpuinfo import get_cpu_info

    info = get_cpu_info()
    vnni = {"avx512_vnni", "avx_vnni"} & set(info.get("flags", ()))
    return f"{info.get('brand_raw', 'unknown')}, {'with' if vnni else 'without'} VNNI"


def _batches(
    tokenizer: Any, names: list[str], length: int, texts: Sequence[tuple[str, str | None]]
) -> tuple[list[np.ndarray], list[Batch]]:
    """Padded batches of varied shapes, including a single row and the maximum width; and their row indices."""
    encoded = [tokenizer(text, pair, truncation="longest_first", max_length=length) for text, pair in texts]
    rows = evaluation_batches(np.array([len(row["input_ids"]) for row in encoded]), TOKENS_PER_BATCH, 0, 1)
    rows = [x for x in (rows[0][:1], rows[0][1:], *rows[1:]) if len(x)]
    found = []
    for i, batch in enumerate(rows):
        part = {name: [encoded[row][name] for row in batch] for name in names}
        wide = {"padding": "max_length", "max_length": min(length, 512)} if i == 1 else {}
        padded = tokenizer.pad(part, return_tensors="np", **wide)
        found.append({name: padded[name] for name in names})
    return rows, found


def _random_texts(tokenizer: Any, longest: int) -> list[str]:
    """ROWS texts of 1 to `longest` random tokens without special tokens."""
    draw = np.random.default_rng(0)
    ordinary = np.setdiff1d(np.arange(len(tokenizer)), tokenizer.all_special_ids)
    return [tokenizer.decode(draw.choice(ordinary, tokens)) for tokens in draw.integers(1, longest + 1, ROWS)]


def _write(model: Any, names: list[str], batches: list[Batch], length: int, file: Path, external: bool) -> None:
    """Export a graph with dynamic numbers of rows and of tokens, up to `length` tokens."""
    # Two rows, one of them padded, because the exporter turns a size of one and a mask without zeros into constants.
    rows = tuple(torch.from_numpy(np.repeat(batches[0][name], 2, axis=0)) for name in names)
    rows[names.index("attention_mask")][1, -1] = 0
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
    # onnxruntime 1.30 replaces a Gemm by a MatMul with a transposed weight, and refuses the old shape of that weight.
    import onnx

    graph = onnx.load(file, load_external_data=False)
    graph.graph.ClearField("value_info")
    onnx.save(graph, file)


def _quantise(source: Path, file: Path, external: bool) -> None:
    """Quantize weights to unsigned 8-bit integers, and activations dynamically.

    Signed weights saturate in onnxruntime's kernels on processors without VNNI ("Quantize ONNX Models" in its
    documentation, U8S8). Unsigned weights give the same labels on every processor.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(source, file, weight_type=QuantType.QUInt8, use_external_data_format=external)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Silence the exporters' warnings about missing packages and about steps only convolutions need."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def start_session(file: Path) -> Any:
    """Open a graph in onnxruntime on the CPU, with torch's number of threads. Raises UserError."""
    try:
        import onnxruntime
    except ImportError:
        raise UserError("onnxruntime is not installed; pip install 'mbkd[export]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _session(file: Path, names: list[str]) -> Callable[..., Tensor]:
    session = start_session(file)

    def run(*tensors: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {n: x.numpy() for n, x in zip(names, tensors, strict=True)})[0])

    return run


@torch.inference_mode()
def _run(
    engines: dict[str, Callable[..., Tensor]], rows: list[np.ndarray], batches: list[Batch]
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Logits (rows, C) of each engine in the order of the rows, and its rows per second.

    The engines alternate at every batch, so other load on the machine slows all engines alike.
    """
    found: dict[str, list[np.ndarray]] = {name: [] for name in engines}
    seconds = dict.fromkeys(engines, 0.0)
    inputs = [tuple(torch.from_numpy(values) for values in batch.values()) for batch in batches]
    for engine in engines.values():
        engine(*inputs[0])  # warm-up
    for tensors in inputs:
        for name, engine in engines.items():
            began = time.perf_counter()
            found[name].append(engine(*tensors).numpy())
            seconds[name] += time.perf_counter() - began
    back = np.argsort(np.concatenate(rows))
    logits = {name: np.concatenate(parts)[back] for name, parts in found.items()}
    return logits, {name: len(logits[name]) / seconds[name] for name in engines}
