"""Maximum number of tokens of a model, from its config.json; no torch.

The limit is `max_position_embeddings`, also for rotary and relative positions: beyond that length a model runs, but
with untrained positions. Extended models state their limit in config.json and are accepted.
"""

from typing import Any

from mbkd.data.classifiers import configuration
from mbkd.data.readers import one_line
from mbkd.errors import UserError

# Positions start after the padding id: the 514 positions of XLM-R are 512 tokens.
FROM_PADDING = (
    "camembert",
    "longformer",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
)


def of_model(path: str) -> int | None:
    """Maximum tokens of the model at a folder or hub id; None: any number. Raises UserError without a model."""
    try:
        return of(configuration(path))
    except (AttributeError, KeyError, TypeError) as error:  # values that are not a model's
        raise UserError(f"{path}: no model here ({one_line(error)})") from None


def of(values: dict[str, Any]) -> int | None:
    """Maximum tokens of a model with these values of its configuration; None: any number."""
    kind = values.get("model_type")
    if kind == "mblm":
        mixers = values["mixer_length"] if values["branch_depth"] else None
        return _least(of(values["backbone"]), mixers)
    if kind == "mbkd-ensemble":
        return _least(*map(of, values["members"]))
    positions: int | None = values.get("max_position_embeddings", values.get("n_positions"))  # GPT-2: n_positions
    if positions is None or positions < 0:  # XLNet: -1
        return None
    if kind in FROM_PADDING:
        padding = values.get("pad_token_id")
        return positions - (1 if padding is None else padding) - 1
    return positions


def _least(*lengths: int | None) -> int | None:
    return min((x for x in lengths if x is not None), default=None)
