"""Compare the accuracy per minute of sentence embeddings with that of mbkd on the same encoder and rows.

usage: python -m benchmarks.peers.embeddings --config study.yaml [--out FILE] [key=value ...]

The configuration names the rows and a pre-trained encoder. Each variant is a command, timed from its start to its
result:

mbkd baseline        a logistic regression on the frozen encoder's mean states
mbkd train           a plain student on hard labels
SentenceTransformer  the same frozen states by sentence-transformers' `encode`, and scikit-learn's logistic regression
SetFit               contrastive fine-tuning on --shots rows of each class and language, then its head

A text pair is joined to one text, because neither library accepts pairs.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks import common
from benchmarks.peers import setting
from mbkd.config import Config, paper
from mbkd.data import tasks
from mbkd.evaluate import measure

MODULE = "benchmarks.peers.embeddings"
BASELINE, TRAIN, SENTENCE, SETFIT = "mbkd baseline", "mbkd train", "SentenceTransformer", "SetFit"


def rows(config: Config, split: str, language: str) -> tuple[list[str], np.ndarray]:
    """Return the texts and classes of a split and language."""
    loaded = tasks.load(config.task, split, language)
    second = loaded["text_b"] if config.task.pairs else [""] * len(loaded)
    return [" ".join(x for x in both if x) for both in zip(loaded["text_a"], second, strict=True)], np.array(
        loaded["label"]
    )


def embedder(config: Config) -> Any:
    """Return the backbone as a SentenceTransformer with mean pooling."""
    from sentence_transformers import SentenceTransformer

    made = SentenceTransformer(config.student.backbone)  # adds mean pooling to a plain folder
    made.max_seq_length = config.train.max_length
    return made


def sentence(config: Config, shots: int) -> Any:
    """Fit a logistic regression on frozen embeddings; return a function from texts to classes."""
    from sklearn.linear_model import LogisticRegression

    model = embedder(config)
    pairs = [rows(config, "train", x) for x in config.languages]
    states = model.encode([text for texts, _ in pairs for text in texts], batch_size=64)
    head = LogisticRegression(max_iter=1000).fit(states, np.concatenate([each for _, each in pairs]))
    return lambda texts: head.predict(model.encode(texts, batch_size=64))


def setfit(config: Config, shots: int) -> Any:
    """Train SetFit on a few rows; return a function from texts to classes."""
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments
    from sklearn.linear_model import LogisticRegression

    draw = np.random.default_rng(config.seed)
    texts: list[str] = []
    labels: list[int] = []
    for language in config.languages:
        mine, classes = rows(config, "train", language)
        for each in np.unique(classes):
            where = np.flatnonzero(classes == each)
            for row in draw.choice(where, min(shots, len(where)), replace=False):
                texts.append(mine[row])
                labels.append(int(each))
    model = SetFitModel(model_body=embedder(config), model_head=LogisticRegression(max_iter=1000))
    with tempfile.TemporaryDirectory() as scratch:
        given = TrainingArguments(
            output_dir=scratch, batch_size=32, num_iterations=5, num_epochs=1, save_strategy="no", report_to="none",
            seed=config.seed,
        )  # fmt: skip
        Trainer(model, given, train_dataset=Dataset.from_dict({"text": texts, "label": labels})).train()
    return lambda some: np.asarray(model.predict(some, batch_size=64, show_progress_bar=False))


def one(name: str, config: Config, shots: int, out: Path) -> None:
    """Train and evaluate one variant of another library; write its averages on the last split."""
    answer = {SENTENCE: sentence, SETFIT: setfit}[name](config, shots)
    split = tasks.splits(config.task)[-1]
    found, labels = {}, {}
    for language in tasks.languages(config.task, split):
        texts, labels[language] = rows(config, split, language)
        found[language] = np.eye(len(tasks.label_names(config.task)))[answer(texts)]
    scores = measure.scores(found, labels, config.task, False)
    out.write_text(json.dumps({"split": split, **scores}), encoding="utf-8")


def show(config: Config, found: dict[str, list[float]], averages: dict[str, Any]) -> dict[str, Any]:
    """Print one line per variant; return the record."""
    chance = 1 / len(tasks.label_names(config.task))
    lines, kept = [], {}
    for way, took in found.items():
        minutes = float(np.median(took)) / 60
        gain = 100 * (averages[way]["A"] - chance) / minutes
        scores = [f"{100 * x:.1f}" if (x := averages[way][name]) is not None else "-" for name in ("S", "Z", "A")]
        lines.append((way, f"{minutes:.2f}", *scores, f"{gain:.1f}"))
        kept[way] = {"seconds": took, "averages": averages[way], "points_above_chance_per_minute": gain}
    columns = ("", "minutes", "AVG(S)", "AVG(Z)", "AVG(A)", "points above chance per minute")
    common.print_table(f"{len(config.task.languages)} languages, chance {100 * chance:.1f}", columns, lines)
    return kept


def main() -> None:
    asked = common.parser(MODULE, __doc__)
    asked.add_argument("--config", required=True, help="a configuration with a pre-trained encoder")
    asked.add_argument("--shots", type=int, default=16, help="rows of each class and language for SetFit")
    asked.add_argument("--rounds", type=int, default=1)
    asked.add_argument("--one", nargs=2, help="internal: run one variant")
    asked.add_argument("overrides", nargs="*", help="key=value")
    wanted = asked.parse_args()
    if wanted.one:
        one(wanted.one[0], paper.find(wanted.config, wanted.overrides), wanted.shots, Path(wanted.one[1]))
        return
    with tempfile.TemporaryDirectory() as name:
        folder, log = Path(name), Path(name) / "output.txt"
        file = folder / "config.yaml"
        config = paper.find(wanted.config, wanted.overrides)
        file.write_text(config.dump(), encoding="utf-8")
        plain = ["student.branch_depth=0", "distill.signal=labels"]
        averages: dict[str, dict[str, float]] = {}

        def ours(way: str, words: list[str]) -> Any:
            def run(number: int) -> float:
                root = folder / f"runs-{number}-{way.replace(' ', '-')}"
                took = setting.command(["mbkd", *words, "--runs", str(root)], log)
                result = json.loads(next(root.glob("*/result.json")).read_text(encoding="utf-8"))
                averages[way] = list(result["averages"].values())[-1]
                return took

            return run

        def theirs(way: str) -> Any:
            def run(number: int) -> float:
                out = folder / "one.json"
                shots = ["--shots", str(wanted.shots), "--one", way, str(out)]
                took = setting.command([MODULE, "--config", str(file), *shots], log)
                averages[way] = json.loads(out.read_text(encoding="utf-8"))["accuracy_averages"]
                return took

            return run

        ways = {BASELINE: ours(BASELINE, ["baseline", str(file)])}
        ways[TRAIN] = ours(TRAIN, ["train", str(file), *plain, "--ranks", "1"])
        peers = {SENTENCE: "sentence_transformers", SETFIT: "setfit"}
        there = [way for way, package in peers.items() if not setting.missing(package, MODULE, None)]
        ways |= {way: theirs(way) for way in there}
        found = common.take_turns(ways, wanted.rounds, warm=0)
    kept = show(config, found, averages)
    installed = setting.versions(*(peers[way] for way in there))
    record = {"peers": installed, "config": yaml.safe_load(config.dump()), "ways": kept}
    common.record(MODULE, wanted.out, record)


if __name__ == "__main__":
    sys.exit(main())
