"""Did you mean: names that are close to what was typed."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher

SIMILAR = 0.7  # of the best possible 1; below it a suggestion is a guess
AS_GOOD = 0.1  # suggestions may be this much less similar than the best


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """Return `; did you mean a or b?`, to be appended to a message; empty where nothing is close."""
    found = closest(word, candidates)
    return f"; did you mean {' or '.join(found)}?" if found else ""


def closest(word: str, candidates: Iterable[str], count: int = 3) -> list[str]:
    """Return the candidates nearest to `word`, best first.

    Dotted keys are also compared by their last part alone, so that `batch_size` finds `dataloader.batch_size`.
    """
    scores = {candidate: similarity(word, candidate) for candidate in sorted(set(candidates))}
    best = max(scores.values(), default=0.0)
    near = [candidate for candidate, score in scores.items() if score >= max(SIMILAR, best - AS_GOOD)]
    return sorted(near, key=lambda candidate: -scores[candidate])[:count]


def similarity(word: str, candidate: str) -> float:
    """Return a number from 0 to 1, 1 for equal words; a last part in common, or a beginning, counts a little less."""
    whole = _ratio(word, candidate)
    last = _ratio(_last(word), _last(candidate))
    return max(whole, 0.8 * last + 0.2 * whole, 0.8 + 0.2 * whole if _begins(word, candidate) else 0.0)


def _begins(word: str, candidate: str) -> bool:
    """`dino` begins `dino_r50`; `loss` is above `loss.terms`, and does not begin it."""
    return len(word) > 2 and candidate.lower().startswith(word.lower()) and "." not in candidate[len(word) :]


def _ratio(a: str, b: str) -> float:
    return SequenceMatcher(None, a.lower(), b.lower(), autojunk=False).ratio()


def _last(key: str) -> str:
    return key.rpartition(".")[2]
