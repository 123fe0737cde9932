"""Temperatures and calibration errors, against a search, a hand-made case and a known distortion."""

import pytest
import torch
from scipy.optimize import minimize_scalar

from pam_kit.errors import PamKitError
from pam_kit.evaluation.closed_set_scores import closed_set_metrics, fit_temperature, held_out_prior, mean_nll


def drawn(regions: int, labels: int = 6, sharpness: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Honest scores and labels drawn from them; ``sharpness`` then makes the scores too sure of themselves."""
    generator = torch.Generator().manual_seed(4)
    scores = 2 * torch.randn(regions, labels, generator=generator)
    truth = torch.multinomial(scores.softmax(1), 1, generator=generator)[:, 0]
    return sharpness * scores, truth


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 5.0])
def test_the_temperature_is_the_best_there_is(sharpness):
    scores, truth = drawn(400, sharpness=sharpness)
    found = fit_temperature(scores, truth)
    best = minimize_scalar(lambda log: mean_nll(scores / 2.718281828**log, truth), bounds=(-4, 4), method="bounded")
    assert found == pytest.approx(2.718281828**best.x, rel=1e-3)


def test_it_undoes_what_made_scores_too_sure_and_brings_the_error_down():
    scores, truth = drawn(20000, sharpness=4.0)
    temperature = fit_temperature(scores[:10000], truth[:10000])
    assert temperature == pytest.approx(4.0, rel=0.05)
    before, after = (closed_set_metrics(6)((scores[10000:] / t).softmax(1), truth[10000:]) for t in (1.0, temperature))
    assert before["ECE"] > 0.1 > 0.02 > after["ECE"]
    assert before["top 1"] == after["top 1"]


def test_lists_that_are_always_or_never_right_stay_in_bounds():
    scores = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0]])
    assert fit_temperature(scores, torch.tensor([0, 1])) == pytest.approx(0.01, rel=1e-6)
    assert fit_temperature(scores, torch.tensor([2, 0])) == pytest.approx(100.0, rel=1e-6)
    with pytest.raises(PamKitError, match="at least one region"):
        fit_temperature(scores[:0], torch.tensor([], dtype=torch.long))


def test_metrics_by_hand():
    confidence = torch.tensor([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.2, 0.1, 0.7], [0.7, 0.2, 0.1]])
    truth = torch.tensor([0, 1, 2, 0])
    metrics = closed_set_metrics(3)
    for rows in (slice(0, 1), slice(1, 4)):
        metrics.update(confidence[rows], truth[rows])
    told = metrics.compute()
    assert float(told["top 1"]) == 0.75 and float(told["top 5"]) == 1.0
    # Bins of a fifteenth: 0.6 right, 0.5 wrong, and 0.7 twice right.
    assert float(told["ECE"]) == pytest.approx((abs(1 - 0.6) + abs(0 - 0.5) + 2 * abs(1 - 0.7)) / 4, abs=1e-6)


def test_a_prior_is_the_average_over_regions():
    scores, _ = drawn(7)
    assert torch.allclose(held_out_prior(scores).exp(), scores.softmax(1).double().mean(0))
