"""What falls of likelihoods say about a model: means over regions with their standard errors, by task and language."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from pam_kit.evaluation.faithfulness import VARIANTS, TextFall

Cell = dict[str, float]  # mean, se, n
Table = dict[str, dict[str, Cell]]  # "task language source" -> score -> cell

# What each score is, for whoever reads the table.
MEANINGS = {
    "nll": "nats per token of the text in the whole picture",
    "drop_region": "nats per token that are lost without the region",
    "drop_surroundings": "nats per token that are lost without all but the region",
    "drop_other": "nats per token that are lost without the largest other region",
    "share": "drop_region / (drop_region + drop_surroundings), of the means",
    "contrast": "drop_region - drop_other, of the same texts",
    "region_first": "share of texts that lose more without their region than without the other",
}


def of_regions(falls: Sequence[TextFall]) -> list[TextFall]:
    """The texts of one picture -> one for each region, question and source: several references count as one text.

    Their likelihoods and tokens add up, so that a drop is in nats per token of all of them.
    """
    groups: dict[tuple[str, ...], list[TextFall]] = defaultdict(list)
    for fall in falls:
        groups[fall.region, fall.task, fall.language, fall.source, fall.question].append(fall)
    return [own[0] if len(own) == 1 else _joined(own) for own in groups.values()]


def faithfulness_table(falls: Iterable[TextFall]) -> Table:
    """Scores of texts by task, language and where the text is from; a score that no text has is left out.

    Standard errors take regions for independent; those of one picture are less than that.
    """
    groups: dict[str, list[TextFall]] = defaultdict(list)
    for fall in falls:
        groups[f"{fall.task} {fall.language} {fall.source}"].append(fall)
    return {name: _scores(own) for name, own in groups.items()}


def faithfulness_markdown(tables: dict[str, Table]) -> list[str]:
    """Tables by split and prompt as Markdown lines: a row a group of texts, a column a score; then what scores are."""
    lines = []
    for row, table in tables.items():
        lines += [f"## {row}", "", "| texts | " + " | ".join(MEANINGS) + " | n |"]
        lines.append("| --- |" + " ---: |" * (len(MEANINGS) + 1))
        for name, scores in table.items():
            cells = [_cell(scores.get(score)) for score in MEANINGS]
            lines.append(f"| {name} | " + " | ".join(cells) + f" | {scores['nll']['n']} |")
        lines.append("")
    return lines + [f"- {name}: {what}" for name, what in MEANINGS.items()]


def _joined(falls: list[TextFall]) -> TextFall:
    return replace(
        falls[0],
        text="\n".join(fall.text for fall in falls),
        tokens=sum(fall.tokens for fall in falls),
        original=sum(fall.original for fall in falls),
        # All are about one region, of which the same was taken out.
        altered={name: sum(fall.altered[name] for fall in falls) for name in falls[0].altered},
    )


def _scores(falls: list[TextFall]) -> dict[str, Cell]:
    found = {"nll": _mean([-fall.original / fall.tokens for fall in falls])}
    drops = {name: [drop for fall in falls if (drop := fall.drop(name)) is not None] for name in VARIANTS}
    found |= {f"drop_{name}": _mean(values) for name, values in drops.items() if values}
    # A region that can be taken out has surroundings too, so the two lists are of the same texts.
    if drops["region"]:
        found["share"] = _share(np.array(drops["region"]), np.array(drops["surroundings"]))
    pairs = [(fall.drop("region"), drop) for fall in falls if (drop := fall.drop("other")) is not None]
    if pairs:
        ahead = np.array([[own, other] for own, other in pairs], dtype=float)
        difference = ahead[:, 0] - ahead[:, 1]
        found["contrast"] = _mean(difference)
        found["region_first"] = _mean((difference > 0) + 0.5 * (difference == 0))
    return found


def _mean(values) -> Cell:
    values = np.asarray(values, dtype=float)
    error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
    return {"mean": float(values.mean()), "se": error, "n": len(values)}


def _share(region: np.ndarray, surroundings: np.ndarray) -> Cell:
    """A ratio of means; its standard error is that of its linearisation. Unknown where nothing is lost in total."""
    total = region.mean() + surroundings.mean()
    if total <= 0:
        return {"mean": math.nan, "se": math.nan, "n": len(region)}
    share = region.mean() / total
    error = _mean((region * (1 - share) - surroundings * share) / total)["se"]
    return {"mean": float(share), "se": error, "n": len(region)}


def _cell(cell: Cell | None) -> str:
    if cell is None or math.isnan(cell["mean"]):
        return ""
    return f"{cell['mean']:.3f}" + ("" if math.isnan(cell["se"]) else f" ± {cell['se']:.3f}")
