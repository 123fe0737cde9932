"""The released PAM written out in float64 numpy: what golden files are computed by. It shares nothing with the kit.

Weights live in one dictionary under their released names. Sources: PAM (arXiv 2506.05302), section 3.1; SAM
(arXiv 2304.02643), appendix A, for the two-way transformer; Qwen2 (arXiv 2407.10671) for the language model.

Axes: B batch, L tokens, C width, S side of the feature map, D width of the language model.
"""

import hashlib
import math
import zlib

import numpy as np

HEADS, EPS, FRAMES = 8, 1e-5, 16
UNIT = (
    "sem_tokens. mask_tokens. iou_token. obj_score_token. point_embeddings. not_a_point_embed. no_mask_embed.".split()
)


def drawn(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    generator = np.random.RandomState((zlib.crc32(name.encode()) + seed) & 0xFFFFFFFF)
    return generator.standard_normal(shape)


def weight(key: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """A weight by its name, rounded to float32."""
    z, last = drawn(key, shape, seed), key.split(".")[-1]
    if last == "positional_encoding_gaussian_matrix":
        value = z
    elif key.endswith(("embed_tokens.weight", "lm_head.weight")):
        value = z / 4
    elif any(part in key for part in UNIT):
        value = z
    elif last == "bias":
        value = z / 50
    elif len(shape) == 1:
        value = z / 10 + (last == "weight")
    else:
        value = z / np.sqrt(np.prod(shape[1:]))
    return value.astype(np.float32)


def given(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """An input by its name, rounded to float32."""
    return drawn(f"input:{name}", shape, seed).astype(np.float32)


def digest(weights: dict[str, np.ndarray]) -> str:
    return hashlib.sha256(b"".join(key.encode() + weights[key].tobytes() for key in sorted(weights))).hexdigest()


def attention_shapes(width: int, inner: int) -> dict[str, tuple[int, ...]]:
    shapes = {f"{n}_proj.{k}": s for n in "qkv" for k, s in (("weight", (inner, width)), ("bias", (inner,)))}
    return shapes | {"out_proj.weight": (width, inner), "out_proj.bias": (width,)}


def perceiver_shapes(width: int, tokens: int, mlp: int) -> dict[str, tuple[int, ...]]:
    shapes = {"sem_tokens.weight": (tokens, width), "pe_layer.positional_encoding_gaussian_matrix": (2, width // 2)}
    shapes |= {"proj.weight": (4 * width, 16 * width), "proj.bias": (4 * width,)}
    inner = {"self_attn": width, "cross_attn_token_to_image": width // 2, "cross_attn_image_to_token": width // 2}
    for block in ("layers.0.", "layers.1."):
        for name, size in inner.items():
            shapes |= {f"{block}{name}.{key}": shape for key, shape in attention_shapes(width, size).items()}
        shapes |= {f"{block}norm{i}.{key}": (width,) for i in range(1, 5) for key in ("weight", "bias")}
        shapes |= {f"{block}mlp.layers.0.weight": (mlp, width), f"{block}mlp.layers.0.bias": (mlp,)}
        shapes |= {f"{block}mlp.layers.1.weight": (width, mlp), f"{block}mlp.layers.1.bias": (width,)}
    shapes |= {f"final_attn_token_to_image.{k}": s for k, s in attention_shapes(width, width // 2).items()}
    return shapes | {"norm_final_attn.weight": (width,), "norm_final_attn.bias": (width,)}


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


class Weights:
    """Weights in float64 below a beginning of their names."""

    def __init__(self, table: dict[str, np.ndarray], prefix: str = ""):
        self.table, self.prefix = table, prefix

    def __getitem__(self, key: str) -> np.ndarray:
        return self.table[self.prefix + key].astype(np.float64)

    def below(self, name: str) -> "Weights":
        return Weights(self.table, f"{self.prefix}{name}.")

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        return x @ self[f"{name}.weight"].T + self[f"{name}.bias"]

    def layer_norm(self, name: str, x: np.ndarray) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + EPS)
        return scaled * self[f"{name}.weight"] + self[f"{name}.bias"]

    def attend(self, name: str, query: np.ndarray, key: np.ndarray, value: np.ndarray, heads: int) -> np.ndarray:
        """(B, Lq, C), (B, Lk, C), (B, Lk, C) -> (B, Lq, C)."""
        own = self.below(name)
        q, k, v = (own.linear(f"{n}_proj", x) for n, x in (("q", query), ("k", key), ("v", value)))
        outputs = []
        for i in range(heads):
            size = q.shape[-1] // heads
            part = slice(i * size, (i + 1) * size)
            scores = q[..., part] @ k[..., part].swapaxes(1, 2) / math.sqrt(size)
            outputs.append(softmax(scores) @ v[..., part])
        return own.linear("out_proj", np.concatenate(outputs, -1))


def positions(matrix: np.ndarray, side: int) -> np.ndarray:
    """(S*S, C): sine and cosine of random projections of the cell centres, row by row."""
    rows = []
    for y in range(side):
        for x in range(side):
            centre = np.array([(x + 0.5) / side, (y + 0.5) / side]) * 2 - 1
            angle = 2 * math.pi * (centre @ matrix)
            rows.append(np.concatenate([np.sin(angle), np.cos(angle)]))
    return np.stack(rows)


def perceive(w: Weights, image: np.ndarray, mask_tokens: np.ndarray, heads: int = HEADS) -> dict[str, np.ndarray]:
    """(B, C, S, S) and (B, 2, C) -> keys (B, S*S, C), the queries of the last block, semantic tokens (B, N, C)."""
    batch, width, side, _ = image.shape
    keys = np.stack([image[:, :, y, x] for y in range(side) for x in range(side)], 1).astype(np.float64)
    learned = np.repeat(w["sem_tokens.weight"][None], batch, 0)
    start = np.concatenate([mask_tokens.astype(np.float64), learned], 1)
    place, queries = positions(w["pe_layer.positional_encoding_gaussian_matrix"], side), start
    for i in range(2):
        b = w.below(f"layers.{i}")
        if i == 0:
            queries = b.attend("self_attn", queries, queries, queries, heads)
        else:
            moved = queries + start
            queries = queries + b.attend("self_attn", moved, moved, queries, heads)
        queries = b.layer_norm("norm1", queries)
        looked = b.attend("cross_attn_token_to_image", queries + start, keys + place, keys, heads)
        queries = b.layer_norm("norm2", queries + looked)
        hidden = np.maximum(b.linear("mlp.layers.0", queries), 0)
        queries = b.layer_norm("norm3", queries + b.linear("mlp.layers.1", hidden))
        told = b.attend("cross_attn_image_to_token", keys + place, queries + start, queries, heads)
        keys = b.layer_norm("norm4", keys + told)
    last = w.attend("final_attn_token_to_image", queries + start, keys + place, keys, heads)
    final = w.layer_norm("norm_final_attn", queries + last)
    return {"keys": keys, "queries": queries, "semantic": final[:, 2:]}


def merged(keys: np.ndarray, ratio: int, columns_first: bool) -> np.ndarray:
    """(B, S*S, C) -> (B, (S/r)^2, r*r*C): squares of neighbours side by side in the channels."""
    side = math.isqrt(keys.shape[1])
    cells = [(a, b) for a in range(side // ratio) for b in range(side // ratio)]
    tokens = []
    for y, x in ((b, a) for a, b in cells) if columns_first else cells:
        square = [((y * ratio + dy) * side + x * ratio + dx) for dy in range(ratio) for dx in range(ratio)]
        tokens.append(np.concatenate([keys[:, i] for i in square], -1))
    return np.stack(tokens, 1)


def mlp(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    """Linear, the exact GELU, linear."""
    hidden = w.linear(f"{name}.0", x)
    gelu = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
    return w.linear(f"{name}.2", gelu)


def region(w: Weights, frames: list[tuple[np.ndarray, np.ndarray]], video: bool) -> np.ndarray:
    """Image embedding and mask tokens of an image, or of each frame of a clip -> (L, D)."""
    rows = []
    for number, (image, mask_tokens) in enumerate(frames):
        seen = perceive(w.below("model.vision_resampler"), image, mask_tokens)
        tokens = merged(seen["keys"], 4 if number else 2, columns_first=True)
        if number:
            tokens = w.linear("model.vision_resampler.proj", tokens)
        rows += [mlp(w, "model.mm_projector_img", tokens)[0], w["model.image_newline"][None]]
        rows += [mlp(w, "model.mm_projector_semT", seen["semantic"])[0], w["model.semT_newline"][None]]
        if video:
            rows.append(w["model.frame_newline"][None])
    return np.concatenate(rows)


def rms_norm(x: np.ndarray, scale: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * scale


def rotated(x: np.ndarray, theta: float) -> np.ndarray:
    """(L, E) of one head: dimensions i and i + E/2 turned by position / theta^(2i/E)."""
    length, size = x.shape
    half = size // 2
    angle = np.arange(length)[:, None] * theta ** (-2 * np.arange(half) / size)
    first, second = x[:, :half], x[:, half:]
    turned = [first * np.cos(angle) - second * np.sin(angle), second * np.cos(angle) + first * np.sin(angle)]
    return np.concatenate(turned, -1)


def language_model(w: Weights, x: np.ndarray, config: dict) -> np.ndarray:
    """One sequence of embeddings (L, D) -> logits (L, V): Qwen2 with tied embeddings."""
    heads, groups, eps = config["num_attention_heads"], config["num_key_value_heads"], config["rms_norm_eps"]
    size = config["hidden_size"] // heads
    later = np.triu(np.ones((len(x), len(x)), bool), 1)
    for i in range(config["num_hidden_layers"]):
        layer = w.below(f"model.layers.{i}")
        normed = rms_norm(x, layer["input_layernorm.weight"], eps)
        q, k, v = (layer.linear(f"self_attn.{n}_proj", normed) for n in "qkv")
        read = []
        for head in range(heads):
            group = head // (heads // groups)
            own, shared = slice(head * size, (head + 1) * size), slice(group * size, (group + 1) * size)
            scores = rotated(q[:, own], config["rope_theta"]) @ rotated(k[:, shared], config["rope_theta"]).T
            read.append(softmax(np.where(later, -np.inf, scores / math.sqrt(size))) @ v[:, shared])
        x = x + np.concatenate(read, -1) @ layer["self_attn.o_proj.weight"].T
        normed = rms_norm(x, layer["post_attention_layernorm.weight"], eps)
        gate = normed @ layer["mlp.gate_proj.weight"].T
        up = normed @ layer["mlp.up_proj.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ layer["mlp.down_proj.weight"].T
    return rms_norm(x, w["model.norm.weight"], eps) @ w["model.embed_tokens.weight"].T


def language_model_shapes(config: dict) -> dict[str, tuple[int, ...]]:
    width, inner = config["hidden_size"], config["intermediate_size"]
    shared = width // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], width), "model.norm.weight": (width,)}
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}."
        for name, rows in (("q", width), ("k", shared), ("v", shared)):
            shapes |= {f"{at}self_attn.{name}_proj.weight": (rows, width), f"{at}self_attn.{name}_proj.bias": (rows,)}
        shapes |= {f"{at}self_attn.o_proj.weight": (width, width), f"{at}mlp.down_proj.weight": (width, inner)}
        shapes |= {f"{at}mlp.{name}_proj.weight": (inner, width) for name in ("gate", "up")}
        shapes |= {f"{at}{name}_layernorm.weight": (width,) for name in ("input", "post_attention")}
    return shapes


def mlp_shapes(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    shapes = {f"{name}.0.weight": (outputs, inputs), f"{name}.2.weight": (outputs, outputs)}
    return shapes | {f"{name}.{i}.bias": (outputs,) for i in (0, 2)}


def log_loss(logits: list[np.ndarray], labels: list[list[int]]) -> float:
    """The mean over all labels of a batch; each position predicts the next label."""
    losses = []
    for rows, wanted in zip(logits, labels, strict=True):
        for row, label in zip(rows[:-1], wanted[1:], strict=True):
            if label != -100:
                losses.append(np.log(np.exp(row - row.max()).sum()) + row.max() - row[label])
    return float(np.mean(losses))
