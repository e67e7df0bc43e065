"""Settings of text generation. Does not import torch."""

from dataclasses import dataclass
from typing import Literal

from minillm.settings import check, setting


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """Sampling, and when generation ends."""

    prompt: str | None = setting(None)
    """Text to continue, to answer, or to fill gaps in; None: from the validation text."""
    max_new_tokens: int = setting(200, at_least=0)
    """Maximum number of tokens to generate."""
    temperature: float = setting(0.8, at_least=0, note="0 is greedy")
    """Divides the logits; 0 is greedy."""
    top_k: int = setting(0, at_least=0, note="0 keeps all tokens")
    """Keep the k most likely tokens; 0: all."""
    top_p: float = setting(1.0, above=0, at_most=1, note="1 keeps all tokens")
    """Keep the smallest set of most likely tokens with this total probability (Holtzman et al. 2020)."""
    min_p: float = setting(0.0, at_least=0, at_most=1, note="0 keeps all tokens")
    """Keep tokens whose probability is at least this fraction of the largest one (Nguyen et al. 2024)."""
    repetition_penalty: float = setting(1.0, above=0, note="1 is no penalty")
    """Values above 1 make tokens that occur in the text less likely (Keskar et al. 2019)."""
    num_samples: int = setting(1, at_least=1)
    """Completions of each prompt."""
    stop: tuple[str, ...] = setting(())
    """Strings that end a completion; they are not part of it."""
    num_draft_tokens: int = setting(1, at_least=0, note="0 drafts none")
    """Draft tokens from prompt lookup verified in each forward pass; they do not change the text. 0: none."""
    seed: int = setting(1337, at_least=0)
    """Random seed; a completion depends only on it, its prompt and its sample number."""

    def __post_init__(self) -> None:
        check("sample", self)


@dataclass(frozen=True, kw_only=True)
class BeamConfig:
    """Beam search."""

    num_beams: int = setting(4, at_least=1)
    """Hypotheses kept for each prompt at every step; 1 is greedy."""
    num_best: int = setting(1, at_least=1)
    """Completions returned for each prompt, the best first; at most `num_beams`."""
    length_penalty: float = setting(0.6, at_least=0, at_most=10, note="0 is no penalty")
    """Exponent of (5 + length) / 6, which divides the log-probability (Wu et al. 2016); 0: none. Larger values favor
    longer texts."""
    max_new_tokens: int = setting(200, at_least=0)
    """Maximum number of tokens to generate, including EOS."""
    stop: tuple[str, ...] = setting(())
    """Strings that end a completion; they are applied after the search."""

    def __post_init__(self) -> None:
        check("beam", self)
        if self.num_best > self.num_beams:
            raise ValueError(f"beam.num_best is {self.num_best}; it must be at most beam.num_beams, {self.num_beams}")


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """Sentence embeddings: how the hidden states of a text become one vector (Reimers and Gurevych 2019)."""

    pooling: Literal["cls", "mean", "max", "last", "mean_sqrt_len", "weighted_mean"] | None = setting(None)
    """Hidden state of the first or the last token, or the mean, maximum, sum divided by the square root of the length,
    or mean weighted by position over all tokens; None: the mean, and exports have no files for sentence-transformers.
    """
    normalize: bool = setting(False)
    """Divide a vector by its length."""
    max_tokens: int | None = setting(None, at_least=3)
    """Maximum number of tokens that are read of a text, special tokens included; None: model.max_seq_len."""
    similarity: Literal["cosine", "dot", "euclidean", "manhattan"] = setting("cosine")
    """Compares two vectors; euclidean and manhattan are negative distances."""
    prompts: tuple[str, ...] = setting(())
    """Beginnings of texts for different purposes, as NAME=TEXT."""
    prompt: str | None = setting(None)
    """Name in `prompts` of the one that is put before every text; None: none of them."""

    def __post_init__(self) -> None:
        check("embed", self)
        self.prompt_text(self.prompt)

    def prompt_text(self, name: str | None) -> str:
        """The text of the prompt `name`, "" for None; ValueError if there is none of this name."""
        texts = {key: text for key, _, text in (prompt.partition("=") for prompt in self.prompts)}
        if name is not None and name not in texts:
            raise ValueError(f"embed.prompt is {name!r}; embed.prompts has {', '.join(texts) or 'none'}")
        return "" if name is None else texts[name]
