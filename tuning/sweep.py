"""The sweep command: grid, seeds, choice and tables. The same command resumes a killed sweep."""

import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import typer
import yaml

from mbkd import runs
from mbkd.config import Config, Task, names
from mbkd.errors import UNAVAILABLE, TransientError, UserError, is_transient
from mbkd.evaluate import metrics, selection
from mbkd.files import refuse_file, write_whole
from mbkd.result import Result
from mbkd.terminal.results import print_results
from tuning import grids, protocols
from tuning.experiments import EXPERIMENTS, GRID, Experiment, Protocol, System, base
from tuning.protocols import Choice, Group
from tuning.stages import carry_out
from tuning.study import Sweep
from tuning.trial import Conditions, log_file

STOPPED = 130
UNUSED_SEED = 1_000_000  # and above: seeds of runs that exist in a plan only
app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)


@app.command()
def sweep(
    name: Annotated[str, typer.Argument(help=f"{', '.join(EXPERIMENTS)}.", metavar="EXPERIMENT")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="For example train.batch_size=64. A list such as train.lr=[1e-5,2e-5] is searched. "
            "For grid, FILE comes first: a configuration with lists.",
            metavar="[KEY=VALUE]...",
        ),
    ] = None,
    on: Annotated[
        list[str] | None, typer.Option(help="A setting of the paper such as xnli-mbert, or a YAML file; repeatable.")
    ] = None,
    protocol: Annotated[
        Protocol | None,
        typer.Option(
            help="full: every configuration with every seed. confirm: the grid with one seed, then the best with the "
            "others. fixed: no search. search: Optuna searches with one seed, then the best with the others."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds: 1, 2, ...")] = 5,
    rule: Annotated[
        selection.Rule, typer.Option(help="Languages of the dev average: all (as in the paper) or supervised.")
    ] = "all",
    depths: Annotated[str, typer.Option(help="For depth: the values of K, such as 0,1,2.")] = "0,2,4,6,8,10,12",
    ranges: Annotated[
        list[str] | None, typer.Option("--range", help="For search: FIELD=LOW:HIGH, on a log scale; repeatable.")
    ] = None,
    budget: Annotated[int, typer.Option(min=1, help="For search: number of proposals per system.")] = 20,
    teachers: Annotated[
        Path | None, typer.Option(help="A YAML file with `teachers`, such as the teachers experiment writes.")
    ] = None,
    root: Annotated[Path, typer.Option("--runs", help="The folder of run directories.", callback=refuse_file)] = Path(
        "runs"
    ),
    ranks: Annotated[int | None, typer.Option(min=1, help="Processes of a trial; default: one per GPU.")] = None,
    gpus_per_trial: Annotated[
        float | None, typer.Option(min=0, help="GPUs of a trial, or a fraction of a GPU; default: one if available.")
    ] = None,
    cpus_per_trial: Annotated[float, typer.Option(min=0.01, help="Cores and threads of a trial.")] = 1,
    retries: Annotated[int, typer.Option(min=0, help="Retries of a failed trial.")] = 1,
    hang_minutes: Annotated[float, typer.Option(help="Minutes without output after which a trial fails.")] = 30,
    address: Annotated[
        str | None, typer.Option(help="Address of a Ray cluster, or auto; default: start Ray here.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Retrain runs whose rows, teachers or backbone have changed.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only show the remaining work: steps, memory, disk, hours.")
    ] = False,
    gpu: Annotated[
        str | None, typer.Option(help="With --plan: hours on A100, H100, ... instead of this machine.")
    ] = None,
    gpus: Annotated[int, typer.Option(min=1, help="With --plan: number of GPUs.")] = 1,
) -> None:
    """Run an experiment of the paper or a grid of your own. The same command resumes a stopped sweep."""
    if name not in EXPERIMENTS:
        raise UserError(f"{name}: no such experiment; choose one of {', '.join(EXPERIMENTS)}")
    experiment, given, bases = EXPERIMENTS[name], list(overrides or []), list(on or [])
    if name == "grid" and given and "=" not in given[0]:
        bases.append(given.pop(0))
    bases = bases or list(experiment.bases)
    if not bases:
        raise UserError("grid: FILE is missing; run python -m tuning.sweep grid FILE [key=value ...]")
    if gpus_per_trial is not None and gpus_per_trial > 1 and gpus_per_trial % 1:
        raise UserError(f"--gpus-per-trial {gpus_per_trial:g}: must be a whole number, or a fraction below 1")
    protocol = protocol or experiment.protocol
    spans = _ranges(protocol, ranges or [])
    seeds_wanted = list(range(1, seeds + 1))
    groups: list[Group] = []
    tasks: dict[str, tuple[str, Task]] = {}
    for each in bases:
        full, lists = base(each, given, experiment, teachers)
        _same_task(tasks, each, full.task)
        if "seed" in lists:
            several = [grids.with_values(full, {"seed": seed}).seed for seed in lists.pop("seed")]
            seeds_wanted = list(dict.fromkeys(several))
        spans = {path: _in_range(full, path, span) for path, span in spans.items()}
        systems = experiment.systems(full, _depths(depths))
        lists = _effective(name, systems, lists)
        tried = _combinations(name, experiment, protocol, lists) or [{x: grids.value_of(full, x) for x in spans}]
        groups += protocols.groups(systems, tried)
    command = shlex.join(["python", "-m", "tuning.sweep", *sys.argv[1:]])
    study = Sweep(name, groups, protocol, seeds_wanted, rule, root, command, spans, budget, fresh=fresh)
    if plan:
        show_plan(study, ranks or 1, gpu, gpus)
        return
    given_to_trials = Conditions(root.absolute(), Path.cwd(), ranks, cpus_per_trial, gpus_per_trial, hang_minutes * 60)
    whole = carry_out(study, given_to_trials, retries, address)
    file = study.record(whole and not study.failed)
    show(study)
    # A sweep that is stopped or has failed runs keeps the file of an earlier sweep.
    for written in write_teachers(study) if name == "teachers" and whole and not study.failed else ():
        print(f"the chosen teachers, for --teachers: {written}")
    print(f"report: python -m analysis.report {root} --out {root}/report")
    print(file)
    if not whole:
        print("stopped; the same command resumes the sweep", file=sys.stderr)
        raise typer.Exit(STOPPED)
    if study.failed:
        for run, reason in study.failed.items():
            print(f"error: {run} failed: {reason}; log: {log_file(root, run)}", file=sys.stderr)
        raise typer.Exit(1)


def _same_task(tasks: dict[str, tuple[str, Task]], name: str, task: Task) -> None:
    """Raise UserError for a second task of one kind: the tables of sweeps and reports have one task of each kind.

    tasks: the tasks so far by kind, with the names of their settings or files.
    """
    first, other = tasks.setdefault(task.kind, (name, task))
    if task != other:
        raise UserError(f"{first} and {name} are different tasks of kind {task.kind}; run one sweep for each")


def _ranges(protocol: Protocol, texts: list[str]) -> dict[str, tuple[float, float] | list[Any]]:
    """Parse FIELD=LOW:HIGH or FIELD=[A,B], by field. Raises UserError."""
    if (protocol == "search") != bool(texts):
        raise UserError("--protocol search and --range FIELD=LOW:HIGH must be given together")
    found: dict[str, tuple[float, float] | list[Any]] = {}
    for text in texts:
        path, _, value = text.partition("=")
        try:
            if value.startswith("["):
                found[path] = list(yaml.safe_load(value))
            else:
                low, high = (float(part) for part in value.split(":"))
                if not 0 < low < high:
                    raise ValueError
                found[path] = low, high
        except (ValueError, yaml.YAMLError):
            raise UserError(f"--range {text}: write FIELD=LOW:HIGH with 0 < LOW < HIGH, or FIELD=[A,B]") from None
    return found


def _in_range(full: Config, path: str, span: tuple[float, float] | list[Any]) -> tuple[float, float] | list[Any]:
    """Return the values of a range in the field's type. Raises UserError for a value that the field refuses."""
    try:
        values = [grids.value_of(grids.with_values(full, {path: value}), path) for value in span]
    except UserError as error:
        raise UserError(f"--range {path}: {error}") from None
    return values if isinstance(span, list) else (values[0], values[1])


def _depths(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--depths {text}: write whole numbers with commas, such as 0,2,4") from None


def _effective(name: str, systems: Sequence[System], lists: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """The lists that change runs of the experiment. A YAML file can have lists for teachers and for students."""
    students = ("train.", "distill.", "student.")

    def changes(path: str, values: list[Any]) -> bool:
        if name == "teachers" and path.startswith(students):
            return False
        made = ({Choice(system, {path: value}).run(1).run_name for value in values} for system in systems)
        return len(values) == 1 or any(len(each) > 1 for each in made)

    return {path: values for path, values in lists.items() if changes(path, values)}


def _combinations(
    name: str, experiment: Experiment, protocol: Protocol, lists: dict[str, list[Any]]
) -> list[dict[str, Any]]:
    """Return the values to try with every system. Raises UserError if the lists do not fit the protocol."""
    if protocol in ("fixed", "search"):
        if lists:
            raise UserError(
                f"{next(iter(lists))} is a list, but --protocol {protocol} takes single values only; give one value"
            )
        return [{}] if protocol == "fixed" else []  # a search starts from the configuration's own values
    if not lists and name == "grid":
        raise UserError("grid: nothing to try; set at least one field to a list, such as train.lr=[1e-5,2e-5]")
    return grids.combinations(lists or dict(zip(experiment.searched, GRID, strict=True)))


def show_plan(study: Sweep, ranks: int, gpu: str | None, gpus: int) -> None:
    """Print the remaining work of a sweep, including its teachers.

    Until the configuration to confirm is known, the longest one is counted. The missing proposals of a search are
    counted with the same values.
    """
    from mbkd import distributed
    from mbkd.config import paper
    from mbkd.estimate import machine, plan
    from mbkd.terminal.results import print_plan

    distributed.quiet()
    study.restore_proposals()
    study.read_finished()
    configs: dict[str, Config] = {}
    for group in study.groups:
        every = [choice.run(seed) for choice in group.choices for seed in study.tried]
        left = study.budget - len(group.choices) if study.protocol == "search" else 0
        known = left <= 0 and all(config.run_name in study.results for config in every)
        best = study.chosen(group) if known else None
        best = best or max(group.choices, key=lambda choice: choice.run(study.seeds[0]).train.epochs)
        every += [best.run(seed) for seed in study.seeds]
        # Optuna's proposals are not known yet. Runs with unused seeds have other names and the same cost.
        every += [best.run(UNUSED_SEED + number) for number in range(left)]
        for config in every:
            configs |= {run.run_name: run for run in paper.teacher_runs(config) if config.distill.signal != "labels"}
            configs[config.run_name] = config
    wanted = list(configs.values())
    dearest = max(wanted, key=lambda config: config.student.branch_depth)
    read = plan.text(dearest, study.root)
    device = machine.on_gpu(gpu) if gpu else machine.calibrate(dearest, read.lengths)
    found = plan.estimate(wanted, study.root, device, ranks)
    print_plan(found)
    if gpus > 1:
        print(f"on {gpus} GPUs, {ranks} per run: {found['total']['hours'] / gpus:,.2f} hours")


def show(study: Sweep) -> None:
    """Print the mean scores of the chosen configurations over seeds, a table per task, backbone and split."""
    means: dict[tuple[str, str], list[Result]] = {}
    for group in study.groups:
        best = study.chosen(group)
        if best is not None:
            found = best.results(study.seeds, study.results)
            for left in protocols.not_considered(group, study.tried, study.results):
                print(f"not considered for {group.label}: {left}", file=sys.stderr)
            for stuck in (result for result in found if result.at_chance):
                what = "no better than the most frequent class on dev; try a lower learning rate"
                print(f"warning: {group.label}, seed {stuck.seed}: {what}", file=sys.stderr)
            values = ", ".join(f"{path.split('.')[-1]} {value}" for path, value in best.values.items())
            rows = means.setdefault((group.task, group.backbone), [])
            rows.append(_mean(found, f"{group.label} ({values or 'as given'}; n={len(found)})"))
            if study.name == "efficiency" and not group.branch_depth and len(found) > 1:
                from mbkd.ensemble.runs import write_scores  # torch

                folders = [study.root / study.folders[name] for name in study.finished(group)]
                pairs = tuple(write_scores(folders, study.root).values())
                rows.append(_mean(pairs, f"Ens2 of {group.label} (n={len(pairs)} pairs)"))
            student = best.system.full.student
            # Only branches at the bottom fold; `(single)` has the same weights as `(all)`.
            folds = student.branch_depth and student.branch_position == "bottom" and student.inference == "all"
            if folds and found and study.name in ("main", "ablations", "efficiency"):
                from mbkd.evaluate.folded import folded  # torch

                plain = [folded(study.root / study.folders[name]) for name in study.finished(group)]
                rows.append(_mean(plain, f"{group.label}, folded (n={len(plain)})"))
    for (task, backbone), mine in means.items():
        print(f"{task}, {backbone}")
        for split in mine[0].accuracy:
            print_results(mine, split)


def _mean(results: Sequence[Result], label: str) -> Result:
    """Return one result for several seeds, with the mean of every score."""
    first = results[0]
    scores: dict[str, Any] = {}
    for metric, averages in (("accuracy", "averages"), ("mae", "mae_averages")):
        scores[metric], scores[averages] = {}, {}
        for split, languages in getattr(first, metric).items():
            each = {x: fmean(getattr(result, metric)[split][x] for result in results) for x in languages}
            scores[metric][split] = each
            scores[averages][split] = metrics.averages(each, first.supervised, first.zero_shot)
    return replace(first, system=label, **scores)


def write_teachers(study: Sweep) -> Iterator[Path]:
    """Write the best teachers of each task to a YAML file for `--teachers`; yield the files.

    A hash of the task in a file's name keeps the teachers of other data in the same folder. Raises UserError if two
    settings have different teachers of a language, because students would learn from both.
    """
    by_task: dict[str, dict[str, Any]] = {}
    settings: dict[tuple[str, str], Config] = {}
    for group in study.groups:
        best = study.chosen(group)
        if best is not None:
            language = best.system.language or ""
            weight = best.system.full.teachers[language][best.system.index].weight
            teacher = {
                "model": str(runs.folder(study.root, best.run(1)) / "model"),
                "fine_tuned": True,
                "weight": weight,
            }
            task = best.system.full.task.model_dump(mode="json", exclude_defaults=True, exclude={"zero_shot"})
            file_of = f"{group.task}-{names.digest(task)}"
            several = by_task.setdefault(file_of, {}).setdefault(language, [])
            if teacher in several:  # two settings can have the same teachers
                continue
            if settings.setdefault((file_of, language), best.system.full) is not best.system.full:
                raise UserError(
                    f"two settings have different teachers of {language} ({several[0]['model']}, {teacher['model']}); "
                    "run the teachers of each setting with its own --runs folder"
                )
            several.append(teacher)
    for name, teachers in by_task.items():
        file = study.root / "sweeps" / f"teachers-{name}.yaml"
        write_whole(file, yaml.safe_dump({"teachers": teachers}, sort_keys=False, allow_unicode=True).encode())
        yield file


def main() -> None:
    """Entry point. Errors end in one message and exit code 2, or UNAVAILABLE for transient errors."""
    try:
        app()
    except (UserError, TransientError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(UNAVAILABLE if is_transient(error) else 2)
    except KeyboardInterrupt:
        sys.exit(STOPPED)


if __name__ == "__main__":
    main()
