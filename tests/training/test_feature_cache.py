"""Kept features: the same as computed ones, computed once, and never taken for those of something else."""

import multiprocessing
import warnings
from dataclasses import fields, replace
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from pam_kit.contracts import ClipBatch, PromptBatch, Questions, RegionBatch, RegionFeatures
from pam_kit.errors import PamKitError, RecipeError
from pam_kit.training.feature_cache import FeatureCache, default_folder

# What a model has whose perceiver asks for no crops.
FIELDS = [field.name for field in fields(RegionFeatures) if field.name != "crop_embedding"]
FROZEN = ("backbone.frozen=true", "data.cache_features=true")


@pytest.fixture
def cache_of(tiny_recipe, tmp_path):
    """``cache_of(model, *overrides)`` -> a new FeatureCache, as of another run, over the test's one folder."""

    def build(model, *overrides: str) -> FeatureCache:
        return FeatureCache.of(tiny_recipe(*FROZEN, f"data.cache_folder={tmp_path / 'kept'}", *overrides), model)

    return build


@pytest.fixture
def calls(monkeypatch):
    """``calls(model)`` -> {"encode": pictures encoded from now on, "segment": regions decoded}."""

    def count(model) -> dict[str, int]:
        seen = {"encode": 0, "segment": 0}
        encode, segment = model.backbone.encode, model.backbone.segment

        def counted_encode(images):
            seen["encode"] += len(images)
            return encode(images)

        def counted_segment(features, image_index, prompts):
            seen["segment"] += len(prompts)
            return segment(features, image_index, prompts)

        monkeypatch.setattr(model.backbone, "encode", counted_encode)
        monkeypatch.setattr(model.backbone, "segment", counted_segment)
        return seen

    return count


def chosen(batch: RegionBatch, rows: list[int]) -> RegionBatch:
    """Some regions of a batch, in a new order, with the pictures in the order of their first region."""
    images = list(dict.fromkeys(batch.image_index[rows].tolist()))
    index = torch.tensor([images.index(image) for image in batch.image_index[rows].tolist()])
    return replace(batch, images=batch.images[images], image_index=index, prompts=taken(batch.prompts, rows))


def taken(prompts: PromptBatch, rows: list[int]) -> PromptBatch:
    return PromptBatch(prompts.points[rows], prompts.labels[rows], prompts.masks[rows], prompts.has_mask[rows])


def uncached(model, batch: RegionBatch) -> RegionFeatures:
    return model.segment(batch.images, batch.image_index, batch.prompts)


def alone(model, batch: RegionBatch) -> list[RegionFeatures]:
    """Each region computed without the others."""
    return [uncached(model, chosen(batch, [row])) for row in range(len(batch))]


def same(one: RegionFeatures, other: RegionFeatures) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in FIELDS)


def files(folder) -> list:
    return sorted(folder.glob("kept/**/*.safetensors"))


def assert_rows_are(kept: RegionFeatures, regions: list[RegionFeatures]) -> None:
    """Bit for bit; tokens behind those of a region are padding."""
    for row, region in enumerate(regions):
        length, given = region.all_tokens.shape[1], region.labels[0] != -1
        for name in FIELDS:
            mine, theirs = getattr(kept, name)[row], getattr(region, name)[0]
            if name in ("all_tokens", "token_padding"):
                mine = mine[:length]
            elif name in ("points", "labels"):
                mine, theirs = mine[kept.labels[row] != -1], theirs[given]
            assert mine.dtype == theirs.dtype and torch.equal(mine, theirs), name
        assert kept.token_padding[row, length:].all() and not kept.all_tokens[row, length:].any()


def test_hits_and_misses_are_what_the_backbone_gives_for_each_region(tiny_model, cache_of, sample_batch):
    """Prompts of one and of two points and of a mask, in other company at every look."""
    model, batch = tiny_model("backbone.frozen=true"), sample_batch(regions=(3, 1, 4))
    expected = alone(model, batch)
    lengths = {region.all_tokens.shape[1] for region in expected}
    assert len(lengths) > 1, "the test needs prompts of different lengths"
    for cache in (cache_of(model), cache_of(model)):
        for rows in ([1, 3], [7, 1, 0, 5], list(range(8)), [2, 6, 4], [1]):
            kept = cache.segment(model, chosen(batch, rows))
            assert_rows_are(kept, [expected[row] for row in rows])
            longest = max(expected[row].all_tokens.shape[1] for row in rows)
            assert kept.token_padding.shape == (len(rows), longest)
            assert not any(getattr(kept, name).requires_grad for name in FIELDS)


def test_kept_features_differ_by_rounding_from_those_of_a_whole_batch(tiny_model, cache_of, sample_batch):
    model, batch = tiny_model("backbone.frozen=true"), sample_batch(regions=(3, 4))
    kept, whole = cache_of(model).segment(model, batch), uncached(model, batch)
    for name in FIELDS:
        torch.testing.assert_close(getattr(kept, name), getattr(whole, name), atol=1e-5, rtol=1e-5)


def test_pictures_are_encoded_where_a_region_is_missing_and_once(tiny_model, cache_of, sample_batch, calls):
    model, batch = tiny_model("backbone.frozen=true"), sample_batch(regions=(3, 2, 1))
    seen, cache = calls(model), cache_of(model)
    cache.segment(model, chosen(batch, [0, 1, 5]))
    assert seen == {"encode": 2, "segment": 3}
    cache.segment(model, batch)  # regions 2, 3 and 4 are new, of pictures 0 and 1
    assert seen == {"encode": 4, "segment": 6}
    again = cache_of(model)
    again.segment(model, batch)
    assert seen == {"encode": 4, "segment": 6}
    assert (cache.hits, cache.misses, again.hits, again.misses) == (3, 6, 6, 0)


def test_a_picture_that_a_batch_holds_twice_is_encoded_once(tiny_model, cache_of, sample_batch, calls):
    model, batch = tiny_model("backbone.frozen=true"), sample_batch(regions=(2, 2))
    twice = replace(batch, images=batch.images[[0, 0]], prompts=taken(batch.prompts, [0, 1, 0, 2]))
    expected, seen = alone(model, twice), calls(model)
    assert_rows_are(cache_of(model).segment(model, twice), expected)
    assert seen == {"encode": 1, "segment": 3}


def test_no_region_at_all_is_legal(tiny_model, cache_of, sample_batch):
    model, batch = tiny_model("backbone.frozen=true"), sample_batch(regions=(0, 0), questions=0)
    assert same(cache_of(model).segment(model, batch), uncached(model, batch))


def test_padding_of_a_prompt_is_no_part_of_its_key(tiny_model, cache_of, sample_batch, calls):
    """How long a prompt is padded depends on its neighbours in a batch."""
    model, batch = tiny_model("backbone.frozen=true"), sample_batch(regions=(4,))
    cache_of(model).segment(model, batch)
    longer = PromptBatch(
        torch.nn.functional.pad(batch.prompts.points, (0, 0, 0, 3), value=7.0),
        torch.nn.functional.pad(batch.prompts.labels, (0, 3), value=-1),
        batch.prompts.masks,
        batch.prompts.has_mask,
    )
    seen = calls(model)
    cache_of(model).segment(model, replace(batch, prompts=longer))
    assert seen == {"encode": 0, "segment": 0}


def test_what_is_hashed_comes_from_the_device_at_once(tiny_model, cache_of, sample_batch, monkeypatch):
    """Each copy waits for all that the device has to do, so their number does not grow with pictures and regions."""
    model, cache, taken_over = tiny_model("backbone.frozen=true"), cache_of(tiny_model("backbone.frozen=true")), []
    batches = [sample_batch(regions=regions) for regions in ((1,), (3, 2, 4))]
    for batch in batches:
        cache.segment(model, batch)

    class OnDevice(torch.Tensor):
        """Stands for a tensor of a GPU: whatever is made of it lies there as well, until it is copied."""

        @classmethod
        def __torch_function__(cls, function, types, arguments=(), keywords=None):
            result = super().__torch_function__(function, types, arguments, keywords or {})
            if function in (torch.Tensor.cpu, torch.Tensor.to, torch.Tensor.tolist):
                taken_over[-1] += 1
                return result.as_subclass(torch.Tensor) if isinstance(result, torch.Tensor) else result
            return result

    def on_device(record):
        tensors = {f.name: getattr(record, f.name) for f in fields(record)}
        return replace(
            record, **{n: t.as_subclass(OnDevice) for n, t in tensors.items() if isinstance(t, torch.Tensor)}
        )

    for batch in batches:
        taken_over.append(0)
        cache.segment(model, on_device(replace(batch, prompts=on_device(batch.prompts))))
    assert taken_over[0] == taken_over[1] <= 6 and cache.hits == len(batches[0]) + len(batches[1])


def moved(name: str, batch: RegionBatch) -> RegionBatch:
    """A one-region batch with one thing in it changed a little."""
    images, prompts = batch.images.clone(), taken(batch.prompts, [0])
    if name == "picture":
        images[0, 1, 5, 5] += 1
    elif name == "points":
        prompts.points[0, 0, 1] += 0.25
    elif name == "labels":
        prompts.labels[0] = torch.tensor([1, 0])
    elif name == "mask":
        prompts.masks[0, 0, 3, 3] = 1
    else:
        prompts.has_mask[0] = True
    return replace(batch, images=images, prompts=prompts)


@pytest.mark.parametrize("name", ["picture", "points", "labels", "mask", "has_mask"])
def test_another_picture_or_prompt_is_another_region(name, tiny_model, cache_of, sample_batch, calls):
    model, batch = tiny_model("backbone.frozen=true"), sample_batch(regions=(1,))
    cache_of(model).segment(model, batch)
    changed = moved(name, batch)
    expected, seen = alone(model, changed), calls(model)
    assert_rows_are(cache_of(model).segment(model, changed), expected)
    assert seen == {"encode": 1, "segment": 1}


def other_weight(model) -> None:
    with torch.no_grad():
        list(model.backbone.parameters())[-1].reshape(-1)[0] += 1e-3


def other_normalisation(model) -> None:
    model.backbone.mean[0] += 1e-3  # a buffer that no state dict holds


@pytest.mark.parametrize("change", [other_weight, other_normalisation])
def test_other_weights_have_features_of_their_own(change, tiny_model, cache_of, sample_batch):
    first, second, batch = tiny_model("backbone.frozen=true"), tiny_model("backbone.frozen=true"), sample_batch()
    cache_of(first).segment(first, batch)
    change(second)
    cache = cache_of(second)
    assert_rows_are(cache.segment(second, batch), alone(second, batch))
    assert (cache.hits, cache.misses) == (0, 5)


def test_settings_that_no_weight_shows_are_part_of_the_key(tiny_model, cache_of, sample_batch):
    first, second = (tiny_model("backbone.frozen=true", f"backbone.selection={name}") for name in ("single", "best"))
    batch = sample_batch()
    cache_of(first, "backbone.selection=single").segment(first, batch)
    cache = cache_of(second, "backbone.selection=best")
    assert_rows_are(cache.segment(second, batch), alone(second, batch))
    assert cache.misses == 5
    written_out = cache_of(first, "backbone.selection=single", "backbone.feature_stride=16")
    written_out.segment(first, batch)
    assert written_out.misses == 0, "a default that is written out is no other setting"


def test_a_backbone_under_work_is_not_mistaken_for_what_it_was(
    tiny_model, cache_of, sample_batch, tmp_path, monkeypatch
):
    """The sources beside the class count, even where neither weights nor settings change."""
    (tmp_path / "plugin").mkdir()
    (tmp_path / "plugin" / "own_backbone.py").write_text(
        "from pam_kit.components.backbones.timm_sam import TimmSam\n\n\nclass Own(TimmSam):\n    pass\n"
    )
    (tmp_path / "plugin" / "decoding.py").write_text("scale = 1\n")
    monkeypatch.syspath_prepend(tmp_path / "plugin")
    from own_backbone import Own

    model, batch = tiny_model("backbone.frozen=true"), sample_batch()
    model.backbone.__class__ = Own
    first, second, third = cache_of(model), cache_of(model), cache_of(model)
    first.segment(model, batch)
    second.segment(model, batch)
    (tmp_path / "plugin" / "decoding.py").write_text("scale = 2\n")
    third.segment(model, batch)
    assert (first.misses, second.misses, third.misses) == (5, 0, 5)


def test_half_precision_is_kept_apart(tiny_model, cache_of, sample_batch):
    model, batch = tiny_model("backbone.frozen=true"), sample_batch()
    cache_of(model).segment(model, batch)
    cache = cache_of(model)
    with torch.autocast("cpu", torch.bfloat16):
        kept, expected = cache.segment(model, batch), alone(model, batch)
        assert_rows_are(kept, expected)
        again = cache_of(model).segment(model, batch)
    assert cache.misses == 5 and same(kept, again)
    assert torch.bfloat16 in {getattr(kept, name).dtype for name in FIELDS}


@pytest.mark.parametrize("damage", ["cut short", "emptied", "one bit", "a field less", "no safetensors"])
def test_a_damaged_file_is_computed_anew(damage, tiny_model, cache_of, sample_batch, tmp_path):
    from safetensors.torch import save_file

    model, batch = tiny_model("backbone.frozen=true"), sample_batch(regions=(2,))
    kept = cache_of(model).segment(model, batch)
    path = files(tmp_path)[0]
    content = bytearray(path.read_bytes())
    if damage == "a field less":
        tensors = load_file(path)
        save_file({name: tensors[name].clone() for name in tensors if name != "iou"}, path)
    elif damage == "one bit":
        content[-20] ^= 1
        path.write_bytes(content)
    else:
        path.write_bytes({"cut short": content[:-50], "emptied": b"", "no safetensors": b"x" * 999}[damage])
    cache = cache_of(model)
    with pytest.warns(UserWarning, match=f"damaged and computed anew: {path}"):
        assert same(cache.segment(model, batch), kept)
    assert (cache.hits, cache.misses) == (1, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(cache_of(model).segment(model, batch), kept)


def test_a_write_that_is_cut_off_leaves_nothing_to_be_read(tiny_model, cache_of, sample_batch, tmp_path, monkeypatch):
    """Stopped between writing and naming: no later run sees the unfinished file."""
    model, batch = tiny_model("backbone.frozen=true"), sample_batch(regions=(1,))

    def killed(*_names):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            cache_of(model).segment(model, batch)
    assert not [path for path in tmp_path.glob("kept/**/*") if path.is_file()]
    cache = cache_of(model)
    assert_rows_are(cache.segment(model, batch), alone(model, batch))
    assert cache.misses == 1 and len(files(tmp_path)) == 1


def _keep(folder, barrier) -> None:
    from pam_kit.training.feature_cache import _read, _write

    generator = torch.Generator().manual_seed(0)
    kept = {
        field.name: torch.rand(64, 64, generator=generator)
        for field in fields(RegionFeatures)
        if field.name != "token_padding"
    }
    barrier.wait(60)
    for number in range(20):
        _write(folder / "ab" / f"{number}.safetensors", kept)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.equal(_read(folder / "ab" / f"{number}.safetensors")["iou"], kept["iou"])


def test_runs_side_by_side_do_not_disturb_each_other(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(3)
    others = [context.Process(target=_keep, args=(tmp_path, barrier)) for _ in range(2)]
    for process in others:
        process.start()
    _keep(tmp_path, barrier)
    for process in others:
        process.join(60)
    assert [process.exitcode for process in others] == [0, 0]
    assert len(list(tmp_path.glob("ab/*"))) == 20


def test_a_folder_that_cannot_be_written_is_said(tiny_model, tiny_recipe, sample_batch, tmp_path):
    (tmp_path / "file").write_text("")
    model = tiny_model("backbone.frozen=true")
    cache = FeatureCache.of(tiny_recipe(*FROZEN, f"data.cache_folder={tmp_path / 'file'}"), model)
    with pytest.raises(PamKitError, match=r"cannot be kept in .*file.*data.cache_folder=.*data.cache_features=false"):
        cache.segment(model, sample_batch())


def test_a_backbone_that_learns_is_refused(tiny_recipe, tiny_model):
    with pytest.raises(RecipeError, match="^data.cache_features needs a frozen backbone: backbone.frozen=true$"):
        FeatureCache.of(tiny_recipe("data.cache_features=true"), tiny_model())


def test_there_is_no_cache_unless_it_is_asked_for(tiny_recipe, tiny_model):
    assert FeatureCache.of(tiny_recipe("backbone.frozen=true"), tiny_model("backbone.frozen=true")) is None


def test_the_default_folder_follows_the_environment(tiny_recipe, tiny_model, tmp_path, monkeypatch):
    model = tiny_model("backbone.frozen=true")
    monkeypatch.setenv("PAM_KIT_CACHE", str(tmp_path / "elsewhere"))
    assert FeatureCache.of(tiny_recipe(*FROZEN), model).folder == tmp_path / "elsewhere" / "features"
    monkeypatch.delenv("PAM_KIT_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache" / "pam_kit" / "features"


def test_the_report_is_one_line(tiny_model, cache_of, sample_batch, tmp_path):
    model, batch = tiny_model("backbone.frozen=true"), sample_batch(regions=(3, 2))
    cache = cache_of(model)
    assert cache.report() == f"feature cache: 0 of 0 regions read, 0 computed; 0.0 MB in {tmp_path / 'kept'}"
    cache.segment(model, chosen(batch, [0, 1]))
    cache.segment(model, batch)
    size = sum(path.stat().st_size for path in files(tmp_path)) / 1e6
    folder = files(tmp_path)[0].parents[1]
    assert cache.report() == f"feature cache: 2 of 7 regions read, 5 computed; {size:,.1f} MB in {folder}"


def trained(model, batches: list[RegionBatch], segment) -> dict[str, torch.Tensor]:
    """Weights after a step on each batch, of all but the backbone."""
    parts = [model.perceiver, model.projector, model.prefix, model.decoder]
    optimizer = torch.optim.AdamW([p for part in parts for p in part.parameters()], lr=1e-3)
    for batch in batches:
        loss = model.decoder(model.prefix(model.perceive(segment(model, batch))), batch.questions).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_training_comes_out_the_same_with_an_empty_a_full_and_no_cache(tiny_model, cache_of, sample_batch):
    """Without a cache where batches are of one region, since the cache computes every region by itself."""
    batches = [sample_batch(regions=(1,), questions=2, seed=seed) for seed in (0, 1, 0, 2)]
    runs = []
    for read in (0, 1, 4):
        cache = cache_of(tiny_model("backbone.frozen=true"))
        runs.append(trained(tiny_model("backbone.frozen=true"), batches, cache.segment))
        assert cache.hits == {0: 1, 1: 4, 4: 4}[read]
    runs.append(trained(tiny_model("backbone.frozen=true"), batches, uncached))
    start = tiny_model("backbone.frozen=true").state_dict()
    assert not torch.equal(runs[0]["decoder.lm.model.norm.weight"], start["decoder.lm.model.norm.weight"])
    for other in runs[1:]:
        assert all(torch.equal(tensor, other[name]) for name, tensor in runs[0].items())


def test_clips_are_tracked_once(tiny_model, cache_of, monkeypatch):
    """Two clips of two and one regions, one of them read from its second frame on: the same features and prefixes."""
    model = tiny_model("backbone.track=true", "projector.later_ratio=4", *FROZEN)
    generator = torch.Generator().manual_seed(0)
    frames = [torch.randint(0, 256, (count, 3, 64, 64), generator=generator, dtype=torch.uint8) for count in (3, 4)]
    boxes = torch.tensor([[[8, 8], [40, 40]], [[20, 4], [60, 30]], [[2, 2], [30, 50]]]).float()
    prompts = PromptBatch(
        boxes, torch.tensor([[2, 3]] * 3), torch.zeros(3, 1, 16, 16), torch.zeros(3, dtype=torch.bool)
    )
    nothing = Questions(torch.zeros(0, dtype=torch.long), [], [], [], [])
    targets = torch.zeros(3, 1, 16, 16), torch.zeros(3, dtype=torch.bool)
    batch = ClipBatch(frames, [[0, 2], [1, 2, 3]], torch.tensor([0, 0, 1]), prompts, nothing, *targets)
    plain = model.read_clips(batch)
    watched = []
    monkeypatch.setattr(model, "watch", lambda batch, watch=model.watch: watched.append(batch) or watch(batch))
    earlier = None
    for run in range(2):
        cache = cache_of(model, "backbone.track=true", "projector.later_ratio=4")
        firsts, prefixes = model.read_clips(batch, partial(cache.watch, model))
        assert len(watched) == 1 and (cache.misses, cache.hits) == ((3, 0), (0, 3))[run]
        for expected, found in zip(plain[1], prefixes, strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        for expected, found in zip(plain[0], firsts, strict=True):
            torch.testing.assert_close(found.mask_logits, expected.mask_logits, rtol=0, atol=1e-5)
        assert earlier is None or all(map(torch.equal, earlier, prefixes))  # what is computed is what will be read
        earlier = prefixes
    assert [len(prefix) for prefix in prefixes] == [model.prefix_length(count) for count in (2, 2, 3)]
    moved = replace(batch, frames=[frames[0], frames[1].flip(0)])
    model.read_clips(moved, partial(cache.watch, model))
    assert len(watched) == 2 and (cache.misses, cache.hits) == (1, 5)
