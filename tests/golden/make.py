"""Write the golden files below ``public/`` anew: ``python tests/golden/make.py [FOLDER]``; needs no kit."""

import hashlib
import json
import re
import sys
from pathlib import Path

import numpy as np
from released_pam import (
    FRAMES,
    Weights,
    digest,
    given,
    language_model,
    language_model_shapes,
    log_loss,
    merged,
    mlp,
    mlp_shapes,
    perceive,
    perceiver_shapes,
    region,
    weight,
)
from safetensors.numpy import save_file

SYSTEM = "You are a helpful assistant."
WORD = {"from": "human", "value": "<image>\nProvide the label of this subject."}
CONVERSATIONS = {
    "english": [WORD, {"from": "gpt", "value": "A green kite."}],
    "chinese": [{"from": "human", "value": "<image>\n这是什么？"}, {"from": "gpt", "value": "一只风筝"}],
    "two_questions": [
        WORD,
        {"from": "gpt", "value": "Kite.\nIt flies.\n\n"},
        {"from": "human", "value": "What\nfor?"},
        {"from": "gpt", "value": "Fun."},
    ],
    "tag_in_the_middle": [{"from": "human", "value": "Name <image> it. "}, {"from": "gpt", "value": "Kite."}],
    "answer_first": [{"from": "gpt", "value": "Hi"}, WORD, {"from": "gpt", "value": "A kite."}],
    "two_tags": [{"from": "human", "value": "Is <image> like <image>?"}, {"from": "gpt", "value": "No."}],
    "no_tag": [{"from": "human", "value": "Good morning."}, {"from": "gpt", "value": "Hello."}],
    "clip": [
        {"from": "human", "value": "<image>\nSay what it does.\nPrevious caption: None"},
        {"from": "gpt", "value": "It falls."},
    ],
}
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SPECIAL += [f"<|{name}_{end}|>" for name in ("object_ref", "box", "quad", "vision") for end in ("start", "end")]
SPECIAL += [f"<|{name}_pad|>" for name in ("vision", "image", "video")]
PAD, START, END, NEWLINE, REGION, NONE = 256, 257, 258, 198, -200, -100
# The order of GPT-2: bytes that print first.
BYTES = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTES += [byte for byte in range(256) if byte not in BYTES]

CONFIG = {
    "model_type": "llava_qwen",
    "vocab_size": 320,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "tokenizer_model_max_length": 12288,
    "tokenizer_padding_side": "right",
}


def ids_of(text: str) -> list[int]:
    """Each special token and each byte is one id; -200 for a region."""
    found = []
    for piece in re.split(r"(<\|\w+\|>|<image>)", text):
        if piece in SPECIAL:
            found.append(256 + SPECIAL.index(piece))
        elif piece == "<image>":
            found.append(REGION)
        else:
            found += [BYTES.index(byte) for byte in piece.encode()]
    return found


def tidied(conversation: list[dict]) -> list[dict]:
    """The only tag of a turn is put in front of it."""
    turns = []
    for turn in conversation:
        value = turn["value"]
        if value.count("<image>") == 1 and not value.startswith("<image>"):
            value = "<image>\n" + value.replace("<image>", "").strip()
        turns.append({**turn, "value": value})
    return turns


def spoken(conversation: list[dict]) -> list[tuple[str, str]]:
    turns = tidied(conversation)
    turns = turns[1:] if turns[0]["from"] != "human" else turns
    roles = {"human": "user", "gpt": "assistant"}
    spoken = [("system", SYSTEM), *((roles[t["from"]], t["value"]) for t in turns)]
    return [(role, f"<|im_start|>{role}\n{value}<|im_end|>\n") for role, value in spoken]


def ids_and_labels(conversation: list[dict]) -> tuple[list[int], list[int]]:
    ids, labels = [], []
    for role, text in spoken(conversation):
        own = ids_of(text)
        ids += own
        labels += [i if role == "assistant" or i in (START, END, NEWLINE) else NONE for i in own]
    return ids, labels


def chat_cases() -> dict:
    cases = []
    for name, conversation in CONVERSATIONS.items():
        ids, labels = ids_and_labels(conversation)
        prompt = "".join(text for _, text in spoken(conversation)[:2]) + "<|im_start|>assistant\n"
        cases.append(
            {
                "name": name,
                "conversation_in": conversation,
                "conversation_after_multimodal": tidied(conversation),
                "training_text": "".join(text for _, text in spoken(conversation)),
                "input_ids": ids,
                "labels": labels,
                "unmasked_positions": [i for i, label in enumerate(labels) if label != NONE],
                "n_tokens": len(ids),
                "inference_prompt": prompt,
                "inference_input_ids": ids_of(prompt),
                "inference_ids_are_prefix_of_training_ids": ids[: len(ids_of(prompt))] == ids_of(prompt),
            }
        )
    known = {"ignore_index": NONE, "image_token_index": REGION, "newline_id": NEWLINE}
    return {"system_message": SYSTEM, **known, "im_start_id": START, "im_end_id": END, "cases": cases}


def frame_sampling() -> dict:
    """The first frame, and 15 from the second to the last, cut to whole numbers: exact in integers."""
    table = {}
    for count in (1, 15, 16, 17, 18, 20, 25, 32, 64, 100, 300):
        later = [1 + i * (count - 2) // (FRAMES - 2) for i in range(FRAMES - 1)]
        table[str(count)] = [0, *later] if count >= FRAMES else "ValueError"
    return table


def tokenizer_files() -> dict[str, dict]:
    letters, beyond = {}, 256
    for i, byte in enumerate(BYTES):
        letters[chr(byte) if i < 188 else chr(beyond)] = i
        beyond += i >= 188
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": 256 + i, "content": token, **flags} for i, token in enumerate(SPECIAL)]
    step = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    model = {"type": "BPE", "vocab": letters, "merges": [], "byte_fallback": False}
    whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None}
    whole |= {"pre_tokenizer": step, "post_processor": None, "decoder": step, "model": model}
    roles = {"eos_token": SPECIAL[2], "pad_token": SPECIAL[0]}
    settings = {str(256 + i): {"content": token, **flags} for i, token in enumerate(SPECIAL)}
    return {
        "tokenizer.json": whole,
        "tokenizer_config.json": {"added_tokens_decoder": settings, **roles, "tokenizer_class": "Qwen2Tokenizer"},
        "special_tokens_map.json": {"additional_special_tokens": SPECIAL[1:], **roles},
    }


def perceiver_file(path: Path, seed: int, width: int, heads: int, tokens: int, side: int, batch: int, explicit: bool):
    hidden = 2 * width
    weights = {key: weight(key, shape, seed) for key, shape in perceiver_shapes(width, tokens, hidden).items()}
    image = given("image_embedding", (batch, width, side, side), seed)
    mask_tokens = given("mask_tokens", (batch, 2, width), seed)
    seen = perceive(Weights(weights), image, mask_tokens, heads)
    tensors = {"keys_tokens": seen["keys"], "queries_last_layer": seen["queries"], "sem_tokens_out": seen["semantic"]}
    proj = Weights(weights)
    for name, columns in (("official", True), ("corrected_rowmajor", False)):
        tensors[f"{name}_half"] = merged(seen["keys"], 2, columns)
        tensors[f"{name}_quarter"] = proj.linear("proj", merged(seen["keys"], 4, columns))
    if explicit:
        tensors |= {"image_embedding": image, "mask_tokens": mask_tokens}
        tensors |= {f"weights.{key}": value for key, value in weights.items()}
    about = {"seed": seed, "hw": side, "bs": batch, "num_sem_tokens": tokens, "explicit_weights": explicit}
    about |= {"kw": {"embedding_dim": width, "num_heads": heads, "mlp_dim": hidden}}
    about |= {"weights_sha256": digest(weights), "sha_image_embedding": sha(image), "sha_mask_tokens": sha(mask_tokens)}
    save(path, tensors, about)


def projector_file(path: Path, seed: int, width: int, outputs: int):
    shapes = mlp_shapes("mm_projector_img", 4 * width, outputs) | mlp_shapes("mm_projector_semT", width, outputs)
    weights = {key: weight(key, shape, seed) for key, shape in shapes.items()}
    tokens = {"image_tokens": given("image", (2, 6, 4 * width), seed), "sem_tokens": given("sem", (2, 3, width), seed)}
    w = Weights(weights)
    out = {
        "image_out": mlp(w, "mm_projector_img", tokens["image_tokens"].astype(np.float64)),
        "sem_out": mlp(w, "mm_projector_semT", tokens["sem_tokens"].astype(np.float64)),
    }
    explicit = {f"weights.{key}": value for key, value in weights.items()}
    save(path, tokens | out | explicit, {"seed": seed, "hidden": outputs})


def sequence_file(path: Path, seed: int, names: list[str], images: list[list[str]], video: bool, kept: int):
    """A batch of conversations with a region each, through the language model."""
    side, width = 4, CONFIG["hidden_size"]
    shapes = {f"model.vision_resampler.{k}": s for k, s in perceiver_shapes(256, 16, 2048).items()}
    shapes |= mlp_shapes("model.mm_projector_img", 1024, width) | mlp_shapes("model.mm_projector_semT", 256, width)
    shapes |= {f"model.{name}_newline": (width,) for name in ("image", "semT", "frame")} | language_model_shapes(CONFIG)
    weights = {key: weight(key, shape, seed) for key, shape in shapes.items()}
    w = Weights(weights)
    rows = []
    for name, ids_shown in zip(names, images, strict=True):
        read = [ids_shown[i] for i in frame_sampling()[str(len(ids_shown))]] if video else ids_shown
        inputs = {"mid_image_embed": (1, 256, side, side), "mid_mask_tokens_out": (1, 2, 256)}
        frames = [tuple(given(f"{key}.{i}", shape, seed) for key, shape in inputs.items()) for i in read]
        rows.append(spliced(w, *ids_and_labels(CONVERSATIONS[name]), region(w, frames, video)))
    logits = [language_model(w, embeddings, CONFIG) for embeddings, _ in rows]
    longest = max(len(embeddings) for embeddings, _ in rows)
    index = sorted({round(i) for i in np.linspace(0, min(len(e) for e, _ in rows) - 1, kept)})
    texts = [ids_and_labels(CONVERSATIONS[name]) for name in names]
    most = max(len(ids) for ids, _ in texts)
    real = np.array([[i < len(e) for i in range(longest)] for e, _ in rows])
    tensors = {
        "input_ids": np.array([ids + [PAD] * (most - len(ids)) for ids, _ in texts]),
        "labels_in": np.array([labels + [NONE] * (most - len(labels)) for _, labels in texts]),
        "attention_mask_in": np.array([[i < len(ids) for i in range(most)] for ids, _ in texts]).astype(np.uint8),
        "inputs_embeds": np.stack([np.pad(e, ((0, longest - len(e)), (0, 0))) for e, _ in rows]),
        "labels": np.array([labels + [NONE] * (longest - len(labels)) for _, labels in rows]),
        "attention_mask": real.astype(np.uint8),
        "position_ids_internal": np.arange(longest) * real,
        "logits_row_index": np.array(index),
        "logits_rows": np.stack([one[index] for one in logits]),
        "loss": np.array([log_loss(logits, [labels for _, labels in rows])]),
    }
    about = {"seed": seed, "hw": side, "config": CONFIG, "weights_sha256": digest(weights), "images": images}
    about |= {"conversations": [CONVERSATIONS[name] for name in names]}
    about["type"] = "video" if video else "image"
    save(path, tensors, about)


def spliced(w: Weights, ids: list[int], labels: list[int], block: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """The region's block in the place of the one -200."""
    words, at = w["model.embed_tokens.weight"], ids.index(REGION)
    embeddings = np.concatenate([words[ids[:at]], block, words[ids[at + 1 :]]])
    return embeddings, labels[:at] + [NONE] * len(block) + labels[at + 1 :]


def sha(value: np.ndarray) -> str:
    return hashlib.sha256(value.tobytes()).hexdigest()[:16]


def save(path: Path, tensors: dict[str, np.ndarray], about: dict):
    path.parent.mkdir(parents=True, exist_ok=True)
    rounded = {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in tensors.items()}
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}
    save_file({key: np.ascontiguousarray(value) for key, value in rounded.items()}, path, texts)


def save_json(path: Path, value: dict):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, indent=0), encoding="utf-8")


def main(folder: Path):
    perceiver_file(folder / "perceiver/c32_sem4_hw8.safetensors", 11, 32, 4, 4, 8, 1, explicit=False)
    perceiver_file(folder / "perceiver/c8_sem16_hw4_b2_explicit.safetensors", 12, 8, 2, 16, 4, 2, explicit=True)
    projector_file(folder / "projectors/mlp_h16.safetensors", 13, 8, 16)
    sequence_file(folder / "sequence/image_batch2.safetensors", 14, ["english", "chinese"], [["a"], ["b"]], False, 8)
    clip = [[f"f{i:02d}" for i in range(18)]]
    sequence_file(folder / "sequence/video_18frames.safetensors", 15, ["clip"], clip, True, 8)
    save_json(folder / "sequence/frame_sampling.json", frame_sampling())
    save_json(folder / "text/chat_cases.json", chat_cases())
    for name, content in tokenizer_files().items():
        save_json(folder / "tiny_tokenizer" / name, content)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "public")
