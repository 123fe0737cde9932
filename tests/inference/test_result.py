import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pam_kit.contracts import GeneratedText, RegionPrompt
from pam_kit.errors import PamKitError
from pam_kit.inference.result import RegionPrediction


def random_mask(height, width, share, seed=0):
    return np.random.default_rng(seed).random((height, width)) < share


def through_json(prediction):
    return json.loads(json.dumps(prediction.to_json(), ensure_ascii=False, allow_nan=False))


def decoded(rle):
    return coco_mask.decode({"size": rle["size"], "counts": rle["counts"].encode("ascii")}).astype(bool)


@pytest.mark.parametrize("shape", [(7, 13), (13, 7), (1, 1), (120, 90)])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.7, 1.0])
def test_mask_box_and_area_survive_json_and_pycocotools(shape, share):
    mask = random_mask(*shape, share)
    stored = through_json(RegionPrediction(RegionPrompt.whole_image(*shape[::-1]), mask, 0.5, 0.5))
    rle = {"size": stored["segmentation"]["size"], "counts": stored["segmentation"]["counts"].encode("ascii")}
    assert stored["segmentation"]["size"] == list(shape)
    np.testing.assert_array_equal(decoded(stored["segmentation"]), mask)
    assert stored["area"] == int(coco_mask.area(rle))
    if mask.any():
        x, y, width, height = coco_mask.toBbox(rle)
        assert stored["box"] == [x, y, x + width, y + height]
    else:
        assert stored["box"] is None


def test_scores_and_texts_are_plain_values():
    texts = {"recognize": {"en": GeneratedText("cup", np.float32(0.5)), "zh": GeneratedText("杯子", 0.25)}}
    mask = random_mask(4, 4, 0.5)
    stored = through_json(RegionPrediction(RegionPrompt(mask=mask), mask, np.float32(0.75), 1, texts))
    assert stored["iou"] == 0.75 and stored["object_score"] == 1.0
    assert stored["texts"] == {
        "recognize": {"en": {"text": "cup", "score": 0.5}, "zh": {"text": "杯子", "score": 0.25}}
    }


def test_prompt_is_stored_with_only_what_it_has():
    mask = random_mask(6, 8, 0.5)
    points = ((np.float64(1.5), 2), (3.0, 4.0))

    def stored(prompt):
        return through_json(RegionPrediction(prompt, mask, 0.5, 0.5))["prompt"]

    assert stored(RegionPrompt(box=(0, 1, np.float32(7.5), 5))) == {"box": [0.0, 1.0, 7.5, 5.0]}
    clicked = stored(RegionPrompt(points=points, labels=(1, 0)))
    assert clicked == {"points": [[1.5, 2.0], [3.0, 4.0]], "labels": [1, 0]}
    np.testing.assert_array_equal(decoded(stored(RegionPrompt(mask=mask))["mask"]), mask)


def test_box_is_the_extent_of_the_set_pixels():
    mask = np.zeros((10, 20), dtype=bool)
    mask[3, 5] = mask[7, 18] = True
    assert RegionPrediction(RegionPrompt(mask=mask), mask, 0.5, 0.5).box == (5, 3, 19, 8)


@pytest.mark.parametrize("mask", [np.zeros((4, 4), np.uint8), np.zeros((1, 4, 4), bool), [[True]], None])
def test_a_mask_that_is_no_boolean_picture_is_refused(mask):
    with pytest.raises(PamKitError, match="boolean"):
        RegionPrediction(RegionPrompt(box=(0, 0, 1, 1)), mask, 0.5, 0.5)
