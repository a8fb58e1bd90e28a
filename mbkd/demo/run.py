"""`mbkd demo`: the whole workflow on toy reviews with a user's commands, without a GPU or a download."""

import functools
import time
from pathlib import Path

import transformers

from mbkd import config as configuration
from mbkd.config import paper
from mbkd.demo import toy_models
from mbkd.files import write_whole
from mbkd.terminal.console import make_console
from mbkd.terminal.results import print_results
from mbkd.train.launch import carry_out

CHANCE = 0.2  # five stars
STUDENT_ROWS = 3000  # of 12,000; as in the paper, teachers are trained on more data than the student's labels


def demo(root: Path, ranks: int) -> None:
    """Build the toy world, train three teachers and three students, and print one table."""
    began = time.monotonic()
    say = functools.partial(make_console(stderr=True).print, soft_wrap=True, highlight=False)
    say(f"[bold]1/3[/bold] toy reviews in six languages, four tokenizers, four small encoders -> {root}/world")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    toy_models.build(root / "world", progress=lambda line: say(f"      {line}"))
    file = root / "teachers.yaml"
    config = paper.toy(root / "world")
    write_whole(file, config.dump().encode())

    rows = toy_models.SIZES["train"]
    say(f"[bold]2/3[/bold] a teacher for each labelled language, fine-tuned on {rows:,} reviews in that language")
    say(f"      mbkd teach {file} --runs {root} --ranks {ranks}")
    results = carry_out(list(paper.teacher_runs(config)), [str(file), "--teach"], root, ranks)

    say(f"[bold]3/3[/bold] three students, {STUDENT_ROWS:,} reviews per language: hard labels, distillation, branches")
    trained = {result.supervised[0]: directory / "model" for directory, result in results.items()}
    file = root / "toy.yaml"
    write_whole(file, paper.toy_students(config, trained, STUDENT_ROWS).dump().encode())
    for overrides in (["distill.signal=labels", "student.branch_depth=0"], ["student.branch_depth=0"], []):
        say(f"      mbkd train {' '.join([str(file), *overrides])} --runs {root} --ranks {ranks}")
        wanted = configuration.read(file, overrides)
        results |= carry_out([wanted], [str(file), *overrides], root, ranks)

    print_results(list(results.values()), "test")
    task = config.task
    print(f"trained on {', '.join(task.supervised)}; {', '.join(task.zero_shot)} had no labels; chance is {CHANCE:.0%}")
    print("compare MultiKD with MultiTrain on AVG(S) for the effect of distillation (five seeds: docs/measurements.md)")
    print(f"{time.monotonic() - began:.0f} s; configuration: {file}; runs:")
    for directory in results:
        print(f"  {directory}")
