"""The configs of students that Transformers does not have. No torch is needed to read one."""

from __future__ import annotations

import importlib
from typing import Any, ClassVar

from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec
from transformers.models.auto.configuration_auto import AutoConfig

EXIT_WIDTH = 128
"""Of an exit's head, as in FastBERT."""


class StudentConfig(PreTrainedConfig):
    """A config that brings its model: once one is made, `AutoModelForSequenceClassification` knows the model.

    `hfdistill/__init__.py` has this module imported in the middle of imports of Transformers, where
    `PreTrainedModel` may not exist yet; it does where someone makes a config to load a model with.
    """

    module: ClassVar[str]
    """That defines the model and registers it."""

    def __new__(cls, *_: Any, **__: Any) -> StudentConfig:
        """Also called by copy and pickle, where `__init__` is not."""
        importlib.import_module(cls.module)
        return super().__new__(cls)


class AttentionFreeConfig(StudentConfig):
    """What the configs of students without attention share.

    Args:
        vocab_size: rows of the embedding table V.
        classifier_size: width of the head's hidden layer.
        dropout: before both layers of the head, and on the embeddings of CNN and BiLSTM.
        pairs: read two texts apart, split at `sep_token_id`.
        pad_token_id: as in the tokenizer.
        sep_token_id: what ends the first text of a pair.
    """

    vocab_size: int = 30522
    classifier_size: int = 200
    dropout: float = 0.1
    pairs: bool = False
    pad_token_id: int | None = 0
    sep_token_id: int | None = None


class StaticConfig(AttentionFreeConfig):
    """Sizes of a `StaticForSequenceClassification`; `hidden_size` is the width D of a token's vector."""

    model_type = "hfdistill-static"
    module = "hfdistill.students.static"

    hidden_size: int = 256
    classifier_size: int = 512


class CNNConfig(AttentionFreeConfig):
    """Sizes of a `CNNForSequenceClassification`.

    Args:
        embedding_size: width E of a token's vector.
        windows: tokens that a filter sees at once, one width after another.
        filters: of each width.
    """

    model_type = "hfdistill-cnn"
    module = "hfdistill.students.cnn"

    embedding_size: int = 300
    windows: list[int] | tuple[int, ...] = (3, 4, 5)
    filters: int = 100


class BiLSTMConfig(AttentionFreeConfig):
    """Sizes of a `BiLSTMForSequenceClassification`.

    Args:
        embedding_size: width of a token's vector.
        hidden_size: width D of a hidden state, both directions together: an even number.
        num_hidden_layers: BiLSTM layers L.
    """

    model_type = "hfdistill-bilstm"
    module = "hfdistill.students.bilstm"

    embedding_size: int = 300
    hidden_size: int = 300
    num_hidden_layers: int = 1


class EarlyExitConfig(StudentConfig):
    """Describes a model with exits; attributes that it lacks are those of `classifier_config`.

    Args:
        classifier_config: of the classifier inside.
        exits: blocks with a head, counted from 1.
        exit_threshold: rows leave at an exit whose uncertainty is below it; None lets none leave.
        detach_exits: True where exits teach their own heads alone.
        exit_width: width of their heads.
    """

    model_type = "early_exit"
    module = "hfdistill.students.early_exit"
    sub_configs_defaults: ClassVar[dict[str, Any]] = {
        "classifier_config": SubConfigSpec(config_class=AutoConfig, model_type="bert")
    }
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["exit_logits", "exit_layers"]

    classifier_config: Any = None
    exits: list[int] | tuple[int, ...] = ()
    exit_threshold: float | None = None
    detach_exits: bool = False
    exit_width: int = EXIT_WIDTH

    def __getattr__(self, name: str) -> Any:
        inside = self.__dict__.get("classifier_config")
        if name.startswith("_") or inside is None:
            raise AttributeError(name)
        return getattr(inside, name)


for _config in (StaticConfig, CNNConfig, BiLSTMConfig, EarlyExitConfig):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
