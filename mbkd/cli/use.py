"""Commands for trained models: evaluate, mixers, fold, predict, serve, ensemble, export, push."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from mbkd.cli.options import (
    ConfigArgument,
    Header,
    Json,
    ModelArgument,
    Overrides,
    Quoting,
    Runs,
    check_beside,
    check_folder,
    check_out,
    check_out_folder,
    is_yes,
    print_json,
    quiet,
)
from mbkd.errors import UserError
from mbkd.files import refuse_file


def evaluate(
    model: ModelArgument,
    config: ConfigArgument,
    overrides: Overrides = None,
    split: Annotated[str, typer.Option(help="train, dev or test.")] = "test",
    inference: Annotated[
        str | None, typer.Option(help="For a student without mixers: single or all; overrides the trained setting.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The JSON file for the scores.")] = None,
    runs: Runs = Path("runs"),
    json: Json = False,
) -> None:
    """Evaluate a trained model on a split of a task, in every language."""
    check_out(out)
    check_beside(model, out)
    from mbkd.config import paper

    found = paper.find(config, overrides or [])
    from mbkd.evaluate.folder import evaluate_folder
    from mbkd.files import write_json
    from mbkd.terminal.results import print_results

    result = evaluate_folder(model, found, split, runs, inference)
    out = out or model / f"evaluation-{split}{'-' + inference if inference else ''}-{found.hash}.json"
    write_json(out, result.as_json())
    if json:
        print_json(result.as_json())
        return
    print_results([result], split)
    print(out)


def mixers(
    model: ModelArgument,
    config: ConfigArgument,
    overrides: Overrides = None,
    split: Annotated[str, typer.Option(help="train, dev or test.")] = "dev",
    out: Annotated[Path | None, typer.Option(help="A .json or .csv file; the heat map gets the same name.")] = None,
    runs: Runs = Path("runs"),
    json: Json = False,
) -> None:
    """Show the mean weight of each branch per language and mixer."""
    check_out(out, (".json", ".csv"))
    check_beside(model, out)
    from mbkd.config import paper

    found = paper.find(config, overrides or [])
    quiet()
    from mbkd.evaluate import heat_map
    from mbkd.evaluate.mixers import measure, write
    from mbkd.terminal.results import print_mixers

    weights = measure(model, found, split, runs)
    out = out or model / f"mixers-{split}-{found.hash}.json"
    write(weights, out)
    files = [out]
    try:
        figure = heat_map.draw(weights)
    except UserError as error:  # the numbers do not need the heat map
        print(error, file=sys.stderr)
    else:
        files.insert(0, out.with_suffix(".png"))
        heat_map.write(figure, files[0])
    if json:
        print_json(weights)
        return
    print_mixers(weights)
    print(*files, sep="\n")


def fold(
    run: Annotated[Path, typer.Argument(help="The directory of a finished run with branches.")],
    weights: Annotated[
        str, typer.Option(help="Weights of the branches: mean (equal), or mixers (the mixers' mean weights on dev).")
    ] = "mean",
    out: Annotated[Path | None, typer.Option(help="A new folder; default: next to the run.")] = None,
    json: Json = False,
) -> None:
    """Average a student's branches into one plain encoder, and compare both models in every language."""
    quiet()
    from mbkd.evaluate.folded import fold_run
    from mbkd.terminal.results import print_results

    directory, results = fold_run(run, weights, out)
    if json:
        print_json({"directory": str(directory), **results[1].as_json()})
        return
    for split in results[0].accuracy:
        print_results(results, split)
    print(directory)


def predict(
    model: ModelArgument,
    file: Annotated[
        Path | None, typer.Argument(help="JSONL, JSON, CSV, TSV, parquet, or TXT with one text per line.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A .jsonl, .csv or .tsv file instead of standard output.")] = None,
    text: Annotated[str, typer.Option(help="Column or field with the text.")] = "text",
    text_pair: Annotated[str | None, typer.Option(help="Column or field with the second text of a pair.")] = None,
    batch_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Maximum tokens of a batch, with padding; default: 8192, or 2048 without a GPU."),
    ] = None,
    min_confidence: Annotated[
        float, typer.Option(min=0, max=1, help="Rows with a lower probability get no label, for review by a person.")
    ] = 0.0,
    language: Annotated[
        str | None, typer.Option(help="Language of all rows, such as en; its own temperature calibrates them.")
    ] = None,
    header: Header = None,
    quoting: Quoting = None,
) -> None:
    """Classify rows of a file or standard input (JSONL, or one text per line). Exit code 1 for bad rows."""
    check_folder(out)  # before large imports
    quiet()
    from mbkd.predict.stream import check_output
    from mbkd.predict.stream import predict as classify

    check_output(out, file)
    check_out(out)
    table = (header != "no", is_yes(quoting))
    if classify(model, file, out, text, text_pair, batch_tokens, *table, min_confidence, language):
        raise typer.Exit(1)


def serve(
    model: ModelArgument,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 accepts other machines.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port; 0 selects a free port. The address is printed.")
    ] = 8000,
    batch_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Maximum tokens of a batch, with padding; default: 8192, or 1024 without a GPU."),
    ] = None,
    max_texts: Annotated[int, typer.Option(min=1, help="Maximum texts per request.")] = 256,
    max_characters: Annotated[int, typer.Option(min=1, help="Maximum characters per text.")] = 20_000,
    max_body: Annotated[int, typer.Option(min=1, help="Maximum bytes per request.")] = 1_000_000,
    queue: Annotated[int, typer.Option(min=1, help="Maximum waiting texts; further requests get status 503.")] = 1024,
    engine: Annotated[
        str, typer.Option(help="torch, or the graph of `mbkd export` on the CPU: onnx, onnx-int8.")
    ] = "torch",
) -> None:
    """Classify texts over HTTP (POST /classify), with a test page at /. Stops on SIGTERM or Ctrl-C."""
    from mbkd.serve.requests import Limits
    from mbkd.serve.server import serve as answer

    answer(model, host, port, batch_tokens, Limits(max_body, max_texts, max_characters, queue), engine)


def ensemble(
    run: Annotated[list[Path], typer.Argument(help="Directories of finished runs of one system.")],
    size: Annotated[int, typer.Option(help="Members per group.")] = 2,
    runs: Annotated[Path, typer.Option(help="The folder of the groups' directories.", callback=refuse_file)] = Path(
        "runs"
    ),
    out: Annotated[
        Path | None, typer.Option(help="A new folder: write one model of all runs, without scoring groups.")
    ] = None,
    json: Json = False,
) -> None:
    """Score every group of runs from their saved logits (Ens2), or write one model that averages logits."""
    from mbkd.terminal.results import print_results, print_spread

    quiet()
    from mbkd.ensemble.runs import write_model, write_scores

    found = write_scores(run, runs, size) if out is None else {out: write_model(run, out)}
    if json:
        print_json([{"directory": str(folder), **result.as_json()} for folder, result in found.items()])
        return
    results = list(found.values())
    for split in results[0].accuracy:
        if out is None:
            print_spread(results, split)
        else:
            print_results(results, split)
    total = f"{results[0].parameters:,} parameters, {results[0].train_seconds:.0f} s of optimizer steps"
    print(f"sums over the members of {'a group' if out is None else 'the model'}: {total}")
    for folder in found:
        print(folder)


def export(
    model: ModelArgument,
    config: Annotated[
        str | None,
        typer.Argument(help="A YAML file or a recipe; its dev rows are used to check the graphs and their accuracy."),
    ] = None,
    overrides: Overrides = None,
    format: Annotated[str, typer.Option(help="Format: onnx.")] = "onnx",
    dtype: Annotated[list[str] | None, typer.Option(help="fp32 (default), fp16 or int8; repeatable.")] = None,
    rows: Annotated[
        Path | None,
        typer.Option(help="A file of rows to check the graphs with, in a format of `mbkd predict`."),
    ] = None,
    text: Annotated[str, typer.Option(help="Column or field of --rows with the text.")] = "text",
    text_pair: Annotated[str | None, typer.Option(help="Column or field with the second text of a pair.")] = None,
    out: Annotated[Path | None, typer.Option(help="The output folder; default: `onnx` in the model folder.")] = None,
    json: Json = False,
) -> None:
    """Write the model as one graph, compare it with torch, and measure accuracy, size and speed."""
    if format != "onnx":
        raise UserError(f"--format {format}: the only format is onnx")
    if config is not None and rows is not None:
        raise UserError("CONFIG and --rows: give only one of them to check the graphs")
    check_out_folder(out)
    from mbkd.config import paper

    task = None if config is None else paper.find(config, overrides or []).task
    quiet()
    from mbkd.predict.export import export as write
    from mbkd.predict.stream import pairs
    from mbkd.terminal.results import print_export

    report, folder = write(model, dtype or ["fp32"], out, pairs(rows, text, text_pair) if rows else (), task)
    if json:
        print_json({"directory": str(folder), **report})
        return
    print_export(report)
    print(folder)


def push(
    model: Annotated[Path, typer.Argument(help="A run directory or a model folder.")],
    repo_id: Annotated[str, typer.Argument(help="Repository on the hub, such as me/my-model.")],
    private: Annotated[bool, typer.Option("--private", help="Create a private repository.")] = False,
    licence: Annotated[
        str | None, typer.Option("--license", help="License for the model card, such as apache-2.0.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the files to upload.")] = False,
) -> None:
    """Upload a trained model, its tokenizer and its card to the Hugging Face hub."""
    from mbkd.predict.push import push as upload

    files = upload(model, repo_id, private, licence, dry_run)
    for name, size in files.items():
        print(f"{size:>13,}  {name}")
    print(f"{'would be uploaded' if dry_run else 'uploaded'} to https://huggingface.co/{repo_id}")
