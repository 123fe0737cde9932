"""Means, deviations and t-tests against scipy, numpy and closed forms."""

import math

import numpy as np
import pytest

from pam_kit.ablation.statistics import Comparison, deviation, mean, paired, two_sided_p, welch

stats = pytest.importorskip("scipy.stats")


@pytest.mark.parametrize("degrees", [1, 2, 2.5, 3.99, 10, 200])
@pytest.mark.parametrize("t", [0.0, 1e-3, 0.5, 1.0, 2.2, 4.3, 30.0, -2.2, 1e4])
def test_the_distribution_is_students(t, degrees):
    assert two_sided_p(t, degrees) == pytest.approx(2 * stats.t.sf(abs(t), degrees), rel=1e-9, abs=1e-14)


def test_one_degree_of_freedom_is_the_cauchy_distribution():
    assert two_sided_p(3.0, 1) == pytest.approx(1 - 2 / math.pi * math.atan(3.0), abs=1e-12)


@pytest.mark.parametrize("sizes", [(3, 3), (2, 5), (8, 4)])
def test_the_tests_are_those_of_scipy(sizes):
    rng = np.random.default_rng(sum(sizes))
    one, other = rng.normal(50, 3, sizes[0]), rng.normal(46, 6, sizes[1])
    found, expected = welch(list(one), list(other)), stats.ttest_ind(one, other, equal_var=False)
    assert found.difference == pytest.approx(one.mean() - other.mean())
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    other = rng.normal(46, 6, sizes[0])
    found, expected = paired(list(one), list(other)), stats.ttest_rel(one, other)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)


def test_mean_and_deviation():
    values = [1.0, 4.0, 7.5, -2.0]
    assert mean(values) == pytest.approx(np.mean(values)) and deviation(values) == pytest.approx(np.std(values, ddof=1))
    assert math.isnan(mean([])) and math.isnan(deviation([3.0]))


def test_too_few_runs_are_no_test():
    assert paired([5.0], [3.0]) == Comparison(2.0, None)
    assert welch([5.0, 6.0], [3.0]) == Comparison(2.5, None)
    assert paired([5.0], [3.0]).statement == "too few runs for a test" and not paired([5.0], [3.0]).significant


def test_values_without_spread():
    assert paired([4.0, 5.0], [4.0, 5.0]).p == 1 and welch([4.0, 4.0], [4.0, 4.0]).p == 1
    for found in (paired([5.0, 6.0, 5.0], [4.0, 5.0, 4.0]), welch([5.0, 5.0], [4.0, 4.0])):
        assert found.difference == 1 and found.p is None and not found.significant
        assert found.answer == found.statement == "no spread over seeds, so no test"


def test_the_answers():
    answers = {
        (1.0, 0.01): "yes",
        (1.0, 0.2): "not significant",
        (-1.0, 0.01): "no",
        (-1.0, 0.41): "not significant",
        (0.0, 1.0): "not significant",
        (1.0, None): "too few runs for a test",
        (-1.0, None): "too few runs for a test",
    }
    assert {given: Comparison(*given).answer for given in answers} == answers


def test_the_words():
    assert Comparison(1.0, 0.2).statement == "not significant, p = 0.20"
    assert Comparison(1.0, 0.05).statement == "not significant, p = 0.050"
    assert Comparison(1.0, 0.0312).statement == "p = 0.031"
    assert Comparison(1.0, 1e-5).statement == "p < 0.001"
