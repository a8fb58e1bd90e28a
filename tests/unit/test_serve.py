"""Claims about serving without a network: valid requests, batches of rows, and answers."""

import asyncio
import json
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from mbkd.demo import toy
from mbkd.ensemble.model import save
from mbkd.errors import UserError
from mbkd.predict.classifier import Classifier, length_of
from mbkd.serve.batching import Full, Worker
from mbkd.serve.requests import Limits, Refused, parse
from tests.conftest import random_student
from tests.synthetic import make_result

LIMITS = Limits(body=1000, texts=3, characters=10, queue=4)
REVIEWS = [pair for language in toy.LANGUAGES for pair in toy.unlabelled(language, 5)]


@pytest.fixture(scope="module")
def classifier(student):
    return Classifier(student)


def test_a_row_or_a_list_of_rows_is_accepted():
    rows, many = parse(b'{"text": "a"}', LIMITS)
    assert ([(row.text, row.text_pair) for row in rows], many) == ([("a", None)], False)
    rows, many = parse(b' [{"text": "a", "text_pair": "b"}, {"text": "\xc3\xa9"}]', LIMITS)
    assert ([(row.text, row.text_pair) for row in rows], many) == ([("a", "b"), ("é", None)], True)


@pytest.mark.parametrize(
    ("body", "status", "where", "reason"),
    [
        (b"", 400, "body", "not valid JSON"),
        (b"{broken", 400, "body", "not valid JSON"),
        (b'{"text": "\xff"}', 400, "body", "not valid JSON"),
        (b'{"text": "\\ud800"}', 400, "body", "not valid JSON"),
        (b"[" * 900, 400, "body", "not valid JSON"),
        (b'"text"', 422, "body", "not"),
        (b"null", 422, "body", "not null"),
        (b"[]", 422, "body", "empty"),
        (b'["text"]', 422, "row 0", "not"),
        (b"{}", 422, "text", "no field 'text'"),
        (b'[{"text": "a"}, {"txt": "a"}]', 422, "row 1, text", "no field 'text'"),
        (b'{"text": "a", "pair": "b"}', 422, "pair", "unknown field 'pair'"),
        (b'{"text": "a", "": "b"}', 422, "body", "unknown field ''"),
        (b'{"text": 1}', 422, "text", "not 1"),
        (b'{"text": null}', 422, "text", "not null"),
        (b'{"text": ""}', 422, "text", "empty"),
        (b'[{"text": "a"}, {"text": " \\n"}]', 422, "row 1, text", "empty"),
        (b'{"text": "12345678901"}', 422, "text", "11 characters"),
        (b'{"text": "a", "text_pair": "12345678901"}', 422, "text_pair", "11 characters"),
        (json.dumps([{"text": "a"}] * 4).encode(), 413, "body", "4 texts"),
    ],
)
def test_an_invalid_request_is_refused_with_the_problem_the_place_and_the_fix(body, status, where, reason):
    with pytest.raises(Refused) as refused:
        parse(body, LIMITS)
    assert refused.value.status == status
    assert refused.value.problem["where"] == where
    assert reason in refused.value.problem["error"]
    assert refused.value.problem["do"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"[" + b",".join([b"1"] * 499_000) + b"]", 413),
        (b"[" + b",".join([b'{"text": 1}'] * 80_000) + b"]", 413),
        (b"{" + b",".join(b'"%d": 1' % i for i in range(90_000)) + b"}", 422),
    ],
    ids=["bad-rows", "bad-texts", "unknown-fields"],
)
def test_only_the_first_mistake_of_a_request_is_described(body, status):
    """The test counts allocated bytes, because times depend on the machine. Each mistake would take a kilobyte."""
    tracemalloc.start()
    with pytest.raises(Refused) as refused:
        parse(body, Limits())
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refused.value.status == status
    assert most < 40 * len(body)


def run_worker(classifier, work, capacity=1000, batch_tokens=256):
    """Return the result of `work(worker)`, and the sizes of the worker's batches."""
    sizes = []

    async def run():
        worker = Worker(classifier, batch_tokens, capacity, lambda rows, tokens, seconds: sizes.append(rows))
        worker.start()
        try:
            return await work(worker)
        finally:
            worker.stop()
            assert worker.waiting == 0

    return asyncio.run(run()), sizes


def test_rows_of_many_requests_share_batches_and_each_gets_the_answer_it_gets_alone(classifier):
    rows = [(a, b if i % 3 else None) for i, (a, b) in enumerate(REVIEWS)]
    requests = [rows[i : i + 1 + i % 4] for i in range(0, len(rows), 3)]

    async def work(worker):
        return await asyncio.gather(*(worker.ask(request, i % 2 == 0) for i, request in enumerate(requests)))

    answers, sizes = run_worker(classifier, work)
    assert sum(sizes) == sum(map(len, requests))
    assert len(sizes) < sum(map(len, requests)) / 2
    for i, (request, found) in enumerate(zip(requests, answers, strict=True)):
        for row, answer in zip(request, found, strict=True):
            alone = classifier.encode([row])
            expected = classifier.probabilities(alone)[0].tolist()
            assert list(answer["probabilities"]) == ["bad", "fair", "good"]
            assert list(answer["probabilities"].values()) == pytest.approx(expected, abs=5e-6)
            assert answer["label"] == classifier.labels[int(np.argmax(expected))]
            assert ("branches" in answer) == (i % 2 == 0)
            if "branches" in answer:
                weights = {mixer: values[0].tolist() for mixer, values in classifier.branch_weights(alone).items()}
                assert list(weights) == list(answer["branches"]) == ["outer"]
                assert list(answer["branches"]["outer"].values()) == pytest.approx(weights["outer"], abs=5e-6)
                assert sum(answer["branches"]["outer"].values()) == pytest.approx(1, abs=1e-5)


def test_queued_rows_are_batched_by_length_within_the_token_budget(student):
    class RecordingClassifier(Classifier):
        batches = ()

        def probabilities(self, rows):
            self.batches += (sorted(map(length_of, rows)),)
            return super().probabilities(rows)

    classifier = RecordingClassifier(student)

    async def work(worker):
        return await worker.ask(REVIEWS * 4, False)

    run_worker(classifier, work, batch_tokens=400)
    assert all(len(lengths) == 1 or len(lengths) * lengths[-1] <= 400 for lengths in classifier.batches)
    assert 1 < len(classifier.batches) < len(REVIEWS)
    assert all(longer[0] >= shorter[-1] for longer, shorter in pairwise(classifier.batches))


def test_a_full_queue_accepts_no_rows_until_rows_leave(classifier):
    async def work(worker):
        first = [asyncio.create_task(worker.ask([("good", None)], False)) for _ in range(3)]
        await asyncio.sleep(0)  # all three are queued or taken by the worker
        with pytest.raises(Full) as full:
            await worker.ask([("good", None)] * 9, False)
        await asyncio.gather(*first)
        return full.value.seconds, await worker.ask([("good", None)] * 8, False)

    (seconds, answers), _ = run_worker(classifier, work, capacity=8)
    assert 1 <= seconds <= 60
    assert len(answers) == 8


def test_queued_rows_are_answered_before_the_worker_stops(classifier):
    async def work(worker):
        requests = [asyncio.create_task(worker.ask([(text, None)], False)) for text, _ in REVIEWS]
        await asyncio.sleep(0)
        await asyncio.to_thread(worker.stop)
        return await asyncio.gather(*requests)

    answers, _ = run_worker(classifier, work, batch_tokens=64)
    assert len(answers) == len(REVIEWS)


def test_rows_of_a_cancelled_request_are_skipped(classifier):
    async def work(worker):
        gone = asyncio.create_task(worker.ask([("good", None)] * 200, False))
        await asyncio.sleep(0)
        gone.cancel()
        return await worker.ask([("good", None)], False)

    answers, sizes = run_worker(classifier, work, batch_tokens=16)
    assert len(answers) == 1
    assert sum(sizes) < 100


def test_an_error_of_the_model_reaches_its_request_and_the_next_one_is_answered(student):
    classifier = Classifier(student)
    head = classifier._model.head

    async def work(worker):
        classifier._model.head = torch.nn.Linear(1, 1)  # does not fit
        with pytest.raises(RuntimeError):
            await worker.ask([("good", None)], False)
        classifier._model.head = head
        return await worker.ask([("good", None)], False)

    answers, _ = run_worker(classifier, work)
    assert len(answers) == 1


def test_models_without_mixers_omit_the_branches_from_answers(world, tmp_path):
    """A plain student, a teacher with its own head, and an ensemble."""
    random_student(tmp_path / "plain", world, branch_depth=0)
    backbone = world / "models" / "teacher-zh"
    config = BertConfig.from_pretrained(backbone, num_labels=3)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "teacher")
    AutoTokenizer.from_pretrained(backbone).save_pretrained(tmp_path / "teacher")
    members = [random_student(tmp_path / f"member-{seed}", world, seed) for seed in (1, 2)]
    save(members, tmp_path / "ensemble")
    for name in ("plain", "teacher", "ensemble"):
        model = Classifier(tmp_path / name)
        rows = model.encode([("好", None), ("好", "不好")])
        assert model.probabilities(rows).shape == (2, 3)
        assert model.branches == [] and model.branch_weights(rows) == {}


def test_an_ensembles_scores_are_refused_as_a_model_with_the_command_to_build_one(tmp_path):
    make_result(role="ensemble", seeds=(1, 2)).write(tmp_path)
    with pytest.raises(UserError, match="ensemble RUN RUN --out"):
        Classifier(tmp_path)


def test_for_nearly_equal_probabilities_serve_and_predict_return_the_same_label(world, tmp_path):
    model = Classifier(random_student(tmp_path / "student", world))
    with torch.no_grad():
        model._model.head.weight.zero_()
        model._model.head.bias.copy_(torch.tensor([0.0, 4e-7, 0.0]))  # equal in six digits
    (values,) = model.probabilities(model.encode([("good", None)]))
    assert int(np.argmax(values)) == 1

    async def work(worker):
        return await worker.ask([("good", None)], False)

    ((answer,), _) = run_worker(model, work)
    assert answer == {"label": "fair", "probabilities": dict.fromkeys(("bad", "fair", "good"), 0.333333)}


def test_a_failing_model_stops_recording_branch_weights(student):
    model = Classifier(student)
    (row,) = model.encode([("good", None)])
    with pytest.raises((IndexError, RuntimeError)):
        model.branch_weights([row | {"input_ids": [10**6] * length_of(row)}])
    assert model._model.watch is None
