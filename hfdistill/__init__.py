"""Distil BERT-style classifiers into small, fast students, and prove what was kept."""

from __future__ import annotations

import importlib

import lazy_loader
import wrapt

__version__ = "0.1.0"

# A name is imported when it is asked for (PEP 562): torch and Transformers take seconds to load, and most
# programs use a part. lazy_loader reads the stub beside this file, from which editors and type checkers
# complete, so that the names stand in one table.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


# After `import hfdistill`, before or after `import transformers`, the Auto classes and pipelines load models
# of our own architectures (static, CNN, BiLSTM, with exits). Transformers has no entry point that a package
# could announce a config by, and to import its registry here would cost every program two seconds of CPU. So
# the configs are registered as soon as anything has imported that registry; at once, where it is there.
@wrapt.when_imported("transformers.models.auto.configuration_auto")
def _register_configs(_: object) -> None:
    importlib.import_module("hfdistill.students.configs")
