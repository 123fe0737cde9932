"""A study of a tiny recipe: masks once a seed, then two variants, in seconds on one core."""

import pytest

MASKS = """\
model:
  backbone:
    {name: timm_sam, model_name: test_byobnet, image_size: 64, embed_dim: 32, decoder_depth: 1, decoder_heads: 2,
     decoder_mlp_dim: 32}
  perceiver: none
  projector: {name: pixel_shuffle_mlp, ratio: 2}
  decoder:
    {name: causal_lm, hidden_size: 32, num_layers: 1, num_heads: 2, vocab_size: 300, max_length: 256, template: plain}
data:
  train: {name: micro, num_samples: 4, image_size: 64}
  languages: {en: 1}
  num_workers: 0
train:
  trainable: [backbone]
  max_steps: 2
  global_batch_size: 2
  device_batch_size: 2
  accelerator: cpu
  devices: 1
  num_threads: 1
  loggers: [csv]
  loss: {text: 0}
"""
TEXT = """\
extends: masks.yaml
model:
  backbone: {frozen: true}
  perceiver: {name: semantic_perceiver, num_semantic_tokens: 2, depth: 1, num_heads: 2, mlp_dim: 32}
data: {cache_features: true}
train:
  trainable: [perceiver, projector, prefix, decoder]
  max_steps: 30
  checkpoint_every: 2
  loss: {text: 1}
evaluate:
  max_new_tokens: 4
  pictures: 1
  splits:
    held_out:
      dataset: {name: micro, num_samples: 2, seed: 7, image_size: 64}
      languages: [en]
"""
STUDY = """\
title: Tokens
question: How many?
fixture: masks.yaml
stages: text.yaml
seeds: [0, 1]
reference: two
variants:
  one: [perceiver.num_semantic_tokens=1]
  two: []
scores:
  label: {split: held_out, score: label en}
  masks: {split: held_out, score: mask IoU}
verdicts:
  speaks: {score: label, above: masks}
plot: [masks, label]
paper:
  source: a book
  columns: [ms]
  rows: {one: [972]}
remarks: None.
"""


@pytest.fixture(scope="session")
def write_study():
    """``write_study(folder, text=STUDY)`` -> the study's file, with its recipes beside it."""

    def write(folder, text: str = STUDY):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "masks.yaml").write_text(MASKS, encoding="utf-8")
        (folder / "text.yaml").write_text(TEXT, encoding="utf-8")
        file = folder / "tokens.yaml"
        file.write_text(text, encoding="utf-8")
        return file

    return write
