"""Scores of texts and masks that need no judge: torchmetrics metrics, and the named protocols made of them.

``text_metric`` says what the metrics of texts share; ``labels``, ``captions``, ``nltk_meteor``, ``scene_text`` and
``masks`` hold them; ``protocols`` scores the regions of a benchmark under a name.
"""
