"""The registered micro dataset: determinism, distribution, samples that fit the contract, errors."""

import hashlib
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from pam_kit.contracts import RegionSample
from pam_kit.data.micro import backgrounds
from pam_kit.data.micro.dataset import MicroDataset
from pam_kit.data.micro.language import find_attribute
from pam_kit.errors import MissingPackageError, PamKitError
from pam_kit.registry import find
from pam_kit.tasks import LANGUAGES, TASKS


def digest(sample: RegionSample) -> str:
    parts = [sample.image.tobytes(), *(r.mask.tobytes() for r in sample.regions)]
    parts += [repr((r.id, r.texts, r.attributes)).encode() for r in sample.regions]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def test_it_is_registered_with_documented_arguments():
    spec = find("dataset", "micro")
    assert spec.load() is MicroDataset
    assert all(parameter.doc for parameter in spec.parameters)


def test_scenes_depend_on_seed_and_index_alone():
    one, other = MicroDataset(num_samples=50, seed=3), MicroDataset(num_samples=500, seed=3)
    forward = [digest(one[i]) for i in range(12)]
    backward = [digest(other[i]) for i in reversed(range(12))]
    assert forward == backward[::-1]
    assert len(set(forward)) == 12
    assert digest(MicroDataset(seed=4)[0]) != forward[0]


def test_another_process_draws_the_same_scenes():
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_micro_dataset import MicroDataset, digest\n"
        "print(digest(MicroDataset(seed=3)[7]), digest(MicroDataset(seed=3, split='lookalike')[2]))"
    )
    folder = __file__.rpartition("/")[0]
    printed = subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True, check=True).stdout
    here = [digest(MicroDataset(seed=3)[7]), digest(MicroDataset(seed=3, split="lookalike")[2])]
    assert printed.split() == here


@pytest.mark.parametrize("split", ["standard", "lookalike"])
@pytest.mark.parametrize("side", [64, 128, 320, 512])
def test_samples_fit_the_contract(split, side):
    sample = MicroDataset(image_size=side, split=split)[1]
    assert sample.image.shape == (side, side, 3) and sample.image.dtype == np.uint8
    assert sample.source
    masks = np.stack([r.mask for r in sample.regions])
    assert masks.dtype == bool and masks.shape[1:] == (side, side)
    assert masks.any(axis=(1, 2)).all() and masks.sum(axis=0).max() == 1
    assert len({r.id for r in sample.regions}) == len(sample.regions)
    for region in sample.regions:
        assert region.prompt is None
        assert set(region.texts) == set(TASKS)
        assert all(set(by_language) == set(LANGUAGES) for by_language in region.texts.values())


def test_attributes_agree_with_masks_and_texts():
    for sample in (MicroDataset(seed=11)[i] for i in range(40)):
        by_look = {f"{r.attributes['colour']} {r.attributes['label']}": r for r in sample.regions}
        for region in sample.regions:
            facts = region.attributes
            for language in LANGUAGES:
                for name in ("label", "colour", "texture", "size", "position", "relation", "neighbour"):
                    assert find_attribute(region.texts["describe"][language], name, language) == facts[name]
            assert facts["label_zh"] == region.texts["recognize"]["zh"]
            assert facts["colour_zh"] in region.texts["caption"]["zh"]
            neighbour = by_look[facts["neighbour"]]
            if not facts["occluded"] and not neighbour.attributes["occluded"]:
                assert_relation(facts["relation"], middle(region.mask), middle(neighbour.mask))


def middle(mask: np.ndarray) -> np.ndarray:
    """Centre (x, y) of the box around a mask."""
    rows, columns = np.nonzero(mask)
    return np.array([columns.min() + columns.max(), rows.min() + rows.max()]) / 2


def assert_relation(relation: str, here: np.ndarray, there: np.ndarray) -> None:
    sign = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}[relation]
    assert np.dot(here - there, sign) > 0


def test_size_words_follow_the_extent():
    extents = {"small": [], "medium": [], "large": []}
    for sample in (MicroDataset(seed=1)[i] for i in range(60)):
        for region in sample.regions:
            if not region.attributes["occluded"]:
                rows, columns = np.nonzero(region.mask)
                extents[region.attributes["size"]].append(max(np.ptp(rows), np.ptp(columns)) + 1)
    assert max(extents["small"]) < min(extents["medium"]) and max(extents["medium"]) < min(extents["large"])


def test_objects_stand_out_from_their_background():
    for backgrounds_name in ("procedural", "mixed"):
        if backgrounds_name == "mixed":
            pytest.importorskip("skimage")
            pytest.importorskip("sklearn")
        differences = []
        for sample in (MicroDataset(seed=2, backgrounds=backgrounds_name)[i] for i in range(30)):
            free = ~np.any([r.mask for r in sample.regions], axis=0)
            surround = np.median(sample.image[free], axis=0)
            differences += [np.abs(np.median(sample.image[r.mask], axis=0) - surround).max() for r in sample.regions]
        assert np.mean(np.array(differences) > 40) > 0.9


def test_no_label_or_colour_is_common_enough_to_guess():
    regions = [r for i in range(300) for r in MicroDataset(seed=9)[i].regions]
    for attribute, limit in (("label", 0.12), ("colour", 0.2), ("texture", 0.33), ("size", 0.5)):
        counts = Counter(r.attributes[attribute] for r in regions)
        assert counts.most_common(1)[0][1] / len(regions) < limit
    assert len({r.attributes["position"] for r in regions}) == 9


def test_texts_hold_every_word_of_the_samples():
    texts = list(MicroDataset().texts())
    assert texts == list(MicroDataset(seed=5, split="lookalike").texts())
    characters = set("".join(texts))
    words = {word for text in texts for word in text.replace(",", " ").split()}
    for split in ("standard", "lookalike"):
        for sample in (MicroDataset(seed=8, split=split)[i] for i in range(20)):
            for region in sample.regions:
                for by_language in region.texts.values():
                    assert set(by_language["en"].replace(",", " ").split()) <= words
                    assert set(by_language["zh"]) <= characters


def test_object_counts_follow_the_arguments():
    counts = {len(MicroDataset(min_objects=2, max_objects=4)[i].regions) for i in range(40)}
    assert counts == {2, 3, 4}
    counts = {len(MicroDataset(split="lookalike", min_objects=4, max_objects=9)[i].regions) for i in range(60)}
    assert counts == {4, 6, 8}


def test_iteration_ends():
    assert len(list(MicroDataset(num_samples=3))) == len(MicroDataset(num_samples=3)) == 3
    with pytest.raises(IndexError):
        MicroDataset(num_samples=3)[3]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"split": "hard"}, "'hard'"),
        ({"num_samples": 0}, "num_samples is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"image_size": 32}, "image_size is 32"),
        ({"backgrounds": "sky"}, "'sky'"),
        ({"min_objects": 5, "max_objects": 4}, "5 to 4"),
        ({"split": "lookalike", "min_objects": 7, "max_objects": 7}, "even"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, named):
    with pytest.raises(PamKitError, match=named):
        MicroDataset(**arguments)


def test_missing_photographs_name_the_extra(monkeypatch):
    monkeypatch.setattr(backgrounds, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"pip install 'pam-kit\[photos\]'"):
        MicroDataset(backgrounds="photo")
    MicroDataset(backgrounds="procedural")
