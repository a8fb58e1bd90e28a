"""Structure of a student, and members of an ensemble, as transformers configurations.

Creating a configuration imports and registers its model; see mbkd/registration.py.
"""

from importlib import import_module
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from mbkd.config import structures
from mbkd.errors import UserError


class MBLMConfig(PreTrainedConfig):
    """Structure of a student. Every structure of the paper is a setting of these fields.

    backbone          the encoder's configuration as a dict (`model_type` names the family)
    branch_languages  the N languages that have a branch, in the order of the branches
    branch_depth      K, 0 (the plain encoder) to L
    mixer_length      entries of each mixer vector
    branch_rank       r > 0: each linear map of a branch is the shared map plus a difference of rank r; 0: copies
    branch_position   "bottom" (Fig 2) or "top" (Fig 4c, 4d)
    mixers            "all"; "outer" is `- inner-mixers` (Fig 4a); "none" is `- all mixers` (Fig 4b)
    heads             "shared", or "per_language" for the multi-classifier (Fig 4d), which has no outer mixer
    inference         without mixers: "all" averages the branches, "single" uses only the own branch of a
                      supervised language
    detach            Eq. 8; False is `- detaching`
    idle_dropout      whether dropout is on in the branches that are not trained on a batch (decision 9)
    calibration_temperature
                      divisor of the logits outside training, which calibrates their softmax
                      (mbkd/evaluate/calibration.py); None: not calibrated
    calibration_temperatures
                      by language; replace calibration_temperature for a batch whose language is given
    """

    model_type = "mblm"

    def __init__(
        self,
        backbone: dict[str, Any] | None = None,
        branch_languages: list[str] | tuple[str, ...] = (),
        branch_depth: int = 0,
        mixer_length: int = 128,
        branch_rank: int = 0,
        branch_position: str = "bottom",
        mixers: str = "all",
        heads: str = "shared",
        inference: str = "all",
        detach: bool = True,
        idle_dropout: bool = True,
        calibration_temperature: float | None = None,
        calibration_temperatures: dict[str, float] | None = None,
        **kwargs: Any,
    ):
        self.backbone = backbone or {"model_type": "xlm-roberta"}
        self.branch_languages = list(branch_languages)
        self.branch_depth = branch_depth
        self.mixer_length = mixer_length
        self.branch_rank = branch_rank
        self.branch_position = branch_position
        self.mixers = mixers
        self.heads = heads
        self.inference = inference
        self.detach = detach
        self.idle_dropout = idle_dropout
        self.calibration_temperature = calibration_temperature
        self.calibration_temperatures = dict(calibration_temperatures or {})
        structures.check(branch_position, mixers, heads, inference)
        if branch_depth and not self.branch_languages:
            raise UserError(f"branch_depth = {branch_depth} needs branch_languages")
        if len(set(self.branch_languages)) < len(self.branch_languages):
            raise UserError(f"branch_languages contains a language twice: {', '.join(self.branch_languages)}")
        super().__init__(**kwargs)
        import_module("mbkd.model.mblm")

    @property
    def backbone_config(self) -> PreTrainedConfig:
        """The encoder's configuration as a transformers object."""
        return AutoConfig.for_model(**self.backbone)


class EnsembleConfig(PreTrainedConfig):
    """An ensemble of classifiers with the same labels. members: their configurations as dicts.

    calibration_temperature, calibration_temperatures: as in MBLMConfig; divide the mean of the members' raw logits.
    """

    model_type = "mbkd-ensemble"

    def __init__(
        self,
        members: list[dict[str, Any]] | tuple[dict[str, Any], ...] = (),
        calibration_temperature: float | None = None,
        calibration_temperatures: dict[str, float] | None = None,
        **kwargs: Any,
    ):
        self.members = list(members)
        self.calibration_temperature = calibration_temperature
        self.calibration_temperatures = dict(calibration_temperatures or {})
        super().__init__(**kwargs)
        import_module("mbkd.ensemble.model")

    @property
    def member_configs(self) -> list[PreTrainedConfig]:
        """The members' configurations as transformers objects."""
        return [AutoConfig.for_model(**member) for member in self.members]


def temperature_of(config: MBLMConfig | EnsembleConfig, language: str | None) -> float | None:
    """Divisor of the logits of a batch: its language's own temperature, else the overall one. None: not calibrated."""
    return config.calibration_temperatures.get(language or "", config.calibration_temperature)


AutoConfig.register("mblm", MBLMConfig, exist_ok=True)
AutoConfig.register("mbkd-ensemble", EnsembleConfig, exist_ok=True)
