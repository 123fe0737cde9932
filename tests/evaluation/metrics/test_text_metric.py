"""What metrics of texts share: joining, over merges and processes, without losing or doubling an item."""

import multiprocessing

import pytest
import torch

from pam_kit.errors import PamKitError
from pam_kit.evaluation.metrics.captions import CaptionScore
from pam_kit.evaluation.metrics.labels import SemanticIoU
from pam_kit.evaluation.metrics.scene_text import TextAccuracy

PREDICTIONS = ("a red cup", "", "zwei Tassen, eine grün 🍵", "the cup\nleft of it", "一只杯子")
REFERENCES = (("the red cup", "a cup"), ("nothing",), ("zwei grüne Tassen",), ("a cup", "the cup left", "x"), ("杯子",))
IDS = ("one", "two", "three", "four", "五")


def words(**options) -> CaptionScore:
    pytest.importorskip("pycocoevalcap.cider.cider_scorer")
    return CaptionScore("none", ("CIDEr", "ROUGE_L", "Bleu"), **options)


def fed(metric, *chosen: int, ids: bool = True):
    for i in chosen:
        metric.update([PREDICTIONS[i]], [REFERENCES[i]], [IDS[i]] if ids else None)
    return metric


@pytest.fixture
def in_processes(tmp_path):
    """``in_processes(work)``: ``work(rank)`` in two forked processes that gloo joins, and what they return."""

    def run(work):
        context = multiprocessing.get_context("fork")
        results = context.Queue()
        children = [context.Process(target=_joined, args=(rank, tmp_path, work, results)) for rank in range(2)]
        for child in children:
            child.start()
        found = dict(results.get(timeout=100) for _ in children)
        for child in children:
            child.join(20)
        assert [child.exitcode for child in children] == [0, 0]
        return [found[rank] for rank in range(2)]

    return run


def _joined(rank, folder, work, results):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        results.put((rank, work(rank)))
    except BaseException as error:
        results.put((rank, repr(error)))
        raise
    torch.distributed.destroy_process_group()


def test_processes_with_uneven_and_doubled_items_score_as_one(in_processes):
    parts = {"uneven": ((0, 1, 2), (3, 4, 0)), "one has none": ((0, 1, 2, 3, 4), ())}

    def work(rank):
        found = {}
        for name, chosen in parts.items():
            metric = fed(words(), *chosen[rank])
            values = {key: float(value) for key, value in metric.compute().items()}
            found[name] = values, metric.items(), len(metric.texts())
        return found

    expected = fed(words(), 0, 1, 2, 3, 4)
    for rank, found in enumerate(in_processes(work)):
        for name, (values, items, kept) in found.items():
            assert values == {key: float(value) for key, value in expected.compute().items()}
            assert items == expected.items()
            # Afterwards each process has its own items again.
            assert kept == len(parts[name][rank])


@pytest.mark.parametrize("ids", [True, False])
def test_merged_metrics_score_as_one(ids):
    whole = fed(words(), 0, 1, 2, 3, 4, ids=ids)
    one, other = fed(words(), 3, 4, ids=ids), fed(words(), 0, 1, 2, ids=ids)
    assert one.compute()["CIDEr"] != whole.compute()["CIDEr"]  # of a part: another value, which must not be kept
    one.merge_state(other)
    for name, value in whole.compute().items():
        assert value.dtype == torch.float64 and value.shape == ()
        assert one.compute()[name] == pytest.approx(float(value), abs=1e-15)
    if ids:
        assert one.items() == whole.items()


def test_an_item_that_comes_again_counts_once():
    twice = fed(words(), 0, 1, 2, 0, 1)
    once = fed(words(), 0, 1, 2)
    assert twice.compute() == once.compute() and list(twice.items()) == list(IDS[:3])


def test_without_ids_equal_texts_are_items_of_their_own():
    metric = TextAccuracy()
    metric.update(["a", "a", "b"], [["a"], ["a"], ["c"]])
    assert metric.compute()["exact_lower"] == pytest.approx(2 / 3)
    assert list(metric.items()) == ["0", "1", "2"]


def test_texts_come_back_as_they_were():
    metric = TextAccuracy()
    odd = ["", "\x00", "\ud83d", "a\r\nb\u2028", "😀" * 300]
    metric.update(odd, [[text, ""] for text in odd], [f"{i}\n" for i in range(5)])
    assert [text.prediction for text in metric.texts()] == odd
    assert [text.references for text in metric.texts()] == [(text, "") for text in odd]
    assert metric.compute()["exact_case"] == 1


def test_only_empty_texts():
    metric = SemanticIoU()
    metric.update(["", ""], [[""], ["", ""]])
    assert metric.compute()["semantic_iou"] == 0 and len(metric.texts()) == 2


def test_a_metric_that_is_reset_forgets():
    metric = fed(TextAccuracy(), 0, 1)
    metric.reset()
    metric.update(["x"], [["x"]])
    assert metric.compute()["exact_case"] == 1


def test_nothing_to_score_is_said():
    with pytest.raises(PamKitError, match="TextAccuracy has nothing to score"), pytest.warns(UserWarning):
        TextAccuracy().compute()


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ((["a"], []), "1 predictions but 0 lists of references"),
        ((["a"], [["b"]], []), "and 0 ids"),
        ((["a"], ["b"]), "item 0: references must be a list"),
        ((["a"], [[]], ["x"]), "item 'x': references must be a list of at least one text"),
        (([None], [["b"]]), "item 0: the prediction must be a text"),
        ((["a"], [["b"]], [""]), "an id must be a text that is not empty"),
    ],
)
def test_bad_updates_are_named(update, message):
    with pytest.raises(PamKitError, match=message):
        TextAccuracy().update(*update)


def test_an_id_with_other_references_is_refused():
    metric = fed(TextAccuracy(), 0)
    metric.update(["a red cup"], [["something else"]], ["one"])
    with pytest.raises(PamKitError, match="'one' came twice, with other references"):
        metric.compute()


def test_items_with_and_without_ids_are_refused():
    metric = fed(fed(TextAccuracy(), 0), 1, ids=False)
    with pytest.raises(PamKitError, match="give ids in every update, or in none"):
        metric.compute()
