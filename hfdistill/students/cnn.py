"""A student that looks at windows of a few tokens (Kim 2014)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers import initialization as init

from hfdistill.files.plain_data import as_python
from hfdistill.students.attention_free import AttentionFreeClassifier, config_like, head, joined, texts_of
from hfdistill.students.configs import CNNConfig
from hfdistill.students.embedding_tables import word_vectors
from hfdistill.students.weight_copy import network


class CNNForSequenceClassification(AttentionFreeClassifier):
    """Filters over windows of tokens, the strongest answer of each, and a hidden layer (Kim 2014).

    h_f = max over the text's tokens t of ReLU(w_f · [e_t-k, …, e_t, …] + b_f), where what lies outside the
    text counts as zeros; then logits = W₂·ReLU(W₁·h). For pairs h is [h1, h2, h1·h2, |h1 - h2|]. Knows the
    order of words within a window and forgets it beyond (arXiv 1408.5882). There are no layers to look into:
    train it with terms on logits. Gradient checkpointing would save nothing and is refused by Transformers.

    Reads `input_ids` (B, T) and `attention_mask` (B, T); padding changes nothing. Labels as for any
    `AutoModelForSequenceClassification`, with which it is registered.

    Raises:
        ValueError: `windows` names no width, or one under 1.
    """

    config_class = CNNConfig
    base_model_prefix = ""
    _no_split_modules = ()

    def __init__(self, config: CNNConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.embeddings = nn.Embedding(config.vocab_size, config.embedding_size)
        self.dropout = nn.Dropout(config.dropout)
        self.filters = nn.ModuleList(
            nn.Conv1d(config.embedding_size, config.filters, width) for width in _widths(config.windows)
        )
        self.classifier = head(config.filters * len(config.windows), config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Conv1d):
            init.kaiming_uniform_(module.weight, nonlinearity="relu")
            init.zeros_(module.bias)

    def features(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Return the strongest answers of all filters, joined for pairs."""
        embedded = self.dropout(self.embeddings(input_ids))
        texts = texts_of(input_ids, attention_mask, self.config)
        return joined([self._strongest(embedded, mask) for mask in texts])

    def _strongest(self, embedded: Tensor, mask: Tensor) -> Tensor:
        """Return the strongest answers (B, filters · windows) to one text: vectors (B, T, E), mask (B, T)."""
        text = (embedded * mask[..., None]).transpose(1, 2)
        strongest = []
        for filters in self.filters:
            width = int(filters.kernel_size[0])  # type: ignore[index]
            maps = F.relu(filters(F.pad(text, ((width - 1) // 2, width // 2))))
            strongest.append((maps * mask[:, None]).amax(-1))  # no answer is under 0
        return torch.cat(strongest, dim=-1)


def _widths(windows: Any) -> list[int]:
    """Return the widths of windows, or raise an error where they are none."""
    widths = list(as_python(windows)) if isinstance(windows, Iterable) else []
    if not widths or any(type(width) is not int or width < 1 for width in widths):
        raise ValueError(f"windows={windows!r} should name widths from 1, for example (3, 4, 5).")
    return widths


def cnn_from_teacher(
    teacher: PreTrainedModel | str,
    tokenizer: Any,
    *,
    embedding_size: int | None = None,
    windows: tuple[int, ...] = (3, 4, 5),
    filters: int = 100,
    pairs: bool = False,
    dropout: float = 0.1,
) -> CNNForSequenceClassification:
    """Build a convolutional student with the teacher's word embeddings, reduced by principal components.

    Kim starts from word2vec and reads words; this one reads the teacher's tokens. Filters and head are drawn
    at random: call `torch.manual_seed` first for the same ones again. The embeddings learn on.

    Args:
        teacher: a classifier, a PEFT wrapper, an id or a path. It stays as it was.
        tokenizer: the teacher's, which the student reads too.
        embedding_size: width of a token's vector, at most that of the teacher's table; None for 300 or that.
        windows: tokens that a filter sees at once.
        filters: of each width; the paper has 100.
        pairs: the rows will be pairs of texts.
        dropout: on the embeddings and in the head; the paper has 0.5 with few rows.

    Returns:
        A float32 model in evaluation mode, on the teacher's device, with its classes.

    Raises:
        ValueError: `embedding_size` is larger than the teacher's, a window is under 1, or there is no
            separator for pairs.

    Example:
        >>> student = cnn_from_teacher("org/teacher", tokenizer)  # doctest: +SKIP

    When to use it: where phrases of a few words decide and CPU time is short: it reads a row in parallel,
    where a BiLSTM goes token by token. When not: where words far apart decide together.
    """
    whole = network(teacher)
    vectors = word_vectors(whole, embedding_size)
    sizes = {"embedding_size": vectors.shape[1], "windows": _widths(windows), "filters": filters}
    config = config_like(CNNConfig, whole, tokenizer, pairs=pairs, dropout=dropout, **sizes)
    student = CNNForSequenceClassification(config)
    with torch.no_grad():
        student.embeddings.weight.copy_(vectors)
    return student.to(whole.device).eval()


AutoModelForSequenceClassification.register(CNNConfig, CNNForSequenceClassification, exist_ok=True)
