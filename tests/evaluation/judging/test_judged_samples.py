"""Records of the benchmarks' own readers before a judge that compares words: perfect where all is said as expected."""

import pytest

from pam_kit.evaluation.benchmark_run import as_scored
from pam_kit.evaluation.benchmarks.registry import BENCHMARKS
from pam_kit.evaluation.benchmarks.samples.write import write_samples
from pam_kit.evaluation.judging.asking import Judge
from pam_kit.evaluation.judging.judge import PROTOCOLS
from pam_kit.evaluation.judging.judge import judge as judged

# Benchmark and its judged protocol -> the highest score, the lowest, and how many places on the next answer is wrong.
JUDGED = {
    ("ferret", "pairwise_ferret"): (100, 10, 2),
    ("mdvp", "pairwise_mdvp"): (100, 10, 1),
    ("videorefer_d", "videorefer_bench_d"): (5, 0, 1),
    ("activitynet_stream", "g_stdc"): (5, 0, 1),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Name -> folder of the benchmark's sample."""
    return write_samples(tmp_path_factory.mktemp("judged"), [name for name, _ in JUDGED])


@pytest.fixture
def scored(folders, scripted, comparing, tmp_path):
    """``scored("ferret", "pairwise_ferret", shift)``: what is said of each region is expected ``shift`` places on."""
    scripted.script = comparing

    def score(name: str, protocol: str, shift: int = 0, **reading):
        benchmark = BENCHMARKS[name]
        records = benchmark.records(folders[name], **reading)
        said = [record.references[0] for record in (*records[shift:], *records[:shift])]
        answered = [record.with_prediction(text) for record, text in zip(records, said, strict=True)]
        by = Judge(scripted.settings(), tmp_path / "judge.jsonl", wait=lambda seconds: None)
        return judged(as_scored(benchmark, answered), protocol, by, root=folders[name])

    return score


def test_every_judged_protocol_has_its_row():
    assert {protocol for _, protocol in JUDGED} == set(PROTOCOLS)
    assert set(JUDGED) == {(b.name, p) for b in BENCHMARKS.values() for p in b.protocols if p in PROTOCOLS}


@pytest.mark.parametrize(("name", "protocol"), JUDGED)
def test_what_is_expected_gets_the_highest_score_and_what_is_not_the_lowest(scored, name, protocol):
    highest, lowest, shift = JUDGED[name, protocol]
    whole, shifted = scored(name, protocol), scored(name, protocol, shift)
    # Every number, those of the published scripts, of files and of groups among them, and every item.
    assert set(whole.corpus.values()) == {highest} and set(shifted.corpus.values()) == {lowest}
    assert whole.corpus.keys() == shifted.corpus.keys()
    printed = {headline.metric for headline in BENCHMARKS[name].headlines if headline.protocol == protocol}
    assert printed and printed <= whole.corpus.keys()
    assert "coverage 100.0 %" in "\n".join(whole.notes) and "coverage 100.0 %" in "\n".join(shifted.notes)


@pytest.mark.parametrize(
    ("name", "reading"),
    [("ferret", {"variant": "osprey"}), ("mdvp", {"prompt_type": "points"}), ("videorefer_d", {"variant": "multi"})],
)
def test_other_variants_are_judged_alike(scored, name, reading):
    protocol, highest = next((p, top) for (n, p), (top, _, _) in JUDGED.items() if n == name)
    assert set(scored(name, protocol, **reading).corpus.values()) == {highest}
