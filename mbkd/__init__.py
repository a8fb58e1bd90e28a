"""mbkd: cross-lingual text classifiers by multilingual distillation into a multi-branch student.

Python API: `mbkd.load`, `mbkd.train`, `mbkd.teach`, `mbkd.evaluate`, `mbkd.Config` (docs/python.md).
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mbkd import registration

if TYPE_CHECKING:
    from mbkd.api import evaluate, load, teach, train
    from mbkd.config import Config
    from mbkd.errors import UserError
    from mbkd.predict.classifier import Classifier
    from mbkd.result import Result

__version__ = "0.1.0"
__all__ = ["Classifier", "Config", "Result", "UserError", "__version__", "evaluate", "load", "teach", "train"]

# The modules of the public names. They are imported on first use, to keep `import mbkd` fast.
_HOMES = {
    "Classifier": "mbkd.predict.classifier",
    "Config": "mbkd.config",
    "Result": "mbkd.result",
    "UserError": "mbkd.errors",
    "load": "mbkd.api",
    "teach": "mbkd.api",
}


class CallablePackage(ModuleType):
    """A package that is also the function of the same name in mbkd.api: `mbkd.train`, `mbkd.evaluate`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(import_module("mbkd.api"), self.__name__.rpartition(".")[2])(*args, **kwargs)


def __getattr__(name: str) -> Any:
    if name in ("evaluate", "train"):
        return import_module(f"mbkd.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'mbkd' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


registration.register()
