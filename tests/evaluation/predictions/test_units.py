"""Regions cut into units, and units divided among processes."""

import pytest

from pam_kit.errors import PamKitError
from pam_kit.evaluation.predictions.units import cut_units
from pam_kit.evaluation.records import RegionRecord
from pam_kit.inference.shard import Shard


def record(number: int, **facts) -> RegionRecord:
    return RegionRecord(str(number), "any", "What?", ("a",), **facts)


def ids(units) -> list[list[str]]:
    return [[one.id for one in unit.records] for unit in units]


def test_all_regions_of_a_picture_stand_together_wherever_they_come():
    names = "abacbbd"
    records = [record(number, image=f"{name}.png") for number, name in enumerate(names)]
    assert ids(cut_units(records, pictures=1)) == [["0", "2"], ["1", "4", "5"], ["3"], ["6"]]
    assert ids(cut_units(records, pictures=2)) == [["0", "2", "1", "4", "5"], ["3", "6"]]


def test_a_unit_of_several_pictures_has_no_more_regions_than_allowed():
    records = [record(number, image=name) for number, name in enumerate("aaabbcdddde")]
    units = cut_units(records, pictures=10, regions=4)
    assert ids(units) == [["0", "1", "2"], ["3", "4", "5"], ["6", "7", "8", "9"], ["10"]]


def test_clips_are_regions_that_can_be_followed_together():
    same = {"video": "a.mp4", "frames": (0, 4, 8)}
    others = [{"frame_index": 1}, {"frames": (0, 4)}, {"question": "Who?"}, {"video": "b.mp4"}]
    records = [record(0, **same), record(1, **same)]
    records += [RegionRecord(**{**record(2 + i, **same).__dict__, **other}) for i, other in enumerate(others)]
    units = cut_units(records, pictures=8)
    assert {unit.kind for unit in units} == {"clip"}
    assert ids(units) == [["0", "1"], ["2"], ["3"], ["4"], ["5"]]


def test_the_events_of_a_group_are_one_stream():
    records = [record(number, video="v", frames=(number,), group=group) for number, group in enumerate("xyxx")]
    units = cut_units(records, pictures=8, streamed=True)
    assert [unit.kind for unit in units] == ["stream", "stream"] and ids(units) == [["0", "2", "3"], ["1"]]


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_every_unit_belongs_to_one_part(count):
    units = cut_units([record(number, image=f"{number // 3}") for number in range(20)], pictures=2)
    parts = [Shard(number, count).of(units) for number in range(1, count + 1)]
    assert sorted(one for part in parts for unit in ids(part) for one in unit) == sorted(map(str, range(20)))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for index, unit in enumerate(units):
        assert unit in parts[Shard(1, count).owner(index).number - 1]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "1/1"),
        ({"RANK": "3", "WORLD_SIZE": "8"}, "4/8"),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}, "1/2"),
        ({"RANK": "1", "WORLD_SIZE": "2", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, "2/2"),
        ({"OMPI_COMM_WORLD_RANK": "6", "OMPI_COMM_WORLD_SIZE": "7"}, "7/7"),
    ],
)
def test_launchers_say_which_part_a_process_has(environment, expected):
    assert str(Shard.from_environment(environment)) == expected


@pytest.mark.parametrize(("number", "count"), [(0, 2), (3, 2), (1, 0)])
def test_parts_that_are_not_there(number, count):
    with pytest.raises(PamKitError, match="there is no part"):
        Shard(number, count)
