"""Builds the model that a run trains."""

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from mbkd.config import Config
from mbkd.data import hub
from mbkd.model import backbones, grow, saved
from mbkd.model.mblm import MBLMForSequenceClassification


def build_student(config: Config, labels: tuple[str, ...]) -> PreTrainedModel:
    """Return the model to train, with its backbone's weights. The seed initialises new weights.

    Raises UserError if the backbone cannot be loaded.
    """
    torch.manual_seed(config.seed)
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    student = config.student
    if student.grow is not None:
        with saved.refusing(f"{student.backbone}: cannot be loaded"):
            trained: grow.GrowingMBLM = grow.GrowingMBLM.from_pretrained(student.backbone, dtype=torch.float32)
        trained.grow(student.grow)
        return trained
    if student.head == "own":
        with saved.refusing(backbones.no_encoder(student.backbone)):
            # A pretrained head with other labels is initialised again.
            model = AutoModelForSequenceClassification.from_pretrained(
                student.backbone,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                **names,
                **hub.pinned(student.backbone),
            )
        backbones.narrow_classifier(model)
        return model
    return MBLMForSequenceClassification.from_pretrained(
        student.backbone,
        branch_languages=config.languages if student.branch_depth else (),
        mixer_length=config.train.max_length,
        **student.model_dump(exclude={"backbone", "head", "grow"}),
        **names,
        **hub.pinned(student.backbone),
    )
