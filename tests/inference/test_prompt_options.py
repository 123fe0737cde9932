"""Prompts of videos as they are typed: which frame, which region."""

import numpy as np
import pytest
from PIL import Image

from pam_kit.contracts import RegionPrompt
from pam_kit.errors import PromptError
from pam_kit.inference.prompt_options import video_prompts_from_options

LEFT, RIGHT = RegionPrompt(box=(1, 2, 3, 4)), RegionPrompt(box=(5, 6, 7, 8))


def typed(boxes=(), points=(), masks=(), **more) -> list[tuple]:
    return [(one.region, one.frame, one.prompt) for one in video_prompts_from_options(boxes, points, masks, **more)]


def test_prompts_are_regions_of_their_own_in_the_frame_that_is_given():
    found = typed(["1,2,3,4", "5,6,7,8@12"], [["1,2", "3,4,0"]], frame=3)
    points = RegionPrompt(points=((1, 2), (3, 4)), labels=(1, 0))
    assert found == [(1, 3, LEFT), (2, 12, RIGHT), (3, 3, points)]


def test_prompts_may_name_their_region():
    found = typed(["1,2,3,4#2", "5,6,7,8@9#2", "1,2,3,4"], [["1,2", "3,4@7#5"]])
    assert [(region, frame) for region, frame, _ in found] == [(2, 0), (2, 9), (1, 0), (5, 7)]
    # Those without a number take the ones that are free.
    assert [region for region, _, _ in typed(["1,2,3,4", "5,6,7,8#1", "1,2,3,4"])] == [2, 1, 3]


def test_combined_prompts_are_all_about_region_1():
    found = typed(["1,2,3,4@5"], [["1,2"], ["3,4,0"]], frame=5, combine=True)
    assert [(region, frame) for region, frame, _ in found] == [(1, 5)] * 3


def test_masks_are_files_whose_names_may_hold_signs(tmp_path):
    path = tmp_path / "a@b#1.png"
    Image.fromarray(np.eye(4, dtype=np.uint8) * 255).save(path)
    ((region, frame, prompt),) = typed(masks=[f"{path}@6#3"])
    assert (region, frame) == (3, 6) and np.array_equal(prompt.mask, np.eye(4, dtype=bool))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "nothing to look at: give --box x1,y1,x2,y2"),
        ({"boxes": ["1,2,3@4"]}, "--box 1,2,3: expected four numbers"),
        ({"boxes": ["1,2,3,4@x"]}, "--box 1,2,3,4@x: expected four numbers"),
        ({"boxes": ["1,2,3,4@-1"]}, "--box 1,2,3,4@-1: expected four numbers"),
        ({"boxes": ["1,2,3,4#0"]}, "--box 1,2,3,4#0: regions are numbered from 1 up"),
        ({"points": [["1,2@3", "4,5"]]}, "--point 1,2@3: the frame and the region stand behind the last point"),
        ({"masks": ["missing.png@3"]}, "--mask missing.png: no such file"),
    ],
)
def test_what_cannot_be_is_refused(given, message):
    with pytest.raises(PromptError) as refused:
        typed(**given)
    assert message in str(refused.value)


def test_a_combined_prompt_may_name_its_frame_but_no_region():
    assert typed(["1,2,3,4@8"], frame=2, combine=True) == [(1, 8, LEFT)]
    with pytest.raises(PromptError, match="--combine makes all prompts one region"):
        typed(["1,2,3,4#2"], combine=True)
