"""Study files: the shipped ones load with all their recipes; a mistaken one is refused with file and line."""

import pytest

from pam_kit.ablation.chains import make_chains
from pam_kit.ablation.study_file import find_study, read_study, shipped_studies
from pam_kit.contracts import GeneratedText, RegionPrompt, RegionSample
from pam_kit.errors import RecipeError
from pam_kit.evaluation.event_scores import EventScores
from pam_kit.evaluation.scores import SplitScores
from pam_kit.inference.result import RegionPrediction
from pam_kit.registry import find

BARE = """\
stages: text.yaml
variants: {{one: []}}
scores: {{label: {{split: held_out, score: label en}}}}
{more}
"""


@pytest.mark.parametrize("name", shipped_studies())
def test_every_shipped_study_makes_its_runs(name):
    study = read_study(name)
    chains = make_chains(study)
    assert len(study.seeds) == 3 and study.question
    assert len(chains.chains) == len(study.seeds) * len(study.variants)
    assert len({chain.last.key for chain in chains.chains}) == len(chains.chains), "two variants are the same"
    assert set(study.published.rows) <= {variant.name for variant in study.variants}
    for run in chains.runs:
        assert run.parent is None or chains.runs.index(run.parent) < chains.runs.index(run)


def perfect_scores(split) -> set[str]:
    """Names of the scores of a held-out set under one prompt, by true answers to a few of its samples."""
    dataset = find("dataset", split.dataset.name).build(**{**split.dataset.arguments, "num_samples": 12})
    reader = dataset.read_attribute
    pictures, events = SplitScores(reader), EventScores(reader)
    for index in range(len(dataset)):
        sample = dataset[index]
        said = [
            {
                task: {language: GeneratedText(text, 1.0) for language, text in known.items()}
                for task, known in own.items()
            }
            for own in (region.texts for region in sample.regions)
        ]
        if isinstance(sample, RegionSample):
            prompts = [RegionPrompt(box=(0, 0, 4, 4))] * len(said)
            predicted = [
                RegionPrediction(prompt, region.mask, 1.0, 1.0, texts)
                for prompt, region, texts in zip(prompts, sample.regions, said, strict=True)
            ]
            pictures.add_picture(sample.regions, predicted)
        else:
            for region, texts in zip(sample.regions, said, strict=True):
                events.add(region.texts, region.attributes, texts)
    return {*pictures.table(), *events.table()}


@pytest.mark.parametrize("name", shipped_studies())
def test_evaluations_have_every_score_that_a_shipped_study_names(name):
    """They are looked up by name, after an hour of training."""
    study = read_study(name)
    splits = {split: section for chain in make_chains(study).chains for split, section in chain.evaluate.splits.items()}
    known = {split: perfect_scores(splits[split]) for split in {score.row.split(" / ")[0] for score in study.scores}}
    assert [score for score in study.scores if score.score not in known[score.row.split(" / ")[0]]] == []


def test_a_study_of_variants(tmp_path, write_study):
    study = read_study(write_study(tmp_path))
    assert [variant.name for variant in study.variants] == ["one", "two"] and study.seeds == (0, 1)
    assert [score.row for score in study.scores] == ["held_out / box"] * 2
    assert study.published.rows == {"one": (972.0,)}
    chains = make_chains(study)
    assert [run.recipe.name for run in chains.runs] == ["masks"] * 2 + ["text"] * 4
    assert [run.recipe.seed for run in chains.runs] == [0, 1, 0, 0, 1, 1]
    assert chains.runs[0].variants == ["one", "two"] and not chains.runs[0].scored_on
    one = chains.of("one")[1]
    assert one.last.parent is chains.runs[1] and one.last.recipe.model.perceiver.arguments["num_semantic_tokens"] == 1


def test_axes_are_multiplied_and_stages_are_a_variants_own(tmp_path, write_study):
    axes = "axes: {n: {a: [perceiver.num_semantic_tokens=1], b: []}, lr: {c: [train.learning_rate=1e-3], d: []}}"
    study = read_study(write_study(tmp_path, BARE.format(more=axes).replace("variants: {one: []}\n", "")))
    assert [variant.name for variant in study.variants] == ["a, c", "a, d", "b, c", "b, d"]
    assert [change.text for change in study.variants[0].overrides] == [
        "perceiver.num_semantic_tokens=1",
        "train.learning_rate=1e-3",
    ]
    text = BARE.format(more="evaluate: text.yaml").replace("one: []", "one: [], only: {stages: [masks.yaml]}")
    chains = make_chains(read_study(write_study(tmp_path / "b", text)))
    only = chains.of("only")[0]
    assert [run.recipe.name for run in only.runs] == ["masks"] and list(only.evaluate.splits) == ["held_out"]


def test_seeds_and_variants_can_be_chosen(tmp_path, write_study):
    study = read_study(write_study(tmp_path))
    chains = make_chains(study, seeds=[5], only=["two"])
    assert [(run.recipe.name, run.recipe.seed) for run in chains.runs] == [("masks", 5), ("text", 5)]
    with pytest.raises(RecipeError, match="no variant 'three'; it has one, two"):
        make_chains(study, only=["three"])


def test_runs_are_known_by_what_they_are_trained_on(tmp_path, write_study):
    """Another evaluation or place of the features is the same training; another learning rate is not."""
    first = write_study(tmp_path / "a")
    keys = [run.key for run in make_chains(read_study(first)).runs]
    second = write_study(tmp_path / "b")
    recipe = second.with_name("text.yaml")
    recipe.write_text(recipe.read_text().replace("max_new_tokens: 4", "max_new_tokens: 5"))
    # Nor is a default that is written out.
    recipe.write_text(recipe.read_text().replace("checkpoint_every: 2", "checkpoint_every: 2\n  gradient_clip: 1.0"))
    assert [run.key for run in make_chains(read_study(second)).runs] == keys
    recipe.write_text(recipe.read_text().replace("max_steps: 30", "max_steps: 31"))
    others = [run.key for run in make_chains(read_study(second)).runs]
    assert others[:2] == keys[:2] and not set(others[2:]) & set(keys)
    masks = second.with_name("masks.yaml")
    masks.write_text(masks.read_text().replace("max_steps: 2", "max_steps: 3"))
    assert not set(keys) & {run.key for run in make_chains(read_study(second)).runs}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BARE.format(more="seed: 3"), r"tokens.yaml:4: seed: unknown key; did you mean 'seeds'"),
        (BARE.format(more="seeds: [1, 1]"), r"tokens.yaml:4: seeds: expected different whole numbers"),
        (BARE.format(more="reference: two"), r"tokens.yaml:4: reference: unknown 'two'; valid: one"),
        (BARE.format(more="plot: colour"), r"tokens.yaml:4: plot: unknown 'colour'"),
        (BARE.format(more="test: z"), r"tokens.yaml:4: test: unknown 'z'; valid: paired, welch"),
        (BARE.format(more="verdicts: {v: {score: label}}"), r"tokens.yaml:4: verdicts.v.above: is missing"),
        (
            BARE.format(more="verdicts: {v: {score: label, above: z}}"),
            r":4: verdicts.v.above: unknown 'z'; valid: label",
        ),
        (BARE.format(more="axes: {a: {b: []}}"), r"either variants, or axes"),
        (
            BARE.format(more="paper: {columns: [ms], rows: {one: [1, 2]}, source: x}"),
            r":4: paper.rows.one: expected 1 num",
        ),
        (BARE.format(more="paper: {columns: [ms], rows: {one: [1]}}"), r":4: paper.source: is missing"),
        (BARE.format(more="paper: {source: x, columns: [ms], rows: {two: [1]}}"), r":4: paper.rows.two: unknown 'two'"),
        (BARE.format(more="").replace("one: []", "one: 3"), r":2: variants.one: expected a list of KEY=VALUE, got 3"),
        (BARE.format(more="").replace("one: []", "one: [3]"), r":2: variants.one: expected KEY=VALUE"),
        (BARE.format(more="").replace("stages: text.yaml\n", ""), r":1: variants.one: has no stages"),
        (BARE.format(more="").replace("score: label en", "name: x"), r":3: scores.label.score: is missing"),
        (BARE.format(more="variants: {}"), r"given twice"),
        ("- a\n", r"tokens.yaml:1: expected a study"),
        ("title: [\n", r"not valid YAML"),
    ],
)
def test_mistakes_in_the_study_are_named_by_line(tmp_path, write_study, text, message):
    with pytest.raises(RecipeError, match=message):
        read_study(write_study(tmp_path, text))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("one: []", "one: [perceiver.num_semantic_token=1]"), r"tokens.yaml:2: variant 'one': .*num_semantic_token"),
        (("one: []", "one: [train.max_steps=0]"), r"tokens.yaml:2: variant 'one': train.max_steps=0"),
        (("text.yaml", "txt.yaml"), r"tokens.yaml:2: variant 'one': there is no recipe 'txt.yaml'"),
        (("split: held_out", "split: lookalike"), r"tokens.yaml:3: scores.label: .* no.* split 'lookalike'.* held_out"),
        (
            ("score: label", "prompt: point, score: label"),
            r":3: scores.label: the split 'held_out' has no prompt 'point'",
        ),
    ],
)
def test_mistakes_in_what_variants_make_are_named_by_line(tmp_path, write_study, change, message):
    study = read_study(write_study(tmp_path, BARE.format(more="").replace(*change)))
    with pytest.raises(RecipeError, match=message):
        make_chains(study)


def test_all_mistakes_are_told_at_once(tmp_path, write_study):
    text = BARE.format(more="").replace("one: []", "one: [a=1], two: [train.max_steps=x, perceiver=none]")
    with pytest.raises(RecipeError) as found:
        make_chains(read_study(write_study(tmp_path, text)))
    assert len(found.value.problems) == 2


def test_a_study_that_is_not_there():
    with pytest.raises(RecipeError, match="no study 'semantic_token'; did you mean 'semantic_tokens'"):
        find_study("semantic_token")
    assert find_study("features.yaml") == shipped_studies()["features"]
