"""The probe on models of which is known what they look at: the asked region, the largest object, or nothing.

They share a trained decoder that names the colour it is handed; only where the colour is taken from differs.
"""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from pam_kit.components.decoders.causal_lm import CausalLM
from pam_kit.components.perceivers.none import NoPerceiver
from pam_kit.components.projectors.linear import LinearProjector
from pam_kit.contracts import ImageFeatures, Questions, RegionFeatures, RegionPrompt, VisionBackbone
from pam_kit.errors import PamKitError, PromptError, RecipeError
from pam_kit.evaluation.altered_pictures import altered, shaped, without_others
from pam_kit.evaluation.faithfulness import (
    ProbedPicture,
    ProbedQuestion,
    ProbedRegion,
    ProbeSettings,
    TextFall,
    probe_picture,
)
from pam_kit.evaluation.faithfulness_scores import faithfulness_markdown, faithfulness_table, of_regions
from pam_kit.evaluation.probing import probe_held_out, probe_records
from pam_kit.evaluation.records import RegionRecord
from pam_kit.inference.predictor import RegionPredictor
from pam_kit.inference.result import prompt_json
from pam_kit.model import RegionVLM
from pam_kit.sections import ComponentChoice, EvaluateSection, SplitChoice

SIDE, WIDTH = 32, 8
COLOURS = {"red": (230, 20, 20), "green": (20, 220, 30), "blue": (20, 30, 240), "yellow": (240, 230, 20)}
LARGE, SMALL = (2, 4, 20, 28), (24, 10, 30, 16)
ASKED = "Which colour?"


class ColourBackbone(VisionBackbone):
    """Sees the average colour of the prompt's box, of the largest object's place, or nothing."""

    def __init__(self, look: str = "region"):
        super().__init__()
        self.image_size, self.embed_dim, self.grid, self.frozen, self.look = SIDE, WIDTH, (2, 2), True, look
        self.encoded = 0

    def encode(self, images):
        self.encoded += len(images)
        return ImageFeatures(torch.zeros(len(images), WIDTH, 2, 2), (images.float() / 255,))

    def segment(self, features, image_index, prompts):
        count, pictures = len(prompts), features.high_resolution[0]
        tokens, logits = torch.zeros(count, 2, WIDTH), torch.full((count, 1, 8, 8), -1.0)
        for row, (image, points) in enumerate(zip(image_index.tolist(), prompts.points, strict=True)):
            x1, y1, x2, y2 = LARGE if self.look == "largest" else points[:2].flatten().int().tolist()
            if self.look != "nothing":
                tokens[row, :, :3] = 6 * (pictures[image, :, y1:y2, x1:x2].mean((1, 2)) - 0.5)
            logits[row, 0, LARGE[1] // 4 : LARGE[3] // 4, : LARGE[2] // 4] = 1.0
        still = torch.zeros(count, WIDTH, 2, 2)
        ones = torch.ones(count)
        padding = torch.zeros(count, 2, dtype=torch.bool)
        return RegionFeatures(still, still, tokens, tokens, padding, logits, ones, ones, logits, ones[:, None])


@pytest.fixture(scope="module")
def parts():
    """A projector and a decoder that have learned to name colours."""
    torch.manual_seed(0)
    projector = LinearProjector(WIDTH, 32)
    decoder = CausalLM(hidden_size=32, num_layers=1, num_heads=2, vocab_size=280, max_length=64, template="plain")
    decoder.learn_vocabulary([ASKED, *COLOURS, "grey"])
    model = RegionVLM(ColourBackbone(), NoPerceiver(WIDTH), projector, decoder)
    learned = [p for part in (projector, decoder, model.prefix) for p in part.parameters()]
    optimiser = torch.optim.AdamW(learned, lr=1e-2)
    # What is left where a colour was filled up is pale, and has no name of these.
    strong = torch.tensor(list(COLOURS.values())).float()
    shown = torch.cat([strong, 0.4 * strong + 0.6 * 128, 0.2 * strong + 0.8 * 128]).byte()
    images = shown[:, :, None, None].expand(-1, -1, SIDE, SIDE)
    names, count = [*COLOURS, *["grey"] * 8], len(shown)
    asked = Questions(torch.arange(count), [ASKED] * count, names, ["recognize"] * count, ["en"] * count)
    features = model.backbone.segment(model.backbone.encode(images), torch.arange(count), boxes(count))
    for _ in range(100):
        loss = decoder(model.prefix(model.perceive(features)), asked).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.05
    for part in (projector, decoder, model.prefix):
        part.requires_grad_(False)
    return projector, decoder, model.prefix


def boxes(count: int):
    from pam_kit.contracts import PromptBatch

    corners = torch.tensor(LARGE).view(1, 2, 2).float().expand(count, -1, -1)
    nothing = torch.zeros(count, 1, 8, 8)
    return PromptBatch(corners, torch.tensor([[2, 3]]).expand(count, -1), nothing, torch.zeros(count).bool())


@pytest.fixture
def looking(parts):
    """``looking("region")`` -> RegionPredictor of a model that looks there."""

    def build(look: str) -> RegionPredictor:
        projector, decoder, prefix = parts
        model = RegionVLM(ColourBackbone(look), NoPerceiver(WIDTH), projector, decoder)
        model.prefix = prefix
        return RegionPredictor(model, "cpu")

    return build


def picture(large: str, small: str) -> np.ndarray:
    image = np.full((SIDE, SIDE, 3), 128, dtype=np.uint8)
    for (x1, y1, x2, y2), name in ((LARGE, large), (SMALL, small)):
        image[y1:y2, x1:x2] = COLOURS[name]
    return image


def mask(box) -> np.ndarray:
    found = np.zeros((SIDE, SIDE), dtype=bool)
    found[box[1] : box[3], box[0] : box[2]] = True
    return found


def asked_about(large: str, small: str, known: bool = True) -> ProbedPicture:
    """A large and a small object of two colours, both asked about."""
    regions = tuple(
        ProbedRegion(
            name,
            RegionPrompt(box=tuple(map(float, box))),
            (ProbedQuestion("recognize", "en", ASKED, (colour,)),),
            mask(box) if known else None,
        )
        for name, box, colour in (("large", LARGE, large), ("small", SMALL, small))
    )
    return ProbedPicture(f"{large} and {small}", picture(large, small), regions)


def probed(predictor, settings=None, **changes) -> list[TextFall]:
    pairs = [("red", "blue"), ("green", "yellow"), ("blue", "red")]
    falls = [probe_picture(predictor, asked_about(*pair), settings or ProbeSettings(**changes))[0] for pair in pairs]
    return [fall for own in falls for fall in own]


@pytest.mark.parametrize("fill", ["mean", "blur"])
@pytest.mark.parametrize("shape", ["mask", "box"])
def test_a_model_that_looks_at_the_region_loses_by_it_alone(looking, fill, shape):
    falls = probed(looking("region"), fill=fill, shape=shape)
    assert len(falls) == 3 * 2 * 2
    for fall in falls:
        # A blur leaves a large object's colour where it was.
        assert fall.text in COLOURS and (fall.drop("region") > 0.3 or (fill == "blur" and fall.region == "large"))
        assert fall.drop("other") == pytest.approx(0, abs=1e-5)
        assert fall.drop("surroundings") == pytest.approx(0, abs=1e-5)


def test_a_model_that_looks_at_nothing_loses_nothing(looking):
    for fall in probed(looking("nothing")):
        assert set(fall.altered) == {"region", "surroundings", "other"}
        assert list(fall.altered.values()) == pytest.approx([fall.original] * 3, abs=1e-6)


def test_a_model_that_describes_the_largest_object_loses_by_the_contrast(looking):
    falls = [fall for fall in probed(looking("largest"), sources=("answer",)) if fall.region == "small"]
    assert [fall.text for fall in falls] == ["red", "green", "blue"]  # of the large object, whatever is asked
    for fall in falls:
        assert fall.drop("region") == pytest.approx(0, abs=1e-5)
        assert fall.drop("other") > 0.3 and fall.drop("surroundings") > 0.3
    scores = faithfulness_table(falls)["recognize en answer"]
    assert scores["contrast"]["mean"] < -0.3 and scores["region_first"]["mean"] == 0
    assert scores["share"]["mean"] == pytest.approx(0, abs=1e-4)


def test_likelihoods_are_those_of_the_decoder(looking):
    predictor, one = looking("region"), asked_about("red", "blue")
    falls, areas = probe_picture(predictor, one, ProbeSettings(sources=("reference",)))
    assert [area.sum() for area in areas] == [18 * 24, 36]
    without = altered(one.image, areas[0], "mean")
    for image, value in ((one.image, falls[0].original), (without, falls[0].altered["region"])):
        model = predictor.model
        features = model.segment(torch.from_numpy(image).permute(2, 0, 1)[None], torch.tensor([0]), boxes(1))
        asked = Questions(torch.tensor([0]), [ASKED], ["red"], ["recognize"], ["en"])
        loss = model.decoder(model.prefix(model.perceive(features)), asked)
        assert value == pytest.approx(-float(loss.per_question[0] * loss.num_tokens), abs=1e-5)
        assert falls[0].tokens == int(loss.num_tokens)


def test_every_picture_is_encoded_once(looking):
    predictor = looking("region")
    probe_picture(predictor, asked_about("red", "blue"), ProbeSettings(batch_size=4))
    assert predictor.model.backbone.encoded == 1 + 2 * 3


def test_where_a_region_is_when_nobody_says(looking):
    unknown = asked_about("red", "blue", known=False)
    _, areas = probe_picture(looking("region"), unknown, ProbeSettings())
    assert [np.array_equal(area, mask(box)) for area, box in zip(areas, (LARGE, SMALL), strict=True)] == [True, True]
    point = ProbedRegion(
        "p", RegionPrompt(points=((10.0, 10.0), (9.0, 9.0)), labels=(1, 1)), unknown.regions[0].questions
    )
    falls, areas = probe_picture(looking("nothing"), ProbedPicture("p", unknown.image, (point,)), ProbeSettings())
    # The predicted mask; alone in its picture there is no contrast.
    assert areas[0].sum() == pytest.approx(mask((0, 4, 20, 28)).sum(), rel=0.2)
    assert [set(fall.altered) for fall in falls] == [{"region", "surroundings"}] * 2


def test_texts_that_are_not_there_and_answers_that_are_given(looking):
    box = RegionPrompt(box=tuple(map(float, LARGE)))
    asked = (ProbedQuestion("recognize", "en", ASKED), ProbedQuestion("caption", "en", ASKED, ("  ",), "yellow"))
    one = ProbedPicture("x", picture("red", "blue"), (ProbedRegion("a", box, asked),))
    falls, _ = probe_picture(looking("region"), one, ProbeSettings())
    assert [(fall.source, fall.text) for fall in falls] == [("answer", "red"), ("answer", "yellow")]
    nobody = ProbedPicture("x", one.image, (ProbedRegion("a", box, ()),))
    assert probe_picture(looking("region"), nobody, ProbeSettings()) == ([], [])
    for sources in ((), ("caption",)):
        with pytest.raises(PamKitError, match="no texts|texts are of reference, answer"):
            ProbeSettings(sources=sources)


def test_all_references_are_tested_and_count_as_one_text(looking):
    box = RegionPrompt(box=tuple(map(float, LARGE)))
    asked = ProbedQuestion("recognize", "en", ASKED, ("red", "blue", "red", " "), "red")
    one = ProbedPicture("x", picture("red", "blue"), (ProbedRegion("a", box, (asked,)),))
    falls, _ = probe_picture(looking("region"), one, ProbeSettings())
    assert [(fall.source, fall.text) for fall in falls] == [
        ("reference", "red"),
        ("reference", "blue"),
        ("answer", "red"),
    ]
    joined, answer = of_regions(falls)
    assert answer is falls[2] and joined.tokens == falls[0].tokens + falls[1].tokens
    drops = [fall.drop("region") * fall.tokens for fall in falls[:2]]
    assert joined.drop("region") == pytest.approx(sum(drops) / joined.tokens) and drops[0] != pytest.approx(drops[1])
    scores = faithfulness_table(of_regions(falls))["recognize en reference"]
    assert scores["nll"]["n"] == 1 and scores["nll"]["mean"] == pytest.approx(-joined.original / joined.tokens)


def test_texts_of_two_regions_or_questions_stay_apart():
    texts = [TextFall(*facts, "text", 1, -1.0) for facts in (("r", "caption", "en", "reference", "?"),) * 2]
    others = [("q", "caption", "en", "reference", "?"), ("r", "caption", "en", "reference", "!")]
    others += [("r", "caption", "zh", "reference", "?"), ("r", "caption", "en", "answer", "?")]
    found = of_regions([*texts, *(TextFall(*facts, "text", 1, -1.0) for facts in others)])
    assert [fall.tokens for fall in found] == [2, 1, 1, 1, 1]


def test_altered_pictures():
    image = np.random.default_rng(0).integers(0, 256, (24, 36, 3), dtype=np.uint8)
    where = np.zeros((24, 36), dtype=bool)
    where[4:9, 5:20] = True
    for fill in ("mean", "blur"):
        found = altered(image, where, fill)
        assert np.array_equal(found[~where], image[~where]) and found is not image
        assert found[where].std() < image[where].std() / 3
    assert np.unique(altered(image, where, "mean")[where], axis=0).tolist() == [
        [round(float(v)) for v in image.mean((0, 1))]
    ]
    with pytest.raises(PamKitError, match="fill 'noise' is unknown"):
        altered(image, where, "noise")
    with pytest.raises(PamKitError, match="does not fit"):
        altered(image, where.T, "mean")
    ell = np.zeros((10, 10), dtype=bool)
    ell[2:8, 3] = ell[7, 3:6] = True
    assert shaped(ell, "mask") is ell and shaped(ell, "box").sum() == 6 * 3
    assert not shaped(np.zeros_like(ell), "box").any()
    with pytest.raises(PamKitError, match="shape 'circle' is unknown"):
        shaped(ell, "circle")


def test_by_default_nothing_is_left_of_a_regions_outline():
    """Two objects of one tight box but different outlines: without them their pictures are the same."""
    rows, columns = np.mgrid[:24, :36]
    disc = (rows - 11.5) ** 2 + (columns - 17.5) ** 2 < 7**2
    square = (abs(rows - 11.5) < 7) & (abs(columns - 17.5) < 7)
    picture = np.random.default_rng(0).integers(0, 256, (24, 36, 3), dtype=np.uint8)
    usual = ProbeSettings()

    def without(mask, shape) -> np.ndarray:
        shown = picture.copy()
        shown[mask] = 200
        found = altered(shown, shaped(mask, shape), usual.fill)
        # The mean of the whole picture differs a little between the two.
        return (found == found[12, 18]).all(-1)

    assert usual.shape == "box" and np.array_equal(without(disc, usual.shape), without(square, usual.shape))
    assert without(disc, "mask").sum() == disc.sum() < square.sum() == without(square, "mask").sum()


def test_the_contrast_takes_the_largest_other_region_and_spares_ones_own():
    small, middle, large = mask((0, 0, 2, 2)), mask((1, 0, 6, 6)), mask((0, 8, 20, 20))
    assert np.array_equal(without_others([small, middle, large], 0), large)
    assert np.array_equal(without_others([small, middle], 0), middle & ~small)
    assert without_others([middle], 0) is None and without_others([middle, middle], 1) is None


def fall(region: float, surroundings: float, other: float | None = None, tokens: int = 2) -> TextFall:
    values = {"region": region, "surroundings": surroundings} | ({} if other is None else {"other": other})
    made = TextFall("r", "caption", "en", "reference", "?", "text", tokens, -3.0)
    made.altered = {name: -3.0 - tokens * value for name, value in values.items()}
    return made


def test_scores_by_hand():
    falls = [fall(1.0, 0.5, 0.25), fall(2.0, 0.0, 2.0, tokens=4), fall(0.6, 0.1)]
    scores = faithfulness_table(falls)["caption en reference"]
    assert scores["nll"]["mean"] == pytest.approx((1.5 + 0.75 + 1.5) / 3)
    assert scores["drop_region"] == pytest.approx(
        {"mean": 1.2, "se": np.std([1.0, 2.0, 0.6], ddof=1) / math.sqrt(3), "n": 3}
    )
    assert scores["drop_other"]["mean"] == pytest.approx(1.125) and scores["drop_other"]["n"] == 2
    assert scores["contrast"]["mean"] == pytest.approx(0.375)
    assert scores["region_first"]["mean"] == pytest.approx(0.75)  # ahead once, level once
    assert scores["share"]["mean"] == pytest.approx(3.6 / 4.2)
    lines = faithfulness_markdown({"set / box": {"caption en reference": scores}})
    assert "| caption en reference | 1.250 ± 0.250 | 1.200 ± 0.416 |" in "\n".join(lines)


def test_the_error_of_a_share_is_that_of_resampled_regions():
    generator = np.random.default_rng(1)
    region, around = generator.normal(1.0, 0.4, 300), generator.normal(0.5, 0.3, 300)
    found = faithfulness_table([fall(a, b) for a, b in zip(region, around, strict=True)])["caption en reference"][
        "share"
    ]
    rows = generator.integers(0, 300, (2000, 300))
    resampled = region[rows].mean(1) / (region[rows].mean(1) + around[rows].mean(1))
    assert found["se"] == pytest.approx(resampled.std(), rel=0.1)
    nothing = faithfulness_table([fall(-1.0, 0.5)])["caption en reference"]
    assert math.isnan(nothing["share"]["mean"]) and math.isnan(nothing["drop_region"]["se"])


def section(**changes) -> EvaluateSection:
    micro = ComponentChoice("micro", {"num_samples": 3, "image_size": 64, "seed": 3})
    asked = {"dataset": micro, "tasks": ["recognize"], "languages": ["en"], "prompts": ["box", "mask"]} | changes
    return EvaluateSection(splits={"held_out": SplitChoice(**asked)}, pictures=2, max_new_tokens=4)


def test_a_probe_of_held_out_pictures_and_its_files(looking, tmp_path):
    tables = probe_held_out(looking("region"), section(prompts=["box"]), ProbeSettings(), tmp_path)
    written = json.loads((tmp_path / "probe.json").read_text())
    assert list(tables) == list(written["tables"]) == ["held_out / box"]
    assert set(tables["held_out / box"]) <= {"recognize en reference", "recognize en answer"}
    scores = written["tables"]["held_out / box"]["recognize en reference"]
    lines = [json.loads(line) for line in (tmp_path / "texts" / "held_out-box.jsonl").read_text().splitlines()]
    assert len(lines) == 1 + 3 and scores["nll"]["n"] == sum(
        fall["source"] == "reference" for line in lines[1:] for fall in line["texts"]
    )
    assert "drop_surroundings" in (tmp_path / "probe.md").read_text()
    with Image.open(tmp_path / "pictures" / "held_out-box.png") as sheet:
        assert sheet.width > 4 * 320 and sheet.height > 2 * 320


def test_recipes_without_held_out_pictures_are_refused(looking, tmp_path):
    videos = SplitChoice(ComponentChoice("micro_videos", {}))
    for splits, told in (({}, "evaluate.splits is empty"), ({"v": videos}, "v are of clips or videos")):
        with pytest.raises(RecipeError, match=told):
            probe_held_out(looking("region"), EvaluateSection(splits=splits), ProbeSettings(), tmp_path)


MORE = {"red": ("ruby",), "blue": ("navy",)}


def records() -> list[RegionRecord]:
    return [
        RegionRecord(
            f"{image}:{name}",
            "colours",
            ASKED,
            (colour, *MORE.get(colour, ())),
            prediction,
            image=image,
            prompt=prompt_json(RegionPrompt(box=tuple(map(float, box)))),
        )
        for image, large, small in (("a.png", "red", "blue"), ("sub/b.png", "green", "yellow"))
        for name, box, colour, prediction in (("large", LARGE, large, None), ("small", SMALL, small, large))
    ]


def test_a_probe_of_a_benchmark(looking, tmp_path):
    (tmp_path / "sub").mkdir()
    for name, pair in (("a.png", ("red", "blue")), ("sub/b.png", ("green", "yellow"))):
        Image.fromarray(picture(*pair)).save(tmp_path / name)
    tables = probe_records(looking("region"), records(), tmp_path, ProbeSettings(), tmp_path / "out")
    scores = tables["colours"]["caption en reference"]
    assert scores["drop_region"]["n"] == 4 and scores["region_first"]["mean"] == 1
    texts = (tmp_path / "out" / "texts" / "colours.jsonl").read_text().splitlines()[1:]
    references = [fall["text"] for line in texts for fall in json.loads(line)["texts"] if fall["source"] == "reference"]
    assert references == ["red", "ruby", "blue", "navy", "green", "yellow"]
    answers = [fall["text"] for line in texts for fall in json.loads(line)["texts"] if fall["source"] == "answer"]
    # What was predicted is tested as it stands, here of the wrong object; the model is asked where nothing was.
    assert answers == ["red", "red", "green", "green"]


def test_records_that_cannot_be_probed(looking, tmp_path):
    call = (tmp_path, ProbeSettings(), tmp_path / "out")
    with pytest.raises(PamKitError, match="a.png.*does not exist.*--data"):
        probe_records(looking("region"), records(), *call)
    Image.fromarray(picture("red", "blue")).resize((8, 8)).save(tmp_path / "a.png")
    with pytest.raises(PromptError, match=r"a\.png: box .* does not fit"):
        probe_records(looking("region"), records()[:1], *call)
    video = RegionRecord("v", "colours", ASKED, ("red",), video="v.mp4")
    with pytest.raises(PamKitError, match="v is of a video"):
        probe_records(looking("region"), [video], *call)
