"""Params and Time of Table 6: Single, Ens2 and MBLM measured in turn, with predictions from FLOPs.

MBLM is the configuration's structure, named as in reports: `MBLM, rank 8`, `MBLM - detaching`.

usage: python -m tuning.efficiency CONFIG [KEY=VALUE..] [--rounds N] [--runs RUNS]

Models have random weights of the real shapes. Rows are artificial, with real lengths if the data is local. Time and
memory do not depend on the values. In every round, all systems take the same batch on the same device, one after
another, because load on the machine then affects all systems. All systems compute in the same precision.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from mbkd import distributed, precision
from mbkd.config import Config, changed, paper, structures
from mbkd.errors import UserError
from mbkd.estimate import cost, dry_run, machine, plan
from mbkd.files import write_json
from mbkd.runs import environment
from mbkd.terminal.console import make_console
from mbkd.terminal.grid import Row, fitting
from mbkd.terminal.progress import ProgressBar
from mbkd.train.trainer import Trainer

SIGNALS = ("online", "cache")


def measure(config: Config, root: Path, rounds: int) -> dict[str, Any]:
    """The content of efficiency-<hash>.json (docs/run-directory.md). Raises UserError."""
    if not config.student.branch_depth or config.distill.signal == "labels":
        raise UserError("set student.branch_depth and teachers: Table 6 compares MultiKD with and without MBLM")
    distributed.quiet()
    ranks = distributed.start()
    read = plan.text(config, root)
    single = changed(config, {"student": structures.PLAIN})
    mblm = f"MBLM{config.system.partition('MBLM')[2]}"
    _refuse_too_large([single, single, config], read, ranks)
    made = [dry_run.trainer(each, read.lengths, ranks) for each in (single, single, config)]
    systems = {"Single": made[:1], "Ens2": made[:2], mblm: made[2:]}
    sources = dry_run.sources(config, read.lengths, ranks)
    rows = config.train.batch_size
    for trainer in made:
        dry_run.warm_up(trainer, sources["cache"])
    _step(made[0], sources["online"], 0)
    with ProgressBar("steps in turn", rounds) as progress:
        seconds, answers, widths = [], [], []
        for number in range(rounds):
            step = number % made[0].plan.steps
            turns = made[number % 3 :] + made[: number % 3]
            order = SIGNALS if number % 2 == 0 else SIGNALS[::-1]
            each = {(x, trainer): _step(trainer, sources[x], step) for x in order for trainer in turns}
            seconds.append(
                {s: {x: sum(each[x, t] for t in members) for x in SIGNALS} for s, members in systems.items()}
            )
            told = {trainer: _answer(trainer, step) for trainer in turns}
            answers.append({s: sum(told[t] for t in members) / rows for s, members in systems.items()})
            widths.append(dry_run.width(made[0].plan, step, read.lengths))
            progress.advance()
    peaks = {trainer: _peak_bytes(trainer, 0) for trainer in made}
    distributed.stop()

    configs = {"Single": [single], "Ens2": [single, single], mblm: [config]}
    flops = {
        s: {x: statistics.mean(_flops(c, x, rows, n) for n in widths) for x in SIGNALS} for s, c in configs.items()
    }
    sizes = {s: [cost.student_size(each) for each in c] for s, c in configs.items()}
    return {
        "kind": "efficiency",
        "task": config.task.kind,
        "backbone": config.student.backbone,
        "branch_depth": config.student.branch_depth,
        "machine": distributed.device_name(ranks),
        "precision": made[0].precision,
        "versions": environment()["packages"],
        "rounds": rounds,
        "batch_size": rows,
        "widths": widths,
        "text": read.source,
        "systems": {
            s: {
                "parameters": sum(size.parameters for size in sizes[s]),
                "parameters_without_embeddings": sum(size.parameters - size.embeddings for size in sizes[s]),
                "flops_per_step": flops[s],
                "step_seconds": {x: _spread([each[s][x] for each in seconds]) for x in SIGNALS},
                "inference_seconds_per_row": statistics.median(each[s] for each in answers),
                "inference_memory_bytes": sum(_weights(t) for t in group) + max(peaks[t] for t in group),
            }
            for s, group in systems.items()
        },
        # Median of per-round ratios: load on the machine cancels.
        "ratios": {
            "measured": {x: statistics.median(e[mblm][x] / e["Single"][x] for e in seconds) for x in SIGNALS},
            "predicted": {x: flops[mblm][x] / flops["Single"][x] for x in SIGNALS},
            "paper": _at_the_papers_sizes(),
        },
    }


def _step(trainer: Trainer, source: Any, step: int) -> float:
    trainer.source = source
    distributed.synchronize()
    began = time.perf_counter()
    trainer.step(step)
    distributed.synchronize()
    return time.perf_counter() - began


def _answer(trainer: Trainer, step: int) -> float:
    """Seconds of the model's forward pass for the batch of a step, without a language."""
    answer = _answering(trainer, step)
    answer()  # warm-up after the steps of other models
    distributed.synchronize()
    began = time.perf_counter()
    answer()
    distributed.synchronize()
    return time.perf_counter() - began


def _answering(trainer: Trainer, step: int) -> Callable[[], None]:
    language, model = trainer.plan.language(step), trainer.engine.module
    batch = distributed.tensors(trainer.inputs.train[language].batch(trainer.plan.rows(step)), trainer.ranks.device)

    def answer() -> None:
        model.eval()
        with torch.inference_mode():
            model(**batch)
        model.train()

    return answer


def _peak_bytes(trainer: Trainer, step: int) -> int:
    """Peak memory of a forward pass in bytes, without the model's weights."""
    answer = _answering(trainer, step)
    if trainer.ranks.device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        answer()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        answer()
    held = peak = 0
    events = (e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]")
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def _weights(trainer: Trainer) -> int:
    return sum(p.numel() * p.element_size() for p in trainer.engine.module.parameters())


def _flops(configs: list[Config], signal: str, rows: int, tokens: int) -> float:
    """FLOPs of one step of every member, each with its own teacher if teachers run."""
    return sum(
        cost.student_flops(each, rows, tokens) + (cost.teacher_flops(each, rows, tokens) if signal == "online" else 0)
        for each in configs
    )


def _at_the_papers_sizes() -> dict[str, float]:
    """Ratios predicted for 32 rows of 128 tokens, mBERT, teachers of 24 layers x 1024, and whole last layers."""
    full = paper.recipes()["xnli-mbert-mblm"]
    attached = changed(full, {"student": {"detach": False}})
    return {
        "online": cost.time_ratio(full, 32, 128, teacher=True, whole=True),
        "cache": cost.time_ratio(full, 32, 128, teacher=False, whole=True),
        "online, - detaching": cost.time_ratio(attached, 32, 128, teacher=True, whole=True),
    }


def _refuse_too_large(configs: list[Config], read: plan.Text, ranks: distributed.Ranks) -> None:
    """Raise UserError if the systems do not fit into memory together."""
    widest = max(int(each.max()) for each in read.lengths.values())
    kinds = precision.choose(configs[0].train.precision, ranks.device), distributed.half_supported()
    parts = [cost.memory(each, *kinds, 1, widest) for each in configs]
    needed = sum(sum(x.values()) - x["teachers"] - x["activations"] for x in parts)
    needed += max(x["teachers"] + x["activations"] for x in parts)
    if needed > (free := machine.free_bytes(ranks.device)):
        raise UserError(
            f"the systems need about {needed / 1e9:.1f} GB together, but only {free / 1e9:.1f} GB are free; "
            "use a larger machine or a smaller train.batch_size"
        )


def _spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, median, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return {"median": median, "low": low, "high": high}


def show(found: dict[str, Any]) -> None:
    """Print the systems, and the measured and predicted ratios, also at the paper's sizes."""
    console = make_console()
    title = (
        f"{found['task']}, {found['backbone']}, {found['batch_size']} rows of {statistics.mean(found['widths']):.0f} "
        f"tokens, {found['precision']}; {found['machine']}; median of {found['rounds']} rounds (quartiles)"
    )
    names = ("M parameters", "without tables", "GFLOP/step", "cached", "ms/step", "cached", "ms/row", "MB")
    rows = []
    for system, each in found["systems"].items():
        times = [each["step_seconds"][x] for x in SIGNALS]
        cells = [
            f"{each['parameters'] / 1e6:,.1f}",
            f"{each['parameters_without_embeddings'] / 1e6:,.1f}",
            *(f"{each['flops_per_step'][x] / 1e9:,.1f}" for x in SIGNALS),
            *(f"{1e3 * t['median']:,.1f} ({1e3 * t['low']:,.1f} - {1e3 * t['high']:,.1f})" for t in times),
            f"{1e3 * each['inference_seconds_per_row']:,.2f}",
            f"{each['inference_memory_bytes'] / 1e6:,.0f}",
        ]
        rows.append(Row(system, cells))
    for table in fitting(rows, [("", names)], console, title):
        console.print(table)
    ratios = Table(f"{[*found['systems']][-1]} / Single, time of a step", *SIGNALS, "online, - detaching")
    for name, title in (
        ("measured", "measured: median over rounds"),
        ("predicted", "predicted by FLOPs"),
        ("paper", "predicted at the paper's sizes"),
    ):
        cells = [found["ratios"][name].get(x) for x in (*SIGNALS, "online, - detaching")]
        ratios.add_row(title, *["-" if x is None else f"{x:.3f}" for x in cells])
    console.print(ratios)
    console.print(f"text: {found['text']}", highlight=False, soft_wrap=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="tuning.efficiency", description=__doc__.splitlines()[0])
    parser.add_argument("config", help="MultiKD + MBLM: a YAML file, or a name from `mbkd recipes`")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example train.batch_size=8")
    parser.add_argument("--rounds", type=int, default=20, help="steps of every system (default: 20)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the result (default: runs)")
    asked = parser.parse_intermixed_args()
    config = paper.find(asked.config, asked.overrides)
    asked.runs.mkdir(parents=True, exist_ok=True)  # first, because an error would waste minutes of measurement
    found = measure(config, asked.runs, asked.rounds)
    show(found)
    out = asked.runs / f"efficiency-{config.hash}.json"
    write_json(out, found)
    print(out)


if __name__ == "__main__":
    try:
        main()
    except (UserError, OSError) as error:  # the message of OSError names the file
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
