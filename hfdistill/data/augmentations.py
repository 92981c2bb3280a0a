"""Augmentations write a text anew: they mask, drop, swap, cut out, or replace words."""

from __future__ import annotations

import hashlib
import json
import re
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import hfdistill

WORD = re.compile("(?<![\\w'\u2019])[^\\W\\d_]+(?![\\w'\u2019])")
"""A whole word of letters; parts of `don't` and `4th` are none."""

_LITTLE = """
i me my myself we our ours ourselves you your yours yourself yourselves he him his himself she her hers
herself it its itself they them their theirs themselves what which who whom this that these those am is are
was were be been being have has had having do does did doing a an the and but if or because as until while
of at by for with about against between into through during before after above below to from up down in out
on off over under again further then once here there when where why how all any both each few more most
other some such no nor not only own same so than too very s t can will just should now
"""
STOP_WORDS = frozenset(_LITTLE.split())
"""English words that are not replaced: those that say little, negations, which say too much, and words that
ask (what, who, when, why, how), which say what is asked for. NLTK's list, as in TinyBERT's code."""


class Augmentation:
    """A way to write a text anew, drawn at random: a subclass needs `draw` alone.

    A plain function `str -> list[str]` is one too, where it answers the same for the same text.

    Example:
        >>> class Shout(Augmentation):
        ...     def draw(self, prepared, *, random, copy):
        ...         return prepared.upper() if random.random() < 0.5 else prepared
    """

    def prepare(self, texts: Sequence[str]) -> list[Any]:
        """Return what `draw` needs of each text, made for many at once; by default the texts themselves."""
        return list(texts)

    @abstractmethod
    def draw(self, prepared: Any, *, random: Random, copy: int) -> str:
        """Return one new text; the old one where nothing can be changed.

        Args:
            prepared: what `prepare` made of the text.
            random: decides alone what comes out.
            copy: how many were drawn of this text before, in other copies or epochs.
        """

    def fingerprint(self) -> str | None:
        """Return a text that tells two augmentations apart; None where rows must not come from a cache."""
        return None


class Rewriting(Augmentation):
    """An augmentation of this library, whose `repr` says all that it does."""

    def fingerprint(self) -> str | None:
        """Return the settings and the version of this library; None for a subclass, whose code may change."""
        ours = type(self).__module__ == __name__
        return f"{hfdistill.__version__} {self!r}" if ours else None


class Chain(Augmentation):
    """Augmentations one after the other: what the first wrote is what the next reads.

    `Chain(Mask(tokenizer.mask_token), NGramSample(p=0.25))` is the augmentation of Tang et al. 2019 (arXiv
    1903.12136) without its exchange of words of one part of speech.

    Args:
        *steps: augmentations or functions.

    Raises:
        ValueError: without a step.
    """

    def __init__(self, *steps: Augmentation | Callable[[str], list[str]]) -> None:
        if not steps:
            raise ValueError(
                "Chain needs one augmentation or more, found none. Type Chain(Delete(), Swap())."
            )
        self.steps = [as_augmentation(step) for step in steps]

    def __repr__(self) -> str:
        """Return the steps in their order."""
        return f"Chain({', '.join(map(repr, self.steps))})"

    def prepare(self, texts: Sequence[str]) -> list[Any]:
        """Return what the first step prepares."""
        return self.steps[0].prepare(texts)

    def draw(self, prepared: Any, *, random: Random, copy: int) -> str:
        """Return what the last step writes."""
        for i, step in enumerate(self.steps):
            prepared = prepared if i == 0 else step.prepare([prepared])[0]
            prepared = step.draw(prepared, random=random, copy=copy)
        return str(prepared)

    def fingerprint(self) -> str | None:
        """Return those of all steps."""
        prints = [step.fingerprint() for step in self.steps]
        return None if None in prints else f"Chain {prints}"


class _Function(Augmentation):
    """A plain function: its answers are the copies, in their order."""

    def __init__(self, function: Callable[[str], list[str]]) -> None:
        self.function = function

    def __repr__(self) -> str:
        return _name(self.function)

    def prepare(self, texts: Sequence[str]) -> list[Any]:
        return [[text, *self._checked(text)] for text in texts]

    def _checked(self, text: str) -> list[str]:
        answers = self.function(text)
        if isinstance(answers, str) or not all(isinstance(answer, str) for answer in answers):
            raise TypeError(
                f"{_name(self.function)} answers {answers!r:.60} for the text {text!r:.60}. An augmentation "
                "gives a list of texts: str -> list[str]."
            )
        return list(answers)

    def draw(self, prepared: Any, *, random: Random, copy: int) -> str:
        text, *answers = prepared
        return str(answers[copy % len(answers)] if answers else text)


def as_augmentation(source: Augmentation | Callable[[str], list[str]]) -> Augmentation:
    """Return the augmentation itself, or a function as one."""
    if isinstance(source, Augmentation):
        return source
    if not callable(source) or isinstance(source, type):
        raise TypeError(
            f"An augmentation is a function str -> list[str] or an object such as Delete(), found "
            f"{source!r:.60}. Type augment(dataset, Delete(), copies=5)."
        )
    return _Function(source)


def _name(function: Any) -> str:
    return getattr(function, "__qualname__", type(function).__qualname__)


def check_share(owner: object, name: str, value: float) -> None:
    """Refuse a share of words that does not lie in (0, 1]."""
    if not 0 < value <= 1:
        raise ValueError(f"{type(owner).__name__} needs {name} above 0 and at most 1, found {value!r}.")


@dataclass(frozen=True)
class Mask(Rewriting):
    """Each word becomes the mask token with probability p, never all of them (Tang et al. 2019, 1903.12136).

    Use it where student and teacher know the mask token, as BERT's kin do; not for a student whose vocabulary
    was pruned, nor for two tokenizers with different mask tokens.

    Args:
        mask_token: `tokenizer.mask_token`, such as "[MASK]".
        p: probability of each word.

    Raises:
        ValueError: for a tokenizer that has none, and for p outside (0, 1].
    """

    mask_token: str
    p: float = 0.1

    def __post_init__(self) -> None:
        if not isinstance(self.mask_token, str) or not self.mask_token.strip():
            raise ValueError(
                f"Mask needs the tokenizer's mask token, found {self.mask_token!r:.60}. Type "
                "Mask(tokenizer.mask_token); where that is None, take Delete() instead."
            )
        check_share(self, "p", self.p)

    def draw(self, prepared: Any, *, random: Random, copy: int) -> str:
        """Return the text with words masked."""
        words = prepared.split()
        masked = [self.mask_token if random.random() < self.p else word for word in words]
        has_words = any(word != self.mask_token for word in masked)
        return " ".join(masked) if has_words and masked != words else str(prepared)


@dataclass(frozen=True)
class NGramSample(Rewriting):
    """Keeps a random run of 1 to `longest` words with probability p (Tang et al. 2019, arXiv 1903.12136).

    A text of fewer words than `longest` gives runs of 1 to all of its words, each length as
    likely: one of three words stays whole in a third of the cuts. A text of one word stays.

    Use it where parts of a text say something by themselves, as in sentiment, and after `Mask` in a `Chain`
    with p=0.25, as in the paper; not where the answer is in the whole, as in pairs that are compared.

    Args:
        p: probability that the text is cut at all.
        longest: words kept at most; each number from 1 is as likely.

    Raises:
        ValueError: for p outside (0, 1] and less than one word.
    """

    p: float = 1.0
    longest: int = 5

    def __post_init__(self) -> None:
        check_share(self, "p", self.p)
        if self.longest < 1:
            raise ValueError(f"NGramSample keeps 1 word or more, found longest={self.longest}.")

    def draw(self, prepared: Any, *, random: Random, copy: int) -> str:
        """Return the run of words, or the text."""
        words = prepared.split()
        if random.random() >= self.p or len(words) < 2:
            return str(prepared)
        size = random.randint(1, min(self.longest, len(words)))
        start = random.randint(0, len(words) - size)
        return " ".join(words[start : start + size])


@dataclass(frozen=True)
class Delete(Rewriting):
    """Each word is left out with probability p, never all of them (EDA's RD, arXiv 1901.11196).

    It can drop a "not": let the teacher label what it writes.

    Args:
        p: probability of each word.

    Raises:
        ValueError: for p outside (0, 1].
    """

    p: float = 0.1

    def __post_init__(self) -> None:
        check_share(self, "p", self.p)

    def draw(self, prepared: Any, *, random: Random, copy: int) -> str:
        """Return the words that are left; one at random where none is."""
        words = prepared.split()
        left = [word for word in words if random.random() >= self.p]
        if len(left) == len(words):
            return str(prepared)
        return " ".join(left or [random.choice(words)])


@dataclass(frozen=True)
class Swap(Rewriting):
    """Two random words change places, max(1, ⌊share · words⌋) times (EDA's RS, arXiv 1901.11196).

    Args:
        share: of the text's words.

    Raises:
        ValueError: for a share outside (0, 1].
    """

    share: float = 0.1

    def __post_init__(self) -> None:
        check_share(self, "share", self.share)

    def draw(self, prepared: Any, *, random: Random, copy: int) -> str:
        """Return the words in another order."""
        words = prepared.split()
        if len(words) < 2:
            return str(prepared)
        for _ in range(max(1, int(self.share * len(words)))):
            one, other = random.sample(range(len(words)), 2)
            words[one], words[other] = words[other], words[one]
        return " ".join(words)


@dataclass(frozen=True)
class Synonyms(Rewriting):
    """max(1, ⌊share · words⌋) different words become synonyms wherever they stand (EDA's SR, 1901.11196).

    Args:
        lexicon: a word in small letters → its synonyms. None reads WordNet through NLTK, where both are
            installed.
        share: of the text's words.
        stop_words: left as they are.

    Raises:
        ValueError: for a share outside (0, 1].
        LookupError: without a lexicon, where NLTK or WordNet is not installed.

    Example:
        >>> from random import Random
        >>> Synonyms({"film": ["movie"]}).draw("A warm Film.", random=Random(0), copy=0)
        'A warm Movie.'
    """

    lexicon: Mapping[str, Sequence[str]] | None = field(default=None, repr=False)
    share: float = 0.1
    stop_words: frozenset[str] = field(default=STOP_WORDS, repr=False)

    def __post_init__(self) -> None:
        check_share(self, "share", self.share)
        if self.lexicon is None:
            _wordnet()

    def fingerprint(self) -> str | None:
        """Return the settings and every word of the lexicon; None for a subclass."""
        settings = super().fingerprint()
        if settings is None:
            return None
        words = {word: list(others) for word, others in sorted((self.lexicon or {}).items())}
        content = json.dumps([words, sorted(self.stop_words), self.lexicon is None])
        return f"{settings} {hashlib.sha256(content.encode()).hexdigest()}"

    def synonyms(self, word: str) -> list[str]:
        """Return other words of the same meaning, in an order that is always the same."""
        if self.lexicon is None:
            lemmas = {name for synset in _wordnet().synsets(word) for name in synset.lemma_names()}
            return sorted({name.replace("_", " ") for name in lemmas} - {word})
        return [other for other in self.lexicon.get(word, ()) if other.strip() and other != word]

    def draw(self, prepared: Any, *, random: Random, copy: int) -> str:
        """Return the text with synonyms; title case is kept."""
        words = list(dict.fromkeys(match.group().lower() for match in WORD.finditer(prepared)))
        words = [word for word in words if word not in self.stop_words]
        random.shuffle(words)
        chosen: dict[str, str] = {}
        for word in words:
            if len(chosen) >= max(1, int(self.share * len(prepared.split()))):
                break
            if others := self.synonyms(word):
                chosen[word] = random.choice(others)
        return WORD.sub(lambda match: cased(chosen.get(match[0].lower(), match[0]), match[0]), prepared)


def cased(word: str, like: str) -> str:
    """Return the word with a capital where the one it replaces has one."""
    return word[:1].upper() + word[1:] if like[:1].isupper() else word


def _wordnet() -> Any:
    try:
        from nltk.corpus import wordnet

        wordnet.ensure_loaded()
    except (ImportError, LookupError):
        raise LookupError(
            "Synonyms() reads WordNet through NLTK, and one of them is not installed. Type pip install nltk "
            "and python -m nltk.downloader wordnet, or give words of your own: "
            "Synonyms({'film': ['movie', 'picture']})."
        ) from None
    return wordnet
