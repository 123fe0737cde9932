"""Schedules in recipes: lists of stages, each a recipe or a table of changes."""

import pytest

from pam_kit.errors import RecipeError
from pam_kit.recipe import load_recipe, load_schedule


def test_a_schedule_is_a_list_of_recipes_and_changes(tmp_path):
    (tmp_path / "base.yaml").write_text("extends: pam_tiny\ntrain: {log_every: 7}\n", encoding="utf-8")
    file = tmp_path / "both.yaml"
    file.write_text(
        "seed: 5\nschedule:\n  - base\n  - {extends: pam_tiny, name: more, train: {max_steps: 3}}\n".replace(
            "- base", f"- {tmp_path / 'base.yaml'}"
        ),
        encoding="utf-8",
    )
    schedule = load_schedule(file, ["train.learning_rate=0.5", "name=mine"])
    first, second = schedule.stages
    assert (schedule.name, first.name, second.name, schedule.single) == ("mine", "base", "more", False)
    assert (first.train.log_every, first.train.max_steps) == (7, 800)
    assert (second.train.log_every, second.train.max_steps) == (10, 3)
    assert [(stage.seed, stage.train.learning_rate) for stage in schedule.stages] == [(5, 0.5), (5, 0.5)]
    with pytest.raises(RecipeError, match="is a schedule of the stages base, more"):
        load_recipe(file)


def test_what_stands_beside_a_schedule_is_what_its_stages_change(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("extends: pam_tiny\nschedule: [{train: {max_steps: 3}}, {data: {num_workers: 0}}]\n")
    first, second = load_schedule(file).stages
    assert (first.name, second.name) == ("stage1", "stage2")
    assert (first.train.max_steps, first.data.num_workers) == (3, 1)
    assert (second.train.max_steps, second.data.num_workers) == (800, 0)
    assert load_schedule("pam_tiny").single and load_schedule("pam_tiny").stages == [load_recipe("pam_tiny")]


@pytest.mark.parametrize(
    ("schedule", "reason"),
    [
        ("[]", "expected a list of stages"),
        ("pam_tiny", "expected a list of stages, got 'pam_tiny'"),
        ("[pam_tinny]", "there is no recipe 'pam_tinny'; did you mean 'pam_tiny'"),
        ("[3]", "stage 1: expected a recipe's name or a table of changes"),
        ("[pam_tiny, pam_tiny]", "two stages are called 'pam_tiny'"),
        ("[pam_3b]", "pam_3b is a schedule itself"),
        ("[{extends: pam_tiny, train: {max_step: 3}}]", "unknown key; did you mean 'max_steps'"),
    ],
)
def test_schedules_that_cannot_run(tmp_path, schedule, reason):
    file = tmp_path / "bad.yaml"
    file.write_text(f"schedule: {schedule}\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=reason):
        load_schedule(file)
