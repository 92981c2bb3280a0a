"""A student that reads with a BiLSTM (Tang et al. 2019)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from hfdistill.network.architectures import Layout, register_anatomy
from hfdistill.students.attention_free import (
    AttentionFreeClassifier,
    AttentionFreeModel,
    config_like,
    head,
    joined,
    texts_of,
)
from hfdistill.students.configs import BiLSTMConfig
from hfdistill.students.embedding_tables import word_vectors
from hfdistill.students.weight_copy import network


class BiLSTMLayer(nn.Module):
    """One BiLSTM over each text of a row, packed: no state has seen padding or the other text."""

    def __init__(self, width: int, config: BiLSTMConfig) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, config.hidden_size // 2, batch_first=True, bidirectional=True)

    def forward(self, hidden_states: Tensor, texts: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return hidden states (B, T, D), 0 at padding, and each text's last ones both ways (B, D)."""
        read, last = [], []
        for mask in texts:
            order = (~mask).long().argsort(dim=1, stable=True)  # the text first, padding behind
            moved = hidden_states.take_along_dim(order[..., None], dim=1)
            lengths = mask.sum(1).clamp(min=1).cpu()
            packed = pack_padded_sequence(moved, lengths, batch_first=True, enforce_sorted=False)
            output, (state, _) = self.lstm(packed)
            output, _ = pad_packed_sequence(output, batch_first=True, total_length=mask.shape[1])
            output = output.take_along_dim(order.argsort(dim=1)[..., None], dim=1)
            read.append(output * mask[..., None])
            last.append(torch.cat([state[0], state[1]], dim=-1))
        if len(texts) == 1:
            return read[0], last
        return torch.where(texts[0][..., None], read[0], read[1]), last


class BiLSTMModel(AttentionFreeModel):
    """Embeddings and BiLSTM layers."""

    config_class = BiLSTMConfig
    base_model_prefix = "bilstm"

    def __init__(self, config: BiLSTMConfig) -> None:
        super().__init__(config)
        if config.hidden_size % 2:
            raise ValueError(
                f"hidden_size={config.hidden_size} cannot be shared by two directions. Write an even number, "
                f"for example {config.hidden_size + 1}."
            )
        self.embeddings = nn.Embedding(config.vocab_size, config.embedding_size)
        self.dropout = nn.Dropout(config.dropout)
        widths = [config.embedding_size, *[config.hidden_size] * (config.num_hidden_layers - 1)]
        self.layers = nn.ModuleList(BiLSTMLayer(width, config) for width in widths)
        self.post_init()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Return hidden states (B, T, D) and the feature of the row, (B, D) or (B, 4·D) for pairs."""
        texts = texts_of(input_ids, attention_mask, self.config)
        hidden, last = self.embeddings(input_ids), []
        for layer in self.layers:
            hidden, last = layer(self.dropout(hidden), texts)
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=joined(last))


class BiLSTMForSequenceClassification(AttentionFreeClassifier):
    """BiLSTM, its last state of each direction, one hidden layer (Tang et al. 2019, arXiv 1903.12136).

    logits = W₂·ReLU(W₁·h) with h the states after the last token (forward) and the first (backward). Pairs
    are read apart by the same BiLSTM and joined as [h1, h2, h1·h2, |h1 - h2|]. Texts are packed, so neither
    padding on either side nor the order of the rows changes an answer.

    Hidden states can be read (`Tap("hidden", m)`), so terms such as `HiddenMSE` and `PKD` work on them, and
    with them the teacher's layers. Gradient checkpointing would save nothing in a single layer and is refused
    by Transformers.
    """

    config_class = BiLSTMConfig
    base_model_prefix = "bilstm"
    no_onnx = (
        "A BiLSTM of packed texts has no ONNX form here. Run it in PyTorch, or export a student made by "
        "static_from_teacher or shrink."
    )

    def __init__(self, config: BiLSTMConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bilstm = BiLSTMModel(config)
        self.classifier = head(config.hidden_size, config)
        self.post_init()

    def features(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Return the last states of both directions: (B, D), for pairs (B, 4·D)."""
        features: Tensor = self.bilstm(input_ids, attention_mask=attention_mask).pooler_output
        return features


def bilstm_from_teacher(
    teacher: PreTrainedModel | str,
    tokenizer: Any,
    *,
    embedding_size: int | None = None,
    hidden_size: int = 300,
    layers: int = 1,
    pairs: bool = False,
    dropout: float = 0.1,
) -> BiLSTMForSequenceClassification:
    """Build a BiLSTM student with the teacher's word embeddings, reduced by principal components.

    Tang et al. start from word2vec and read words; this one reads the teacher's tokens, so that both see the
    same and no second tokenizer is needed. LSTM and head are drawn at random: call `torch.manual_seed` first
    for the same ones again. The embeddings learn on.

    Args:
        teacher: a classifier, a PEFT wrapper, an id or a path. It stays as it was.
        tokenizer: the teacher's, which the student reads too.
        embedding_size: width of a token's vector, at most that of the teacher's table; None for 300 or that.
        hidden_size: D, both directions together; the paper's are 300 and 600.
        layers: BiLSTM layers; the paper has one.
        pairs: the rows will be pairs of texts.
        dropout: on the embeddings, between layers, and in the head.

    Returns:
        A float32 model in evaluation mode, on the teacher's device, with its classes.

    Raises:
        ValueError: `embedding_size` is larger than the teacher's, `hidden_size` is odd, or there is no
            separator for pairs.

    Example:
        >>> student = bilstm_from_teacher("org/teacher", tokenizer)  # doctest: +SKIP

    When to use it: where word order counts and a few million weights are too many; with much unlabelled text
    (the paper's gain comes with augmented text) and logit terms, `LogitMSE()` in the paper. When not: where
    a student cut by `shrink` is small enough; it starts from trained layers and learns faster.
    """
    whole = network(teacher)
    vectors = word_vectors(whole, embedding_size)
    sizes = {"embedding_size": vectors.shape[1], "hidden_size": hidden_size, "num_hidden_layers": layers}
    config = config_like(BiLSTMConfig, whole, tokenizer, pairs=pairs, dropout=dropout, **sizes)
    student = BiLSTMForSequenceClassification(config)
    with torch.no_grad():
        student.bilstm.embeddings.weight.copy_(vectors)
    return student.to(whole.device).eval()


def _anchored(config: Any) -> str:
    if config.embedding_size == config.hidden_size:
        return ""
    return "the first layer reads the embeddings, which have a width of their own"


AutoModelForSequenceClassification.register(BiLSTMConfig, BiLSTMForSequenceClassification, exist_ok=True)
register_anatomy(
    BiLSTMConfig.model_type,
    Layout(
        blocks="layers",
        heads="",
        rows_reason="masks of all rows are handed from layer to layer",
        anchored=_anchored,
    ),
)
