"""The training set as an endless row of positions: pure in (seed, position), fair in its shares, open about defects."""

import hashlib
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from math import sqrt

import numpy as np
import pytest
from torch.utils.data import DataLoader

from pam_kit.contracts import Region, RegionPrompt, RegionSample
from pam_kit.data.micro.dataset import MicroDataset
from pam_kit.data.mixture import Mixture
from pam_kit.data.prepare import Geometry, PreparedImage
from pam_kit.data.training import REPLACEMENTS, Drawn, EndlessPositions, TrainingView, collate_training
from pam_kit.errors import BrokenSample
from pam_kit.sections import ComponentChoice, DataSection
from pam_kit.tasks import LANGUAGES, question

GEOMETRY = Geometry(64, (16, 16))
TEXTS = {task: {language: f"{task} {language}" for language in LANGUAGES} for task in ("recognize", "caption")}


def section(**changes) -> DataSection:
    return DataSection(train=ComponentChoice("stub"), **changes)


def square(x: int = 4) -> np.ndarray:
    mask = np.zeros((32, 48), dtype=bool)
    mask[8:20, x : x + 12] = True
    return mask


def sample(regions: list[Region], source: str = "stub:0") -> RegionSample:
    return RegionSample(source, np.full((32, 48, 3), 90, dtype=np.uint8), regions)


@dataclass
class Stub:
    """Samples or errors by index; remembers which were read."""

    samples: list
    read: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> RegionSample:
        self.read.append(index)
        if isinstance(self.samples[index], Exception):
            raise self.samples[index]
        return self.samples[index]


def stub(count: int = 1, texts=TEXTS, regions: int = 1) -> Stub:
    return Stub(
        [sample([Region(str(r), mask=square(3 * r), texts=texts) for r in range(regions)]) for _ in range(count)]
    )


def digest(drawn: Drawn) -> str:
    """Everything a position holds, in a few characters."""
    item = drawn.item
    pieces = [item.image.contiguous().numpy(), *item.points, *item.labels, *item.prompt_masks, *item.targets]
    content = hashlib.sha256(repr(item.asked).encode())
    for piece in pieces:
        content.update(b"none" if piece is None else piece.tobytes())
    return content.hexdigest()[:16]


def view_of(dataset, section: DataSection, geometry: Geometry, seed: int) -> TrainingView:
    return TrainingView(Mixture.of(dataset, seed), section, geometry, seed)


def micro_view() -> TrainingView:
    return view_of(MicroDataset(7, image_size=64), section(questions_per_region=2), GEOMETRY, seed=5)


def test_a_position_is_the_same_in_any_order_and_process():
    positions = [0, 13, 6, 40, 7, 1]
    forwards, backwards = micro_view(), micro_view()
    expected = {position: digest(forwards[position]) for position in positions}
    assert {position: digest(backwards[position]) for position in reversed(positions)} == expected
    assert digest(forwards[13]) == expected[13]
    assert len(set(expected.values())) == len(positions)
    loader = DataLoader(micro_view(), sampler=positions, batch_size=None, num_workers=2, collate_fn=digest)
    assert list(loader) == list(expected.values())


def test_a_position_is_the_same_under_another_hash_seed():
    code = (
        "import sys; from importlib.util import module_from_spec, spec_from_file_location as spec\n"
        "found = spec('view', sys.argv[1]); view = module_from_spec(found)\n"
        "sys.modules['view'] = view; found.loader.exec_module(view)\n"
        "print(*(view.digest(view.micro_view()[i]) for i in (9, 2)))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "77", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, __file__], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.split() == [digest(micro_view()[i]) for i in (9, 2)]


def test_another_seed_draws_otherwise():
    dataset = MicroDataset(7, image_size=64)
    one, other = (view_of(dataset, section(), GEOMETRY, seed) for seed in (0, 1))
    assert all(digest(one[i]) != digest(other[i]) for i in range(5))


def test_every_epoch_reads_every_sample_once_in_its_own_order():
    dataset = stub(23)
    view = view_of(dataset, section(), GEOMETRY, seed=0)
    for position in range(3 * 23):
        view[position]
    epochs = [dataset.read[start : start + 23] for start in (0, 23, 46)]
    assert all(sorted(epoch) == list(range(23)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in [*epochs, range(23)]}) == 4


def prompt_kind(item: PreparedImage) -> str:
    if item.prompt_masks[0] is not None:
        return "mask"
    return "box" if item.labels[0].tolist() == [2, 3] else "point"


def assert_shares(counts: Counter, shares: dict[str, float], draws: int) -> None:
    assert set(counts) == {key for key, share in shares.items() if share}
    for key, share in shares.items():
        p = share / sum(shares.values())
        assert abs(counts[key] - draws * p) <= 4 * sqrt(draws * p * (1 - p))


def test_tasks_languages_and_prompts_are_drawn_by_their_shares():
    tasks, languages = {"recognize": 3.0, "caption": 1.0, "explain": 1.0}, {"en": 1.0, "zh": 4.0}
    prompts = {"box": 2.0, "point": 1.0, "mask": 1.0}
    view = view_of(stub(), section(tasks=tasks, languages=languages, prompts=prompts), GEOMETRY, seed=3)
    items = [view[position].item for position in range(500)]
    asked = [one for item in items for one in item.asked]
    assert len(asked) == 500
    # No region has an explanation, so the other tasks share all questions.
    assert_shares(Counter(one.task for one in asked), {"recognize": 3, "caption": 1}, 500)
    assert_shares(Counter(one.language for one in asked), languages, 500)
    assert_shares(Counter(map(prompt_kind, items)), prompts, 500)
    for one in asked:
        assert one.answer == TEXTS[one.task][one.language] and one.question == question(one.task, one.language)


def test_a_share_of_nothing_is_never_asked():
    shares = dict(tasks={"recognize": 1, "caption": 0}, languages={"zh": 1, "en": 0}, prompts={"point": 1, "box": 0})
    view = view_of(stub(), section(**shares, questions_per_region=4), GEOMETRY, seed=0)
    for position in range(20):
        assert [(one.task, one.language) for one in view[position].item.asked] == [("recognize", "zh")]
        assert prompt_kind(view[position].item) == "point"


def test_regions_and_questions_are_limited_and_never_repeated():
    limits = section(regions_per_image=3, questions_per_region=3)
    view = view_of(stub(regions=5), limits, GEOMETRY, seed=0)
    shown = set()
    for position in range(40):
        item = view[position].item
        assert len(item.points) == 3 and len(item.asked) == 9
        assert len({(one.region, one.task, one.language) for one in item.asked}) == 9
        assert len({target.tobytes() for target in item.targets}) == 3
        shown |= {target.tobytes() for target in item.targets}
    assert len(shown) == 5


def test_a_region_without_a_mask_keeps_its_own_prompt():
    own = RegionPrompt(box=(12, 8, 36, 24))
    view = view_of(Stub([sample([Region("a", prompt=own, texts=TEXTS)])]), section(), GEOMETRY, seed=0)
    for position in range(5):
        np.testing.assert_allclose(view[position].item.points[0], [[16, 16], [48, 48]], rtol=1e-6)
        assert view[position].item.targets == [None]


def test_masks_without_texts_are_learned_silently():
    item = view_of(stub(texts={}), section(), GEOMETRY, seed=0)[0].item
    assert item.asked == [] and item.targets[0].any()


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (BrokenSample("train.jsonl:7", "no picture"), "no picture"),
        (sample([Region("a", texts=TEXTS)], "train.jsonl:7"), "region a has neither a mask nor a prompt"),
        (
            sample([Region("a", prompt=RegionPrompt(box=(0, 0, 99, 9)), texts=TEXTS)], "train.jsonl:7"),
            "does not fit a picture of 48x32",
        ),
        (
            sample(
                [Region("a", prompt=RegionPrompt(box=(0, 0, 9, 9)), texts={"explain": {"en": "x"}})], "train.jsonl:7"
            ),
            "no region has a mask or a text of the recipe's tasks and languages",
        ),
    ],
)
def test_another_sample_stands_in_the_place_of_a_broken_one(broken, reason):
    """The batch stays full; where nothing can be used, the position says so."""
    mixed = view_of(Stub([broken, sample([Region("a", mask=square(), texts=TEXTS)])]), section(), GEOMETRY, seed=0)
    drawn = [mixed[position] for position in range(20)]
    assert all(one.item is not None for one in drawn)
    reported = [one for one in drawn if one.broken]
    assert len(reported) >= 10  # its own place in every pass over the two
    for one in reported:
        assert one.broken[0].source == "train.jsonl:7" and reason in one.broken[0].reason
    assert [digest(mixed[position]) for position in range(20)] == [digest(one) for one in drawn]
    hopeless = view_of(Stub([broken]), section(), GEOMETRY, seed=0)[0]
    assert hopeless.item is None and len(hopeless.broken) == 1 + REPLACEMENTS


def test_any_other_error_is_raised():
    with pytest.raises(ZeroDivisionError):
        view_of(Stub([ZeroDivisionError()]), section(), GEOMETRY, seed=0)[0]


def test_an_empty_training_set_is_refused():
    with pytest.raises(BrokenSample, match="the training set is empty"):
        view_of(Stub([]), section(), GEOMETRY, seed=0)


def test_broken_samples_leave_the_batch():
    good, broken = view_of(stub(), section(), GEOMETRY, seed=0)[0], Drawn(None, [BrokenSample("a:1", "torn")])
    batch, left_out = collate_training([broken, good, broken, good], GEOMETRY)
    assert len(batch.images) == 2 and left_out == broken.broken * 2
    assert collate_training([broken], GEOMETRY) == (None, broken.broken)


def test_with_kept_features_a_region_keeps_its_prompt():
    """Positions of later passes draw other questions, but point at the region in the same way."""
    fixed = view_of(stub(2, regions=3), section(cache_features=True), GEOMETRY, seed=0)
    drawn = view_of(stub(2, regions=3), section(), GEOMETRY, seed=0)

    def prompts(view: TrainingView) -> set[bytes]:
        items = [view[position].item for position in range(40)]
        return {
            target.tobytes() + points.tobytes() + (b"" if mask is None else mask.tobytes())
            for item in items
            for target, points, mask in zip(item.targets, item.points, item.prompt_masks, strict=True)
        }

    assert len(prompts(fixed)) <= 2 * 3 < len(prompts(drawn))


@pytest.mark.parametrize(("world", "start"), [(1, 0), (2, 0), (3, 24)])
def test_the_processes_of_a_run_share_every_global_batch(world, start):
    device_batch, accumulation = 2, 2
    step = world * device_batch * accumulation
    rows = [list(islice(iter(EndlessPositions(start, world, rank)), 3 * step // world)) for rank in range(world)]
    for number in range(3):
        part = slice(number * step // world, (number + 1) * step // world)
        positions = sorted(position for row in rows for position in row[part])
        assert positions == list(range(start + number * step, start + (number + 1) * step))
