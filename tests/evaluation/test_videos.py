"""Scores of events, in closed form, and of streams through videos by a stream that knows the truth."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from pam_kit.contracts import GeneratedText
from pam_kit.data.micro.video_dataset import MicroClips, MicroVideos
from pam_kit.errors import PamKitError
from pam_kit.evaluation import videos
from pam_kit.evaluation.evaluate import evaluate
from pam_kit.evaluation.event_scores import EventScores
from pam_kit.inference.stream_records import Description
from pam_kit.sections import ComponentChoice, EvaluateSection, SplitChoice

MICRO = {"num_samples": 4, "image_size": 64, "seed": 5, "frames_per_event": 4}


def said(**texts: str) -> dict:
    return {"caption": {language: GeneratedText(text, 0.5) for language, text in texts.items()}}


def test_facts_count_where_the_true_caption_states_them():
    scores = EventScores(MicroClips().read_attribute)
    turns = {"event": "turns", "label": "star", "colour": "blue", "old_colour": "red"}
    moves = {"event": "moves", "label": "key", "colour": "green", "direction": "left"}
    scores.add({"caption": {"en": "the red star turns blue"}}, turns, said(en="the pink star turns blue"))
    scores.add({"caption": {"en": "the green key moves left"}}, moves, said(en="the green key moves right."))
    scores.add({"caption": {"en": "the green key moves left"}}, moves, said(en="The green key moves left."))
    scores.add({"caption": {"en": "the green key moves left"}}, moves, {})
    table = {name: (row["mean"], row["n"]) for name, row in scores.table().items()}
    assert table == {
        "caption exact en": (0.25, 4),
        "caption event en": (0.75, 4),
        "caption label en": (0.75, 4),
        "caption colour en": (0.75, 4),
        "caption old colour en": (0.0, 1),
        "caption direction en": (1 / 3, 3),
        "caption event, label, colour en": (0.75, 4),
        "majority event": (0.75, 4),
    }


class KnowingStream:
    """Follows the true masks and says the true captions of a micro dataset, whatever it is shown."""

    made: list = []

    def __init__(self, model, settings):
        self.settings, self.asked = settings, []
        self.samples = iter(model.truth)
        KnowingStream.made.append(self)

    def reset(self):
        self.sample, self.prompts, self.index = next(self.samples), {}, -1

    def prompt(self, prompt, region):
        self.prompts[region] = prompt

    def push(self, image, time):
        self.index += 1
        assert time == pytest.approx(self.index / 4)
        masks = {number: self.sample.regions[number - 1].masks[self.index] for number in self.prompts}
        regions = {number: SimpleNamespace(mask=lambda mask=mask: mask) for number, mask in masks.items()}
        return SimpleNamespace(regions=regions)

    def describe(self, regions):
        self.asked.append((self.index, list(regions)))
        return [self._description(number) for number in regions]

    def _description(self, number):
        event = next(event for event in self.sample.regions[number - 1].events if event.last == self.index)
        return Description(number, 0.0, self.index / 4, "present", "asked", 4, said(**event.texts["caption"]))


def test_a_stream_that_knows_the_truth_scores_full_marks(monkeypatch, tmp_path):
    monkeypatch.setattr(videos, "RegionStream", KnowingStream)
    dataset = MicroVideos(**MICRO)
    model = SimpleNamespace(backbone=SimpleNamespace(tracks=True), truth=[dataset[i] for i in range(3)])
    split = SplitChoice(ComponentChoice("micro_videos", MICRO), tasks=["caption"], limit=3, streams=["none", "carry"])
    predictor = SimpleNamespace(model=model)
    table = evaluate(predictor, EvaluateSection(splits={"films": split}), tmp_path)
    assert list(table) == ["films / box / none", "films / box / carry"]
    switches = [(one.settings.carry, one.settings.history, one.settings.memory) for one in KnowingStream.made]
    assert switches == [(False, False, False), (True, False, False)]
    events = sum(len(region.events) for sample in model.truth for region in sample.regions)
    for row in table.values():
        assert row["caption exact zh"] == {"mean": 1.0, "se": 0.0, "n": events}
        marks = {name: cell["mean"] for name, cell in row.items() if name != "majority event"}
        assert set(marks.values()) == {1.0} and {"J", "F", "J&F", "presence accuracy"} < set(marks)
        assert math.isnan(row["J"]["se"])
    # Asked at the end of each event, never in between.
    assert [index for index, _ in KnowingStream.made[0].asked] == [3, 7, 11] * 3
    lines = (tmp_path / "predictions" / "films-box-carry.jsonl").read_text(encoding="utf-8").splitlines()
    first = json.loads(lines[0])
    assert len(lines) == events and first["references"]["caption"]["en"] == first["texts"]["caption"]["en"]["text"]


def test_masks_that_miss_cost_j(monkeypatch, tmp_path):
    class Blind(KnowingStream):
        def push(self, image, time):
            report = super().push(image, time)
            nothing = SimpleNamespace(mask=lambda: np.zeros(image.shape[:2], bool))
            return SimpleNamespace(regions=dict.fromkeys(report.regions, nothing))

    monkeypatch.setattr(videos, "RegionStream", Blind)
    dataset = MicroVideos(**MICRO)
    sample = dataset[0]
    model = SimpleNamespace(backbone=SimpleNamespace(tracks=True), truth=[sample])
    split = SplitChoice(ComponentChoice("micro_videos", MICRO), tasks=["caption"], limit=1)
    table = evaluate(SimpleNamespace(model=model), EvaluateSection(splits={"films": split}), tmp_path)
    hidden = np.mean([np.mean([not mask.any() for mask in region.masks]) for region in sample.regions])
    row = table["films / box / carry+history+memory"]
    assert row["J"]["mean"] == pytest.approx(hidden) and row["presence accuracy"]["mean"] == pytest.approx(hidden)


@pytest.mark.parametrize("words", ["carry,history", "all", "carry+carry+x", ""])
def test_switches_that_are_none_are_refused(words):
    with pytest.raises(PamKitError, match="is no switch of a stream"):
        videos.stream_settings(SplitChoice(ComponentChoice("micro_videos")), 8, words)


def test_clips_are_answered_with_their_own_history(tiny_model, tmp_path, monkeypatch):
    model = tiny_model("backbone.track=true", "projector.later_ratio=4", "decoder.max_length=1024")
    asked = []

    def generate(prefix, questions, max_new_tokens):
        asked.extend(zip(map(len, prefix), questions.questions, strict=False))
        return [GeneratedText("the red star leaves", 1.0) for _ in questions.questions]

    monkeypatch.setattr(model.decoder, "generate", generate)
    clips = {**MICRO, "num_samples": 6, "carry": 1.0, "history": 1.0}
    split = SplitChoice(ComponentChoice("micro_clips", clips), tasks=["caption"], languages=["en"])
    table = evaluate(SimpleNamespace(model=model), EvaluateSection(splits={"clips": split}), tmp_path)["clips / box"]
    dataset = MicroClips(**clips)
    samples = [dataset[index] for index in range(6)]
    assert [question.rpartition(": ")[2] for _, question in asked] == [s.history.get("en", "None") for s in samples]
    assert [length for length, _ in asked] == [model.prefix_length(len(s.frames) - s.lead) for s in samples]
    leaving = [sample.regions[0].attributes["event"] == "leaves" for sample in samples]
    assert table["caption event en"]["mean"] == pytest.approx(np.mean(leaving))
