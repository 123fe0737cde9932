"""Means over the scores of a judge, with failures left out or as the published scripts treat them. Torch-free."""

from collections.abc import Mapping, Sequence
from typing import Any

from pam_kit.evaluation.judging import parsers
from pam_kit.evaluation.judging.parsers import DIMENSIONS, FAILED_PAIR, Pair


def mean(scores: Sequence[float]) -> float | None:
    """None without scores."""
    return sum(scores) / len(scores) if scores else None


def mean_pair(pairs: Sequence[Pair], decimals: int | None = None) -> Pair | None:
    """Means of the first and of the second scores, rounded where ``decimals`` are given."""
    first, second = mean([pair[0] for pair in pairs]), mean([pair[1] for pair in pairs])
    if first is None or second is None:
        return None
    return (first, second) if decimals is None else (round(first, decimals), round(second, decimals))


def relative_score(pairs: Sequence[Pair]) -> float | None:
    """100 times the mean of the second scores over the mean of the first (Ferret-Bench): above 100 where the second
    answers are better. None without pairs, or where the first scores cancel out.
    """
    means = mean_pair(pairs)
    return 100 * means[1] / means[0] if means and means[0] else None


def published_relative_score(pairs: Sequence[Pair], decimals: int = 2) -> float | None:
    """The same off means of three decimals, with failures averaged in as (-1, -1) where ``pairs`` hold them.

    Args:
        decimals: of the result: 1 for Ferret and lmms-eval, 2 for Osprey and Draw-and-Understand.
    """
    means = mean_pair(pairs, 3)
    return round(means[1] / means[0] * 100, decimals) if means and means[0] else None


def dimension_means(replies: Sequence[Mapping[str, float | None] | None]) -> dict[str, Any]:
    """Of each dimension of VideoRefer-Bench-D, mean and count of the replies that have it, and the means' ``Average``.

    A mean without replies is None, and so is then the average.
    """
    table: dict[str, Any] = {}
    for name in DIMENSIONS:
        scores = [score for reply in replies if reply and (score := reply.get(name)) is not None]
        table[name] = {"mean": mean(scores), "count": len(scores)}
    means = [table[name]["mean"] for name in DIMENSIONS]
    return table | {"Average": None if None in means else mean(means)}


def reply_tables(replies: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """All readings of raw replies, in plain JSON values: as the published scripts read them, and, under
    ``tolerant_pam_kit``, as pam-kit does.

    Args:
        replies: ``videorefer_bench_d``, ``pairwise`` and ``g_stdc`` -> the judge's texts.
    """
    numbered = [parsers.published_videorefer(reply) for reply in replies["videorefer_bench_d"]]
    continuities = [parsers.published_continuity(reply) for reply in replies["g_stdc"]]
    return {
        "videorefer_bench_d": {"parsed": numbered, "aggregate": dimension_means(numbered)},
        "pairwise": _published_pairs(replies["pairwise"]),
        "g_stdc": {
            "parsed": [{"score": score, "explanation": explanation} for score, explanation in continuities],
            "mean": mean([score for score, _ in continuities]),
        },
        "tolerant_pam_kit": _tolerant(replies),
    }


def _published_pairs(replies: Sequence[str]) -> dict[str, Any]:
    ferret = [parsers.published_pair_ferret(reply) for reply in replies]
    lmms_eval = [parsers.published_pair_lmms_eval(reply) for reply in replies]
    return {
        "parsed_ferret": [list(pair) for pair in ferret],
        "parsed_lmms_eval": [list(pair) for pair in lmms_eval],
        "aggregate_ferret_including_failures": _pair_table(ferret),
        "aggregate_ferret_excluding_failures": _pair_table([pair for pair in ferret if pair != FAILED_PAIR]),
        "aggregate_lmms_including_failures": _pair_table(lmms_eval),
    }


def _pair_table(pairs: Sequence[Pair]) -> dict[str, Any]:
    means = mean_pair(pairs, 3)
    return {"mean_pair": list(means) if means else None, "relative_score": published_relative_score(pairs)}


def _tolerant(replies: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    numbered = [parsers.dimensions(reply) for reply in replies["videorefer_bench_d"]]
    pairs = [parsers.pair(reply) for reply in replies["pairwise"]]
    continuities = [parsers.continuity(reply) for reply in replies["g_stdc"]]
    read_pairs = [pair for pair in pairs if pair is not None]
    read_continuities = [score for score in continuities if score is not None]
    return {
        "videorefer_bench_d": {"parsed": numbered, "aggregate": dimension_means(numbered)},
        "pairwise": {
            "parsed": [pair and list(pair) for pair in pairs],
            "relative_score": relative_score(read_pairs),
            "parsed_count": len(read_pairs),
        },
        "g_stdc": {
            "parsed": continuities,
            "mean": mean(read_continuities),
            "parsed_count": len(read_continuities),
        },
    }
