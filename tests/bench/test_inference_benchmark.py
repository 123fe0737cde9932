"""The benchmark of answers: what it prints, that both paths say the same, and that it notices when they do not."""

import csv
import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from pam_kit.bench import inference_benchmark, works
from pam_kit.bench.inference_benchmark import PathWorker, measure_training, measure_works
from pam_kit.bench.step_benchmark import StepSizes
from pam_kit.bench.works import TABLE, ModelChoice, Work
from pam_kit.cli import main
from pam_kit.errors import PamKitError

ISSUED = {
    "work": str,
    "seconds": float,
    "plain_seconds": float,
    "time_ratio": float,
    "peak_mb": float,
    "plain_peak_mb": float,
    "memory_ratio": float,
    "same_output": bool,
}
TOY = StepSizes(images=2, regions=2, questions=1, image_size=64, hidden_size=32, layers=1, heads=2, vocabulary=600)


def rows(capsys, *arguments: str) -> tuple[int, list[dict]]:
    status = main(["bench", "inference", *arguments, "--json"])
    return status, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_the_table_has_one_object_a_row(in_this_process, recipe, capsys, monkeypatch):
    small = tuple(replace(work, regions=min(work.regions, 3), questions=min(work.questions, 2)) for work in TABLE)
    monkeypatch.setattr(works, "TABLE", small)
    status, found = rows(capsys, "--against", "plain", "--recipe", recipe, "--max-new-tokens", "3")
    assert status == 0
    assert [row["work"] for row in found] == [
        "3 regions x 1 question",
        "1 region x 2 questions",
        "3 regions x 2 questions",
    ]
    for row in found:
        assert {name: type(row[name]) for name in ISSUED} == ISSUED and list(row)[: len(ISSUED)] == list(ISSUED)
        assert row["same_output"] is True and row["distinct_texts"] > 1, "equal texts say something if they differ"
        assert row["ties"] == 0 and 0 <= row["different"]["logits"] < 1e-4
        assert row["time_ratio"] == pytest.approx(row["seconds"] / row["plain_seconds"])
        assert row["times_faster"] == pytest.approx(1 / row["time_ratio"]) and row["memory_ratio"] == 0.75
        assert set(row["stages_ms"]) == set(row["plain_stages_ms"]) == set(works.STAGES)
        assert 0 < sum(row["stages_ms"].values()) <= 1000 * row["seconds"]
        regions, questions = int(row["work"].split()[0]), int(row["work"].split()[3])
        assert row["counts"]["pictures"] == 1 and row["plain_counts"]["pictures"] == regions
        # Each region is read at most once, whatever is asked about it, and logits are made of what is said alone.
        assert row["counts"]["prefix_positions"] * questions <= row["plain_counts"]["prefix_positions"]
        assert row["counts"]["vocabulary_rows"] == row["tokens"] == regions * questions * 3
        assert row["plain_counts"]["vocabulary_rows"] == row["plain_counts"]["positions"] > row["tokens"]
        assert row["one_region_peak_mb"] == 3.0 and row["roofline"] is None and row["notes"] == []
        assert row["plain_tokens"] == row["tokens"]


def test_the_works_of_the_table_are_those_that_were_promised():
    names = ["8 regions x 1 question", "1 region x 8 questions", "16 regions x 8 questions"]
    assert [work.name for work in TABLE] == names
    assert [work.asked[1] for work in TABLE] == [("en",), ("en", "zh"), ("en", "zh")]


def test_paths_take_turns_and_memory_is_taken_when_nothing_is_timed(in_this_process, recipe):
    work = Work(regions=2, max_new_tokens=2)
    measure_works(ModelChoice(recipe=recipe), [work], repeats=2)
    one = work.of_one_region()
    warm_up = Work(max_new_tokens=2)
    assert in_this_process.asked == [
        ("kit", "time", warm_up), ("plain", "time", warm_up),
        ("kit", "time", work), ("plain", "time", work), ("kit", "time", work), ("plain", "time", work),
        ("kit", "memory", work), ("kit", "memory", one), ("plain", "memory", one),
    ]  # fmt: skip


def test_memory_of_the_same_work_is_taken_once(monkeypatch):
    asked = []

    def answer(worker, **what):
        asked.append(what["work"]["questions"])
        return {"held_mb": 10.0, "peak_mb": float(len(asked))}

    monkeypatch.setattr(PathWorker, "ask", answer)
    worker = PathWorker(ModelChoice(), "kit", None)
    assert [worker.memory(Work(questions=count))["peak_mb"] for count in (1, 2, 1, 2)] == [1, 2, 1, 2]
    assert asked == [1, 2]


def test_ratios_are_those_of_a_turn(monkeypatch, recipe):
    """A machine that is three times slower in one turn moves the medians of the seconds, not those of the ratios."""
    slowness = iter([5, 5, 1, 1, 3, 3, 1, 1])

    class Paced:
        def __init__(self, choice, path, device):
            self.cost, self.facts = {"kit": 1.0, "plain": 4.0}[path], {}

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def time(self, work, outputs=None, with_roofline=False):
            seconds = self.cost * next(slowness)
            stages = dict.fromkeys(works.STAGES, seconds * 200)
            facts = {"stages_ms": stages, "tokens": 8, "notes": [], "counts": None, "roofline": None}
            return {"seconds": seconds, "cpu_seconds": seconds, **facts}

        def memory(self, work):
            return {"held_mb": 10.0, "peak_mb": self.cost * work.regions}

    monkeypatch.setattr(inference_benchmark, "PathWorker", Paced)
    same = inference_benchmark.Comparison(texts=0, pixels=0, logits=0.0, largest=0.0, distinct=1)
    monkeypatch.setattr(inference_benchmark, "compare", lambda kit, plain: same)
    row = measure_works(ModelChoice(), [Work(regions=2)], repeats=3).rows[0]
    assert (row["time_ratio"], row["cpu_time_ratio"], row["times_faster"]) == (0.25, 0.25, 4.0)
    assert (row["seconds"], row["plain_seconds"]) == (1.0, 4.0)
    assert (row["peak_mb"], row["plain_peak_mb"], row["memory_ratio"], row["one_region_peak_mb"]) == (2, 4, 0.5, 1)
    assert row["tokens_per_second"] == pytest.approx(8 / 0.4)


@pytest.mark.parametrize(
    ("part", "what"), [("decoder", "texts"), ("projector", "texts"), ("backbone.mask_decoder", "pixels")]
)
def test_a_broken_path_has_another_output(in_this_process, recipe, capsys, part, what):
    @torch.no_grad()
    def break_weights(model):
        for parameter in (
            model.get_submodule(part).parameters() if "." not in part else model.backbone.mask_decoder.parameters()
        ):
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))

    in_this_process(break_weights)
    work = ["--regions", "2", "--questions", "2", "--max-new-tokens", "3"]
    status, (row,) = rows(capsys, "--against", "plain", "--recipe", recipe, *work)
    assert status == 1 and row["same_output"] is False and row["different"][what] > 0


def run_small(capsys, recipe, *more) -> tuple[int, dict]:
    work = ["--regions", "2", "--questions", "2", "--max-new-tokens", "3"]
    status, (row,) = rows(capsys, "--against", "plain", "--recipe", recipe, *work, *more)
    return status, row


def test_masks_that_look_the_same_but_have_other_logits_are_another_output(in_this_process, recipe, capsys):
    """What is perceived stays as it was, so that texts and scores do not tell."""

    def double(model):
        segment, perceived = model.backbone.segment, model.perceived

        def times(factor, regions):
            logits = {
                "mask_logits": factor * regions.mask_logits,
                "candidate_logits": factor * regions.candidate_logits,
            }
            return replace(regions, **logits)

        model.backbone.segment = lambda *arguments: times(2, segment(*arguments))
        model.perceived = lambda regions: perceived(times(0.5, regions))

    in_this_process(double)
    status, row = run_small(capsys, recipe)
    different = row["different"]
    assert (different["texts"], different["pixels"], row["ties"]) == (0, 0, 0) and different["scores"] <= 1e-4
    assert different["logits"] > 1e-2 and row["same_output"] is False and status == 1


def test_a_path_that_says_another_word_has_another_output(in_this_process, recipe, capsys):
    """The last word of all answers is the second likeliest, which is not nearly as likely."""

    def stammer(model):
        def second(_module, _inputs, logits):
            calls.append(0)
            if len(calls) % 3 == 0:
                logits = logits.clone()
                logits.scatter_(-1, logits.argmax(-1, keepdim=True), -1e4)
            return logits

        calls: list[int] = []
        model.decoder.lm.get_output_embeddings().register_forward_hook(second)

    in_this_process(stammer)
    status, row = run_small(capsys, recipe)
    assert row["different"]["texts"] > 0 and row["different"]["logits"] < 1e-4
    assert row["same_output"] is False and row["ties"] == 0 and status == 1


def test_steps_of_fixed_size_come_to_the_same_output(in_this_process, recipe, capsys, monkeypatch):
    from pam_kit.inference import predictor

    opened, made = [], predictor.Session
    monkeypatch.setattr(predictor, "Session", lambda *rest: (opened.append(rest[2].steps), made(*rest))[1])
    status, row = run_small(capsys, recipe, "--steps", "fixed")
    assert status == 0 and row["same_output"] is True and set(opened) == {"fixed"}


def test_tasks_and_languages_are_chosen(in_this_process, recipe, capsys):
    told = ["--regions", "2", "--tasks", "caption,explain", "--lang", "zh", "--max-new-tokens", "2"]
    status, (row,) = rows(capsys, "--against", "plain", "--recipe", recipe, *told)
    assert row["work"] == "2 regions x 2 questions (caption, explain in zh)" and status == 0
    asked = {work.asked for _, _, work in in_this_process.asked if work.tasks}
    assert asked == {(("caption", "explain"), ("zh",))} and row["tokens"] == 2 * 2 * 2


def test_without_the_plain_path_its_values_are_null(in_this_process, recipe, capsys):
    work = ["--images", "2", "--regions", "2", "--max-new-tokens", "2"]
    status, (row,) = rows(capsys, "--recipe", recipe, *work, "decoder.num_layers=1")
    assert status == 0 and row["work"] == "2 pictures, 2 regions x 1 question" and row["seconds"] > 0
    nothing = [row[name] for name in ("plain_seconds", "time_ratio", "plain_peak_mb", "memory_ratio", "same_output")]
    assert nothing == [None] * 5 and row["counts"]["pictures"] == 2 and row["tokens"] == 2 * 2 * 2
    assert {path for path, _, _ in in_this_process.asked} == {"kit"}


def test_table_csv_and_plot(in_this_process, recipe, capsys, tmp_path):
    files = ["--csv", str(tmp_path / "rows.csv"), "--plot", str(tmp_path / "rows.png")]
    work = ["--regions", "2", "--max-new-tokens", "2"]
    assert main(["bench", "inference", "--against", "plain", "--recipe", recipe, *work, *files]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert "pam-kit bench: timing 2 regions x 1 question" in captured.err and "900 words" in lines[0]
    assert lines[2].startswith(
        "| work | path | seconds | encode ms | segment ms | perceive ms | prefill ms | decode ms"
    )
    assert [line.split(" | ")[1] for line in lines[4:6]] == ["kit", "plain"]
    assert len({line.count("|") for line in lines[2:6]}) == 1
    assert "the same output" in lines[7] and "no roofline, since the peaks of CPU are not known" in lines[7]
    with open(tmp_path / "rows.csv", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["same_output"] == "True" and float(row["plain_stages_ms.encode"]) > 0
    assert float(row["counts.pictures"]) == 1 and float(row["plain_counts.pictures"]) == 2
    with Image.open(tmp_path / "rows.png") as picture:
        assert picture.width > 600 and len(picture.getcolors(10**6)) > 3


def test_a_training_step_is_a_row(steps_in_this_process):
    row = measure_training(TOY)
    assert {name: type(row[name]) for name in ISSUED} == ISSUED
    assert row["work"] == "training step, 4 samples" and row["same_output"] is True
    assert (row["peak_mb"], row["plain_peak_mb"], row["memory_ratio"]) == (3.0, 4.0, 0.75)


def test_the_training_step_stands_in_the_table_of_the_built_in_model(in_this_process, capsys, monkeypatch):
    monkeypatch.setattr(works, "TABLE", (Work(regions=1),))
    row = {"work": "training step, 4 samples", "same_output": False}
    monkeypatch.setattr(inference_benchmark, "measure_training", lambda sizes, repeats: row)
    result = inference_benchmark.Result({"device": "CPU"}, [{"work": "1 region x 1 question", "same_output": True}])
    monkeypatch.setattr(inference_benchmark, "measure_works", lambda *_, **__: replace(result, rows=[*result.rows]))
    assert rows(capsys, "--against", "plain") == (1, [*result.rows, row]), "another loss is another output"
    assert rows(capsys) == (0, result.rows)
    assert rows(capsys, "--against", "plain", "--regions", "2") == (0, result.rows)
    result.facts["device"] = "NVIDIA A100"
    assert rows(capsys, "--against", "plain") == (0, result.rows), "that step is measured on CPUs"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--questions", "7"], "7 questions: there are 4 tasks, .* asked 1, 2, 3, 4, 6, 8 questions"),
        (["--images", "2", "--frames", "3"], "clips are measured one at a time"),
        (["--questions", "2", "--lang", "en"], "--questions says how many, --tasks and --lang say which"),
        (["--frames", "2", "--steps", "fixed"], "a clip is answered with keys and values that grow"),
        (["decoder.num_layers=1"], "decoder.num_layers=1 changes a recipe: name it with --recipe"),
    ],
)
def test_mistakes_are_told(capsys, arguments, message):
    import re

    assert main(["bench", "inference", *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_questions_that_can_be_asked():
    assert [Work(questions=count).asked for count in (1, 3, 6)] == [
        (("recognize",), ("en",)),
        (("recognize", "explain", "caption"), ("en",)),
        (("recognize", "explain", "caption"), ("en", "zh")),
    ]
    with pytest.raises(PamKitError, match="5 questions"):
        Work(questions=5)
    assert Work(languages=["zh"]).asked == (("recognize",), ("zh",)) and Work(tasks=("caption",)).questions == 1
    assert Work(regions=3, tasks=("caption",)).of_one_region() == Work(tasks=("caption",), languages=("en",))
    with pytest.raises(PamKitError, match="'sing' is none of the tasks"):
        Work(tasks=("sing",))
