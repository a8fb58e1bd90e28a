"""Rows per second of a student's forms, against transformers' `pipeline` on the plain encoder.

usage: python -m benchmarks.inference [--width 384] [--layers 6] [--depth 2] [--rows 400] [--repeat 3] [--out FILE.json]

All models have random weights of the given shape. They classify the same rows alternately in one process: toy reviews
of mixed lengths in six languages. Our forms read text as `mbkd predict` does: rows are tokenised, sorted by length and
cut into batches of --batch-tokens. `pipeline(batch_size=32)` reads the same rows in their original order.
"""

import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common
from mbkd.demo import toy

LANGUAGES = ("en", "fr", "zh")
PLAIN, PIPELINE = "plain encoder", "transformers pipeline, plain encoder"


def make_models(folder: Path, width: int, layers: int, depth: int) -> dict[str, Callable[[], Any]]:
    """Write the students' folders; return the functions that load each classifier, by name in the table."""
    from transformers import AutoModelForSequenceClassification

    from mbkd.model.fold import fold
    from mbkd.model.mblm import MBLMForSequenceClassification
    from mbkd.predict.classifier import Classifier, GraphClassifier
    from mbkd.predict.export import export

    tokenizer = common.random_encoder(folder / "encoder", width, layers, 512)

    def student(**fields: Any) -> Any:
        common_fields = {"branch_languages": LANGUAGES, "num_labels": 5, "mixer_length": 512}
        return MBLMForSequenceClassification.from_pretrained(folder / "encoder", **common_fields | fields)

    mblm = student(branch_depth=depth)
    plain = AutoModelForSequenceClassification.from_pretrained(folder / "encoder", num_labels=5)
    models = {
        "pipeline": plain,
        "plain": student(branch_depth=0),
        "mblm": mblm,
        "folded": fold(mblm),
        "low-rank": student(branch_depth=depth, branch_rank=8),
    }
    for name, model in models.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    for name in ("mblm", "folded"):
        export(folder / name, ["fp32", "int8"], None, [(row, None) for row in mixed_rows(20)])
    return {
        PLAIN: lambda: Classifier(folder / "plain"),
        "MBLM": lambda: Classifier(folder / "mblm"),
        "MBLM, folded": lambda: Classifier(folder / "folded"),
        "MBLM, rank 8": lambda: Classifier(folder / "low-rank"),
        "MBLM, ONNX fp32": lambda: GraphClassifier(folder / "mblm", "fp32"),
        "MBLM, ONNX int8": lambda: GraphClassifier(folder / "mblm", "int8"),
        "MBLM, folded, ONNX fp32": lambda: GraphClassifier(folder / "folded", "fp32"),
        "MBLM, folded, ONNX int8": lambda: GraphClassifier(folder / "folded", "int8"),
    }


def mixed_rows(count: int) -> list[str]:
    """Return random concatenations of one to eight toy reviews in six languages."""
    draw = np.random.default_rng(0)
    reviews = [text for x in toy.LANGUAGES for text, _ in toy.unlabelled(x, 200)]
    return [" ".join(draw.choice(reviews, min(8, 1 + draw.geometric(0.4)))) for _ in range(count)]


def answer(classifier: Any, rows: list[str], budget: int) -> None:
    """Classify all rows as `mbkd predict` does."""
    from mbkd.data.batches import evaluation_batches
    from mbkd.predict.classifier import length_of

    encoded = classifier.encode([(row, None) for row in rows])
    for batch in evaluation_batches(np.array([length_of(x) for x in encoded]), budget, 0, 1):
        classifier.probabilities([encoded[i] for i in batch])


def main() -> None:
    parser = common.parser("benchmarks.inference", __doc__)
    parser.add_argument("--width", type=int, default=384, help="width of the encoder, a multiple of 32")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--depth", type=int, default=2, help="layers with branches")
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--batch-tokens", type=int, default=2048, help="maximum rows x longest row of a batch")
    parser.add_argument("--repeat", type=int, default=3)
    asked = parser.parse_args()
    import torch
    from transformers import logging, pipeline

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    rows = mixed_rows(asked.rows)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = {each: load() for each, load in make_models(folder, asked.width, asked.layers, asked.depth).items()}
        theirs = pipeline("text-classification", str(folder / "pipeline"), device="cpu")
        variants: dict[str, Callable[[int], float]] = {
            PIPELINE: lambda _: common.seconds(lambda: theirs(rows, batch_size=32, truncation=True, max_length=512))
        }
        for each, classifier in made.items():

            def run(_: int, classifier: Any = classifier) -> float:
                return common.seconds(lambda: answer(classifier, rows, asked.batch_tokens))

            variants[each] = run
        found = common.take_turns(variants, asked.repeat)
        lengths = [len(x["input_ids"]) for x in made[PLAIN].encode([(row, None) for row in rows])]
    speeds = {each: [asked.rows / s for s in seconds] for each, seconds in found.items()}
    ratios = {
        against: {
            each: [theirs / ours for ours, theirs in zip(found[each], found[against], strict=True)] for each in found
        }
        for against in (PLAIN, PIPELINE)
    }
    title = (
        f"{asked.layers} layers x {asked.width}, K = {asked.depth}, three branches; {asked.rows} rows of "
        f"{min(lengths)} to {max(lengths)} tokens, median {statistics.median(lengths):.0f}; "
        f"threads: {torch.get_num_threads()}"
    )
    cells = [
        (each, common.spread(speeds[each], 1), *(common.spread(ratios[x][each], 2) for x in (PLAIN, PIPELINE)))
        for each in found
    ]
    common.print_table(title, ("", "rows/s", "/ plain encoder", "/ pipeline"), cells)
    common.record("benchmarks.inference", asked.out, {"lengths": lengths, "seconds": found, "ratios": ratios})


if __name__ == "__main__":
    sys.exit(main())
