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


@app.command()
def demo(
    runs: Runs = Path("runs/demo"),
    ranks: Annotated[int, typer.Option(help="Processes of each training.")] = 2,
) -> None:
    """See everything work in minutes: toy reviews, three teachers, MultiTrain, MultiKD, MultiKD + MBLM."""
    from mbkd.demo import demo as run_demo

    run_demo(runs, ranks)


@app.command()
def recipes() -> None:
    """List the paper's experiments by name."""
    from rich.console import Console
    from rich.table import Table

    from mbkd import paper

    table = Table("name", "system", "backbone", "task", "languages")
    for name, config in paper.recipes().items():
        languages = f"{' '.join(config.languages)} -> {len(config.task.languages)} languages"
        table.add_row(name, config.system, config.student.backbone, str(config.task.path), languages)
    Console().print(table)


@app.command()
def data(config: ConfigArgument, overrides: Overrides = None) -> None:
    """Show what a configuration reads: rows and label balance per split and language."""
    from rich.console import Console
    from rich.table import Table

    from mbkd import paper
    from mbkd.data import tasks

    task = paper.find(config, overrides or []).task
    names = tasks.label_names(task)
    table = Table("split", "language", "rows", *names, "an example")
    for split in tasks.splits(task):
        for language in task.supervised if split == "train" else task.languages:
            rows = tasks.load(task, split, language)
            labels = rows["label"]
            counts = [str(sum(1 for label in labels if label == i)) for i in range(len(names))]
            table.add_row(split, language, str(len(rows)), *counts, rows[0]["text_a"][:40])
    Console().print(table)


@app.command()
def plan(
    config: ConfigArgument,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    ranks: Ranks = None,
    gpu: Annotated[
        str | None, typer.Option(help="Hours on A100, H100, L4, ... by its published peak; measured here if not given.")
    ] = None,
) -> None:
    """Show what a student and its teachers will take: steps, FLOPs, memory, disk, hours, and what would save some."""
    from mbkd import paper

    found = paper.find(config, overrides or [])
    _quiet()
    from mbkd.measure import machine, plan
    from mbkd.show import print_plan
    from mbkd.train.launch import default_ranks

    text = plan.text(found, runs)
    device = machine.on_gpu(gpu) if gpu else machine.calibrate(found, text.lengths)
    print_plan(plan.estimate([*paper.teacher_runs(found), found], runs, device, ranks or default_ranks()))


@app.command()
def teach(
    config: ConfigArgument,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    ranks: Ranks = None,
    fresh: Fresh = False,
    checkpoint_steps: CheckpointSteps = 500,
    verbose: Verbose = False,
) -> None:
    """Fine-tune the teachers that a configuration names, each on its own language."""
    from mbkd import paper

    found = paper.find(config, overrides or [])
    wanted = list(paper.teacher_runs(found))
    if not wanted:
        raise UserError(f"{config}: names no teacher to fine-tune (teachers.<language>.model)")
    _carry_out(
        wanted,
        [config, *(overrides or []), "--teach", "--checkpoint-steps", str(checkpoint_steps)],
        runs,
        ranks,
        fresh,
        verbose,
    )


@app.command()
def cache(
    config: ConfigArgument,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    ranks: Ranks = None,
    verbose: Verbose = False,
) -> None:
    """Ask the teachers once for all training rows; runs with distill.signal=cache read the answers."""
    from mbkd import paper

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
    verbose: Verbose = False,
) -> None:
    """Train one student and measure it in every language; the last line printed is the run's directory."""
    from mbkd import paper

    found = paper.find(config, overrides or [])
    _carry_out(
        [found], [config, *(overrides or []), "--checkpoint-steps", str(checkpoint_steps)], runs, ranks, fresh, verbose
    )


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
    verbose: Verbose = False,
) -> None:
    """Add a branch for one more language to a trained model; it alone learns, all languages are measured."""
    from mbkd import grown, paper
    from mbkd.config import override
    from mbkd.model import saved
    from mbkd.show import print_results
    from mbkd.train.launch import carry_out

    values = override(paper.values(config), overrides or [])
    overrides = [*(overrides or []), *grown.overrides(saved.folder(model), values, language)]
    found = paper.find(config, overrides)
    arguments = [config, *overrides, "--checkpoint-steps", str(checkpoint_steps)]
    [(directory, result)] = carry_out([found], arguments, runs, ranks, fresh, verbose).items()
    for split in result["accuracy"]:
        print_results([result | result["before"] | {"system": "before"}, result], split)
    print(directory)


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
) -> None:
    """Measure a trained model on a split of a task, in every language."""
    from mbkd import paper

    found = paper.find(config, overrides or [])
    from mbkd.measure.folder import evaluate_folder
    from mbkd.runs import write_json
    from mbkd.show import print_results

    result = evaluate_folder(model, found, split, runs, inference)
    print_results([result], split)
    out = out or model / f"evaluation-{split}{'-' + inference if inference else ''}-{found.hash}.json"
    write_json(out, result)
    print(out)


@app.command()
def mixers(
    model: Annotated[Path, typer.Argument(help="A run directory, or a model's folder.")],
    config: ConfigArgument,
    overrides: Overrides = None,
    split: Annotated[str, typer.Option(help="train, dev or test.")] = "dev",
    out: Annotated[Path | None, typer.Option(help="A .json or .csv file; the heat map lies beside it.")] = None,
    runs: Runs = Path("runs"),
) -> None:
    """Show how much weight each branch gets in each language, mixer by mixer."""
    from mbkd import paper

    found = paper.find(config, overrides or [])
    _quiet()
    from mbkd.measure.heat_map import heat_map
    from mbkd.measure.mixers import measure, write
    from mbkd.show import print_mixers

    weights = measure(model, found, split, runs)
    print_mixers(weights)
    out = out or model / f"mixers-{split}-{found.hash}.json"
    write(weights, out)
    try:
        heat_map(weights, out.with_suffix(".png"))
        print(out.with_suffix(".png"))
    except UserError as error:  # the numbers are there without it
        print(error, file=sys.stderr)
    print(out)


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
    from mbkd.measure.predict import predict as classify

    if classify(model, file, out, text, text_pair, batch_tokens):
        raise typer.Exit(1)


@app.command()
def export(
    model: Annotated[list[Path], typer.Argument(help="A run directory, or a model's folder; runs with --ensemble.")],
    format: Annotated[str, typer.Option(help="onnx.")] = "onnx",
    dtype: Annotated[list[str] | None, typer.Option(help="fp32 (default), fp16 or int8; may be repeated.")] = None,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Write one transformers model that averages the logits of several runs.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="A folder; `onnx` in the model's if not given.")] = None,
) -> None:
    """Write the whole model as one graph, checked against torch on 1,000 toy reviews, with size and speed measured."""
    if format != "onnx":
        raise UserError(f"--format {format}: there is onnx")
    if ensemble and out is None:
        raise UserError("--ensemble: name the new model's folder with --out")
    if len(model) > 1 and not ensemble:
        raise UserError(f"{model[1]}: one model at a time; --ensemble makes one of several runs")
    _quiet()
    if ensemble and out is not None:
        from mbkd.measure.ensemble import write_model
        from mbkd.show import print_results

        result = write_model(model, out)
        for split in result["accuracy"]:
            print_results([result], split)
        print(out)
        return
    from mbkd.model.export import export as write
    from mbkd.show import print_export

    report, folder = write(model[0], dtype or ["fp32"], out)
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
    from mbkd.model.publish import push as upload

    files = upload(model, repo_id, private, licence, dry_run)
    for name, size in files.items():
        print(f"{size:>13,}  {name}")
    print(f"{'would go' if dry_run else 'went'} to https://huggingface.co/{repo_id}")


@app.command()
def doctor() -> None:
    """Show devices, compilers, disk and versions, and say what would fail."""
    from mbkd.doctor import doctor as run_doctor

    sys.exit(run_doctor())


def _quiet() -> None:
    """Keep transformers' notes and bars about loading off the screen; errors still show."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def _carry_out(
    wanted: list[Any], arguments: list[str], runs: Path, ranks: int | None, fresh: bool, verbose: bool
) -> None:
    """Run what is not finished, show the results, print the directories last."""
    from mbkd.show import print_results
    from mbkd.train.launch import carry_out

    results = carry_out(wanted, arguments, runs, ranks, fresh, verbose)
    for split in next(iter(results.values()))["accuracy"]:
        print_results(list(results.values()), split)
    for directory in results:
        print(directory)


if __name__ == "__main__":
    main()
