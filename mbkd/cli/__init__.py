"""The `mbkd` command. Imports of torch and its like stay inside the commands: --help answers at once."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mbkd.errors import UserError

app = typer.Typer(
    help="Cross-lingual text classifiers: monolingual teachers distilled into one multi-branch student.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

ConfigArgument = Annotated[str, typer.Argument(help="a YAML file, or a name from `mbkd recipes`", metavar="CONFIG")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="for example train.lr=2e-5 seed=3", metavar="[KEY=VALUE]...")
]
Runs = Annotated[Path, typer.Option(help="Where run directories and token stores go.")]
Ranks = Annotated[int | None, typer.Option(help="Processes; one per GPU if not given, one without a GPU.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start over, also where a run is finished.")]
CheckpointSteps = Annotated[int, typer.Option(min=1, help="Steps between checkpoints; one at every epoch's end, too.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
Log = Annotated[str, typer.Option(help="Where the metrics go besides metrics.jsonl: tensorboard, wandb, mlflow, none.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show what DeepSpeed and transformers print.")]


def main() -> None:
    """Entry point: errors that the user can mend end in one message and exit code 2."""
    # Threads that spin for each other are 4 to 16 times slower where something else uses a core, too.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (UserError, OSError) as error:  # a file that cannot be read or written names itself
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


@app.callback()
def options(
    no_color: Annotated[bool, typer.Option("--no-color", help="No colours; as NO_COLOR=1 does.")] = False,
) -> None:
    """Options of all commands."""
    if no_color:
        os.environ["NO_COLOR"] = "1"  # read by rich, also in the processes that are started


@app.command()
def demo(
    runs: Runs = Path("runs/demo"),
    ranks: Annotated[int, typer.Option(help="Processes of each training.")] = 2,
) -> None:
    """See everything work in minutes: toy reviews, three teachers, MultiTrain, MultiKD, MultiKD + MBLM."""
    from mbkd.demo.run import demo as run_demo

    run_demo(runs, ranks)


@app.command()
def recipes(json: Json = False) -> None:
    """List the paper's experiments by name."""
    from rich.console import Console
    from rich.table import Table

    from mbkd.config import paper

    found = paper.recipes()
    if json:
        _print_json({name: {"system": x.system, **x.model_dump(mode="json")} for name, x in found.items()})
        return
    table = Table("name", "system", "backbone", "task", "languages")
    for name, config in found.items():
        languages = f"{' '.join(config.languages)} -> {len(config.task.languages)} languages"
        table.add_row(name, config.system, config.student.backbone, str(config.task.path), languages)
    Console().print(table)


@app.command()
def init(
    source: Annotated[
        str | None,
        typer.Argument(help="A file, names such as reviews.{language}.csv, or a hub dataset's id or folder."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The YAML file; named like the source if not given.")] = None,
    text: Annotated[str | None, typer.Option(help="Column with the text.")] = None,
    text_pair: Annotated[str | None, typer.Option(help="Column with the second text of a pair; - for none.")] = None,
    label: Annotated[str | None, typer.Option(help="Column with the label.")] = None,
    language: Annotated[str | None, typer.Option(help="Column with the language, or the language of all rows.")] = None,
    labels: Annotated[str | None, typer.Option(help="The labels in the order of the classes: low,middle,high.")] = None,
    ordinal: Annotated[bool | None, typer.Option(help="The labels are steps of one scale.")] = None,
    supervised: Annotated[str | None, typer.Option(help="Languages to train on: en,fr.")] = None,
    zero_shot: Annotated[str | None, typer.Option(help="Languages to measure only: de,es.")] = None,
    split: Annotated[bool | None, typer.Option(help="Write train, dev and test files where there is one only.")] = None,
    teachers: Annotated[bool | None, typer.Option(help="Distil teachers, or learn from the labels alone.")] = None,
    backbone: Annotated[str | None, typer.Option(help="The student's encoder: a folder or hub id.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing, take the guesses; so without a terminal.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over files that are there.")] = False,
) -> None:
    """Look at your rows, ask what they do not say, and write a configuration that runs."""
    from mbkd.onboarding.init import Wishes, write

    lists = [
        tuple(x.strip() for x in (given or "").split(",") if x.strip()) for given in (labels, supervised, zero_shot)
    ]
    wishes = Wishes(text, text_pair, label, language, lists[0], ordinal, lists[1], lists[2], split, teachers, backbone)
    print(write(source, out, wishes, force, interactive=not yes and sys.stdin.isatty()))


@app.command()
def data(config: ConfigArgument, overrides: Overrides = None, json: Json = False) -> None:
    """Show what a configuration reads, and what a training would suffer from; exit code 2 if it would not start."""
    from mbkd.config import paper
    from mbkd.data import offline

    found = paper.find(config, overrides or [])
    teachers = [teacher.model for several in found.teachers.values() for teacher in several]
    offline.if_unreachable([found.student.backbone, *teachers])
    _quiet()
    from mbkd.onboarding.quality import inspect
    from mbkd.terminal.data import print_data

    report = inspect(found)
    if json:
        _print_json(report)
    else:
        print_data(report)
    if report["problems"]:
        raise UserError("; ".join(report["problems"]))


@app.command()
def plan(
    config: ConfigArgument,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    ranks: Ranks = None,
    gpu: Annotated[
        str | None, typer.Option(help="Hours on A100, H100, L4, ... by its published peak; measured here if not given.")
    ] = None,
    json: Json = False,
) -> None:
    """Show what a student and its teachers will take: steps, FLOPs, memory, disk, hours, and what would save some."""
    from mbkd.config import paper

    found = paper.find(config, overrides or [])
    _quiet()
    from mbkd.estimate import machine, plan
    from mbkd.terminal.results import print_plan
    from mbkd.train.launch import default_ranks

    text = plan.text(found, runs)
    device = machine.on_gpu(gpu) if gpu else machine.calibrate(found, text.lengths)
    estimate = plan.estimate([*paper.teacher_runs(found), found], runs, device, ranks or default_ranks())
    if json:
        _print_json(estimate)
        return
    print_plan(estimate)


@app.command()
def teach(
    config: ConfigArgument,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    ranks: Ranks = None,
    fresh: Fresh = False,
    checkpoint_steps: CheckpointSteps = 500,
    log: Log = "tensorboard",
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Fine-tune the teachers that a configuration names, each on its own language."""
    from mbkd.config import paper

    found = paper.find(config, overrides or [])
    wanted = list(paper.teacher_runs(found))
    if not wanted:
        raise UserError(f"{config}: names no teacher to fine-tune (teachers.<language>.model)")
    arguments = [config, *(overrides or []), "--teach", *_job(checkpoint_steps, log)]
    _show(_carry_out(wanted, arguments, runs, ranks, fresh, verbose), json, several=True)


@app.command()
def cache(
    config: ConfigArgument,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    ranks: Ranks = None,
    verbose: Verbose = False,
) -> None:
    """Ask the teachers once for all training rows; runs with distill.signal=cache read the answers."""
    from mbkd.config import paper

    overrides = [*(overrides or []), "distill.signal=cache"]
    found = paper.find(config, overrides)
    from mbkd.train.launch import build_cache

    build_cache(found, [config, *overrides], runs, ranks, verbose)
    print(runs / "store" / "logits")


@app.command()
def train(
    config: ConfigArgument,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    ranks: Ranks = None,
    fresh: Fresh = False,
    checkpoint_steps: CheckpointSteps = 500,
    log: Log = "tensorboard",
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Train one student and measure it in every language; the last line printed is the run's directory."""
    from mbkd.config import paper

    found = paper.find(config, overrides or [])
    arguments = [config, *(overrides or []), *_job(checkpoint_steps, log)]
    _show(_carry_out([found], arguments, runs, ranks, fresh, verbose), json)


@app.command()
def grow(
    model: Annotated[Path, typer.Argument(help="A run directory, or a model's folder.")],
    config: ConfigArgument,
    overrides: Overrides = None,
    *,
    language: Annotated[str, typer.Option(help="The language that gets a branch; it needs training rows.")],
    runs: Runs = Path("runs"),
    ranks: Ranks = None,
    fresh: Fresh = False,
    checkpoint_steps: CheckpointSteps = 500,
    log: Log = "tensorboard",
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Add a branch for one more language to a trained model; it alone learns, all languages are measured."""
    from mbkd.config import grown, override, paper
    from mbkd.model import saved

    values = override(paper.values(config), overrides or [])
    overrides = [*(overrides or []), *grown.overrides(saved.folder(model), values, language)]
    found = paper.find(config, overrides)
    arguments = [config, *overrides, *_job(checkpoint_steps, log)]
    results = _carry_out([found], arguments, runs, ranks, fresh, verbose)
    (result,) = results.values()
    _show(results, json, above=[result | result["before"] | {"system": "before"}])


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="A run directory, or a model's folder.")],
    config: ConfigArgument,
    overrides: Overrides = None,
    split: Annotated[str, typer.Option(help="train, dev or test.")] = "test",
    inference: Annotated[
        str | None, typer.Option(help="Of a student without mixers: single or all, whatever it was trained with.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where the scores go, as JSON.")] = None,
    runs: Runs = Path("runs"),
    json: Json = False,
) -> None:
    """Measure a trained model on a split of a task, in every language."""
    from mbkd.config import paper

    found = paper.find(config, overrides or [])
    from mbkd.evaluate.folder import evaluate_folder
    from mbkd.runs import write_json
    from mbkd.terminal.results import print_results

    result = evaluate_folder(model, found, split, runs, inference)
    out = out or model / f"evaluation-{split}{'-' + inference if inference else ''}-{found.hash}.json"
    write_json(out, result)
    if json:
        _print_json(result)
        return
    print_results([result], split)
    print(out)


@app.command()
def mixers(
    model: Annotated[Path, typer.Argument(help="A run directory, or a model's folder.")],
    config: ConfigArgument,
    overrides: Overrides = None,
    split: Annotated[str, typer.Option(help="train, dev or test.")] = "dev",
    out: Annotated[Path | None, typer.Option(help="A .json or .csv file; the heat map lies beside it.")] = None,
    runs: Runs = Path("runs"),
    json: Json = False,
) -> None:
    """Show how much weight each branch gets in each language, mixer by mixer."""
    from mbkd.config import paper

    found = paper.find(config, overrides or [])
    _quiet()
    from mbkd.evaluate.heat_map import heat_map
    from mbkd.evaluate.mixers import measure, write
    from mbkd.terminal.results import print_mixers

    weights = measure(model, found, split, runs)
    out = out or model / f"mixers-{split}-{found.hash}.json"
    write(weights, out)
    files = [out]
    try:
        heat_map(weights, out.with_suffix(".png"))
        files.insert(0, out.with_suffix(".png"))
    except UserError as error:  # the numbers are there without it
        print(error, file=sys.stderr)
    if json:
        _print_json(weights)
        return
    print_mixers(weights)
    print(*files, sep="\n")


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="A run directory, or a model's folder.")],
    file: Annotated[Path | None, typer.Argument(help="JSONL, CSV, TSV, or TXT with a text a line.")] = None,
    out: Annotated[Path | None, typer.Option(help="A .jsonl or .csv file instead of standard output.")] = None,
    text: Annotated[str, typer.Option(help="Column or field with the text.")] = "text",
    text_pair: Annotated[str | None, typer.Option(help="Column or field with the second text of a pair.")] = None,
    batch_tokens: Annotated[int, typer.Option(min=1, help="Rows times longest row of a batch.")] = 8192,
) -> None:
    """Classify the rows of a file or of standard input (JSONL, or a text a line); exit code 1 if one was bad."""
    _quiet()
    from mbkd.predict.stream import predict as classify

    if classify(model, file, out, text, text_pair, batch_tokens):
        raise typer.Exit(1)


@app.command()
def serve(
    model: Annotated[Path, typer.Argument(help="A run directory, or a model's folder.")],
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one; the address is printed.")] = 8000,
    batch_tokens: Annotated[
        int | None, typer.Option(min=1, help="Rows times longest row of a batch; 8192, or 1024 without a GPU.")
    ] = None,
    max_texts: Annotated[int, typer.Option(min=1, help="Texts of one request.")] = 256,
    max_characters: Annotated[int, typer.Option(min=1, help="Characters of one text.")] = 20_000,
    max_body: Annotated[int, typer.Option(min=1, help="Bytes of one request.")] = 1_000_000,
    queue: Annotated[int, typer.Option(min=1, help="Texts that may wait; more are sent away with 503.")] = 1024,
) -> None:
    """Answer texts over HTTP (POST /classify), with a page to try one at /; stops on SIGTERM or Ctrl-C."""
    from mbkd.serve.requests import Limits
    from mbkd.serve.server import serve as answer

    answer(model, host, port, batch_tokens, Limits(max_body, max_texts, max_characters, queue))


@app.command()
def export(
    model: Annotated[list[Path], typer.Argument(help="A run directory, or a model's folder; runs with --ensemble.")],
    format: Annotated[str, typer.Option(help="onnx.")] = "onnx",
    dtype: Annotated[list[str] | None, typer.Option(help="fp32 (default), fp16 or int8; may be repeated.")] = None,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Write one transformers model that averages the logits of several runs.")
    ] = False,
    rows: Annotated[
        Path | None,
        typer.Option(help="Rows to check the graphs on, in a file that `mbkd predict` reads."),
    ] = None,
    text: Annotated[str, typer.Option(help="Column or field of --rows with the text.")] = "text",
    text_pair: Annotated[str | None, typer.Option(help="Column or field with the second text of a pair.")] = None,
    out: Annotated[Path | None, typer.Option(help="A folder; `onnx` in the model's if not given.")] = None,
    json: Json = False,
) -> None:
    """Write the whole model as one graph, checked against torch on up to 1,000 rows, with size and speed measured."""
    if format != "onnx":
        raise UserError(f"--format {format}: there is onnx")
    if ensemble and out is None:
        raise UserError("--ensemble: name the new model's folder with --out")
    if len(model) > 1 and not ensemble:
        raise UserError(f"{model[1]}: one model at a time; --ensemble makes one of several runs")
    _quiet()
    if ensemble and out is not None:
        from mbkd.ensemble.runs import write_model
        from mbkd.terminal.results import print_results

        result = write_model(model, out)
        for split in result["accuracy"]:
            print_results([result], split)
        print(out)
        return
    from mbkd.predict.export import export as write
    from mbkd.predict.stream import pairs
    from mbkd.terminal.results import print_export

    report, folder = write(model[0], dtype or ["fp32"], out, pairs(rows, text, text_pair) if rows else ())
    if json:
        _print_json({"directory": str(folder), **report})
        return
    print_export(report)
    print(folder)


@app.command()
def push(
    model: Annotated[Path, typer.Argument(help="A run directory, or a model's folder.")],
    repo_id: Annotated[str, typer.Argument(help="Where it goes on the hub, such as me/my-model.")],
    private: Annotated[bool, typer.Option("--private", help="Create the repository as a private one.")] = False,
    licence: Annotated[str | None, typer.Option("--license", help="For the card, such as apache-2.0.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be uploaded.")] = False,
) -> None:
    """Upload a trained model, its tokenizer and its card to the Hugging Face hub."""
    from mbkd.predict.push import push as upload

    files = upload(model, repo_id, private, licence, dry_run)
    for name, size in files.items():
        print(f"{size:>13,}  {name}")
    print(f"{'would go' if dry_run else 'went'} to https://huggingface.co/{repo_id}")


@app.command()
def doctor(json: Json = False) -> None:
    """Show devices, compilers, disk and versions; exit code 1 if something would fail."""
    from mbkd.onboarding.doctor import findings, show

    found = list(findings())
    if json:
        _print_json([{"what": what, "found": value, "problem": problem or None} for what, value, problem in found])
    else:
        show(found)
    if any(problem for _, _, problem in found):
        raise typer.Exit(1)


def _print_json(value: Any) -> None:
    """What a command found, as one JSON document on standard output."""
    import json

    print(json.dumps(value, indent=2, ensure_ascii=False))


def _quiet() -> None:
    """Keep transformers' notes and bars about loading off the screen; errors still show."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def _job(checkpoint_steps: int, log: str) -> list[str]:
    """Options that the job takes as they are. Raises UserError for a tracker that is not installed."""
    from mbkd.train import tracking

    tracking.refuse_missing(log)
    return ["--checkpoint-steps", str(checkpoint_steps), "--log", log]


def _carry_out(
    wanted: list[Any], arguments: list[str], runs: Path, ranks: int | None, fresh: bool, verbose: bool
) -> dict[Path, dict[str, Any]]:
    """Run what is not finished; returns the results by their directories."""
    from mbkd.train.launch import carry_out

    return carry_out(wanted, arguments, runs, ranks, fresh, verbose)


def _show(
    results: dict[Path, dict[str, Any]], json: bool, several: bool = False, above: list[dict[str, Any]] | None = None
) -> None:
    """Print results as tables, the directories last; or as JSON: one object, a list where a command makes `several`.

    above: rows that stand above the results' own.
    """
    if json:
        documents = [{"directory": str(directory), **result} for directory, result in results.items()]
        _print_json(documents if several else documents[0])
        return
    from mbkd.terminal.results import print_results

    for split in next(iter(results.values()))["accuracy"]:
        print_results([*(above or []), *results.values()], split)
    for directory in results:
        print(directory)


if __name__ == "__main__":
    main()
