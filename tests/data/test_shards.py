"""Clips through litdata shards and back; shards that are missing, cut off or something else."""

import json
import pickle

import numpy as np
import pytest
from torch.utils.data import DataLoader

from pam_kit.contracts import ClipSample, Region, RegionPrompt, RegionSample
from pam_kit.data.shards import ClipShards, write_shards
from pam_kit.errors import BrokenSample, PamKitError
from pam_kit.registry import find

SIZE = (47, 63)  # odd on purpose


class Clips:
    """Smooth pictures that drift; clip 2 is broken."""

    clips = True

    def __len__(self):
        return 6

    def __getitem__(self, index: int) -> ClipSample:
        if index == 2:
            raise BrokenSample("clips:2", "on purpose")
        rng = np.random.default_rng(index)
        picture = np.add.outer(np.arange(SIZE[0]), np.arange(SIZE[1]))[..., None] + np.array([0, 40, 80])
        frames = [(picture + 3 * i + 10 * index).astype(np.uint8) for i in range(5 + index)]
        mask = rng.random(SIZE) < 0.5
        regions = [
            Region(
                "one", RegionPrompt(box=(1.5, 2.25, 30.0, 40.125)), mask, {"caption": {"en": "A", "zh": "甲"}}, {"n": 1}
            ),
            Region("two", RegionPrompt(points=((3.0, 4.5),), labels=(1,), mask=~mask), mask),
        ]
        history = {"en": "Before."} if index % 2 else {}
        return ClipSample(f"clips:{index}", frames, regions, history, lead=index % 3)

    def texts(self):
        yield "A"


def parts(region: Region):
    prompt = region.prompt
    return region.id, prompt.box, prompt.points, prompt.labels, region.texts, region.attributes


def same_clip(back: ClipSample, clip: ClipSample) -> bool:
    worst = max(np.abs(a.astype(int) - b).mean() for a, b in zip(back.frames, clip.frames, strict=True))
    return (
        worst < 4
        and (back.history, back.lead) == (clip.history, clip.lead)
        and [parts(region) for region in back.regions] == [parts(region) for region in clip.regions]
        and all(np.array_equal(a.mask, b.mask) for a, b in zip(back.regions, clip.regions, strict=True))
        and np.array_equal(back.regions[1].prompt.mask, clip.regions[1].prompt.mask)
    )


@pytest.fixture
def shards(tmp_path):
    """Two or more shards of five clips."""
    written = write_shards(Clips(), tmp_path / "shards", chunk_bytes=9000)
    assert written.clips == 5 and [broken.source for broken in written.broken] == ["clips:2"]
    return tmp_path / "shards"


def test_clips_come_back(shards):
    assert len(list(shards.glob("*.bin"))) >= 2, "so that more than one is looked into"
    dataset = find("dataset", "clip_shards").load()(str(shards))
    assert dataset.clips and len(dataset) == 5
    clips = [Clips()[i] for i in (0, 1, 3, 4, 5)]
    for i in (4, 0, 3, 1, 2, 2):
        assert same_clip(dataset[i], clips[i])
        assert dataset[i].source == f"shards:{i} ({clips[i].source})" and dataset[i].frames[0].shape == (*SIZE, 3)
    assert list(dataset.texts()) == ["A", "甲"] * 5
    assert [length // 4096 for length in dataset.lengths(3)] == [min(3, len(clip.frames) - clip.lead) for clip in clips]
    assert same_clip(pickle.loads(pickle.dumps(dataset[4])), clips[4])
    with pytest.raises(IndexError):
        dataset[5]


def test_forked_workers_read_for_themselves(shards):
    dataset = ClipShards(str(shards))
    assert same_clip(dataset[0], Clips()[0])
    loader = DataLoader(
        dataset, batch_size=None, num_workers=2, sampler=[4, 1, 0, 3, 2, 0], multiprocessing_context="fork"
    )
    numbers = [0, 1, 3, 4, 5]
    for clip, i in zip(loader, [4, 1, 0, 3, 2, 0], strict=True):
        assert same_clip(clip, Clips()[numbers[i]])


def test_better_quality_is_nearer(tmp_path):
    class One(Clips):
        def __len__(self):
            return 1

    def loss(quality: int) -> float:
        write_shards(One(), tmp_path / str(quality), quality=quality)
        frames = ClipShards(str(tmp_path / str(quality)))[0].frames
        return float(np.mean([np.abs(a.astype(int) - b).mean() for a, b in zip(frames, One()[0].frames, strict=True)]))

    assert loss(0) < loss(30)
    with pytest.raises(PamKitError, match="quality must be 0"):
        write_shards(One(), tmp_path / "wrong", quality=99)
    assert not (tmp_path / "wrong").exists()


def test_damaged_shards(shards):
    dataset = ClipShards(str(shards))
    last = sorted(shards.glob("*.bin"))[-1]
    data = last.read_bytes()
    last.write_bytes(data[:-10])
    reason = f"shard .*{last.name} is cut off: {len(data) - 10} of {len(data)} bytes"
    with pytest.raises(BrokenSample, match=f"shards:4: {reason}"):
        dataset[4]
    assert same_clip(dataset[0], Clips()[0])
    with pytest.raises(PamKitError, match=f"{reason}; copy the folder again"):
        ClipShards(str(shards))
    last.unlink()
    with pytest.raises(BrokenSample, match=f"shards:4: shard .*{last.name} is missing"):
        dataset[4]
    with pytest.raises(PamKitError, match=f"{last.name} is missing"):
        ClipShards(str(shards))


def test_spoilt_bytes(shards):
    last = sorted(shards.glob("*.bin"))[-1]
    last.write_bytes(b"\xff" * last.stat().st_size)
    with pytest.raises(BrokenSample, match="shards:4"):
        ClipShards(str(shards))[4]


def test_what_is_no_folder_of_shards(tmp_path):
    with pytest.raises(PamKitError, match="no index.json in .*; expected a folder of shards"):
        ClipShards(str(tmp_path))
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(PamKitError, match="is no index of shards"):
        ClipShards(str(tmp_path))
    (tmp_path / "index.json").write_text(json.dumps({"chunks": []}))
    with pytest.raises(PamKitError, match="lists no shards"):
        ClipShards(str(tmp_path))


def test_what_cannot_be_written(tmp_path):
    class Pictures(Clips):
        def __getitem__(self, index):
            return RegionSample("photos:0", np.zeros((4, 4, 3), np.uint8), [])

    class Broken(Clips):
        def __getitem__(self, index):
            raise BrokenSample(f"clips:{index}", "on purpose")

    for dataset, reason in (
        (Pictures(), "photos:0 is a picture"),
        (Broken(), "all are broken, the first one: clips:0"),
    ):
        with pytest.raises(PamKitError, match=reason):
            write_shards(dataset, tmp_path / "new")
        assert list(tmp_path.iterdir()) == []
    (tmp_path / "new").mkdir()
    with pytest.raises(PamKitError, match="new is there already"):
        write_shards(Clips(), tmp_path / "new")
