"""A student without layers: a weighted mean of token vectors and a small network on top."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers import initialization as init

from hfdistill.files.plain_data import as_python
from hfdistill.students.attention_free import AttentionFreeClassifier, config_like, head, joined, texts_of
from hfdistill.students.configs import StaticConfig
from hfdistill.students.corpus import Corpus
from hfdistill.students.embedding_tables import importance_of_tokens, principal_components, token_outputs
from hfdistill.students.weight_copy import network


class StaticForSequenceClassification(AttentionFreeClassifier):
    """Bag of weighted token vectors, then one hidden layer.

    h = Σ_t a_t·e_t with a = softmax over the row's tokens of a learned score per token s, that is a mean of
    the vectors e weighted by exp(s); then logits = W₂·ReLU(W₁·h). For pairs h is [h1, h2, h1·h2, |h1 - h2|].
    Order of words plays no part. Its cost per token is one row of a table, so in batches it is hundreds of
    times as fast as its teacher, and some 30 times on one row. There are no layers to look into: train it
    with terms on logits. Gradient checkpointing would save nothing and is refused by Transformers.

    Reads `input_ids` (B, T) and `attention_mask` (B, T); padding changes nothing. Labels as for any
    `AutoModelForSequenceClassification`, with which it is registered.
    """

    config_class = StaticConfig
    base_model_prefix = ""
    _no_split_modules = ()

    def __init__(self, config: StaticConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.embeddings = nn.EmbeddingBag(config.vocab_size, config.hidden_size, mode="sum")
        self.scores = nn.Embedding(config.vocab_size, 1)
        self.classifier = head(config.hidden_size, config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self.scores:
            init.zeros_(module.weight)  # a plain mean

    def features(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Return the weighted mean of the tokens' vectors, joined for pairs."""
        scores = self.scores(input_ids).squeeze(-1)  # (B, T)
        means = [
            self._mean(
                input_ids,
                F.softmax(scores.float().masked_fill(~mask, torch.finfo(torch.float32).min), dim=-1),
            )
            for mask in texts_of(input_ids, attention_mask, self.config)
        ]
        return joined(means)

    def _mean(self, input_ids: Tensor, weights: Tensor) -> Tensor:
        """Return sums (B, D) of token vectors by weights (B, T)."""
        weights = weights.to(self.embeddings.weight.dtype)
        if torch.compiler.is_exporting():  # ONNX has no EmbeddingBag
            return (weights.unsqueeze(1) @ F.embedding(input_ids, self.embeddings.weight)).squeeze(1)
        means: Tensor = self.embeddings(input_ids, per_sample_weights=weights)
        return means


def static_from_teacher(
    teacher: PreTrainedModel | str,
    tokenizer: Any,
    *,
    width: int = 256,
    classifier_size: int = 512,
    corpus: Corpus | None = None,
    pairs: bool = False,
    dropout: float = 0.1,
) -> StaticForSequenceClassification:
    """Build a static student whose table the teacher made.

    Each token of the vocabulary passes through the teacher once, between the special tokens; the outputs are
    reduced to `width` by principal components and weighted by smooth inverse frequency, as in Model2Vec
    (https://github.com/MinishLab/model2vec) and, for the weights a / (a + p), Arora et al. 2017 ("A Simple
    but Tough-to-Beat Baseline for Sentence Embeddings", ICLR). Table and weights learn on; the head is drawn
    at random: call `torch.manual_seed` first for the same one again.

    Args:
        teacher: a classifier, a PEFT wrapper, an id or a path. It stays as it was.
        tokenizer: the teacher's, which the student reads too.
        width: D of the student's table; at most the teacher's width.
        classifier_size: width of the head's hidden layer.
        corpus: texts from which tokens' frequencies are counted (strings, pairs, or a dataset with `text`);
            None for a guess from the ids, see `importance_of_tokens`.
        pairs: the rows will be pairs of texts.
        dropout: of the head.

    Returns:
        A float32 model in evaluation mode, on the teacher's device, with its classes.

    Raises:
        ValueError: `width` is larger than the teacher's, or there is no separator for pairs.

    Example:
        >>> student = static_from_teacher("org/teacher", tokenizer)  # doctest: +SKIP

    When to use it: topics, intents and sentiment in bulk on CPUs, where a table of the vocabulary fits.
    When not: where word order decides (entailment, negation far away); see `bilstm_from_teacher`.
    """
    whole, width = network(teacher), as_python(width)
    sizes = {"hidden_size": width, "classifier_size": classifier_size, "dropout": dropout}
    config = config_like(StaticConfig, whole, tokenizer, pairs=pairs, **sizes)
    table = principal_components(token_outputs(whole, tokenizer), width)
    student = StaticForSequenceClassification(config)
    with torch.no_grad():
        student.embeddings.weight.copy_(table)
        weights = importance_of_tokens(tokenizer, corpus, size=config.vocab_size)
        student.scores.weight.copy_(weights.log()[:, None])
    return student.to(whole.device).eval()


AutoModelForSequenceClassification.register(StaticConfig, StaticForSequenceClassification, exist_ok=True)
