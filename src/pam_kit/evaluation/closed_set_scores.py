"""How often the right label of a list comes first, and how far confidences can be trusted; and what makes them better.

Sources: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017: expected calibration error (equation 3, 15
bins) and temperature scaling (section 4.2).
"""

import torch
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from pam_kit.errors import PamKitError

# Temperatures outside are of lists that are always or never right.
LOWEST, HIGHEST = 1e-2, 1e2
_HALVINGS = 60


def fit_temperature(scores: Tensor, truth: Tensor) -> float:
    """The temperature T that makes ``softmax(scores / T)`` most likely on held-out regions, within [0.01, 100].

    The mean negative log-likelihood is convex in 1 / T, so its only minimum is where its derivative changes sign; it is
    found by halving.

    Args:
        scores: (R, K), any log-probabilities.
        truth: (R,) long, the right label of each region.
    """
    if scores.ndim != 2 or truth.shape != scores.shape[:1] or not len(truth):
        raise PamKitError(f"scores (R, K) and labels (R,) of at least one region are needed, not {tuple(scores.shape)}")
    values = scores.double()
    right = values.gather(1, truth[:, None])[:, 0]
    low, high = 1 / HIGHEST, 1 / LOWEST
    for _ in range(_HALVINGS):
        middle = (low * high) ** 0.5
        expected = ((values * middle).softmax(1) * values).sum(1)
        low, high = (low, middle) if float((expected - right).mean()) > 0 else (middle, high)
    return 1 / (low * high) ** 0.5


def held_out_prior(scores: Tensor) -> Tensor:
    """Log of the average probability of each label over regions (R, K) -> (K,), of a list and not of all texts."""
    return scores.double().log_softmax(1).logsumexp(0) - torch.tensor(len(scores)).log()


def closed_set_metrics(labels: int) -> MetricCollection:
    """Accuracy of the first and of the first five of a list of labels, and the expected calibration error (15 bins).

    They are updated with confidences (R, K) and the right labels (R,), on any number of processes.
    """
    return MetricCollection(
        {
            "top 1": MulticlassAccuracy(labels, average="micro"),
            "top 5": MulticlassAccuracy(labels, top_k=min(5, labels), average="micro"),
            "ECE": MulticlassCalibrationError(labels, n_bins=15, norm="l1"),
        }
    )


def mean_nll(scores: Tensor, truth: Tensor) -> float:
    """Mean negative log-likelihood of the right labels (R,) under the softmax of scores (R, K), in nats."""
    return float(torch.nn.functional.cross_entropy(scores.double(), truth))
