"""A study small enough to run in a test: one stage of four steps, pictures of 32 pixels, one question family or two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from sightling.model.templates import TEMPLATES
from sightling.model.tokenizer import train_bpe

TEXTS = ["what color is the circle? red is there a large square? yes no small blue green"] * 10
WORLD = {
    "type": "world", "image_size": 32, "scene": {"max_things": 2, "textured": 0.0}, "languages": ["en"],
    "families": ["color", "existence"], "questions_per_picture": 2,
}  # fmt: skip


def recipe_tree(tokenizer: Path) -> dict[str, Any]:
    """The recipe that the study starts from."""
    return {
        "name": "tiny",
        "bf16": False,
        "model": {
            "encoder": {"type": "siglip", "image_size": 32, "patch_size": 8, "hidden_size": 64, "num_hidden_layers": 1},
            "language_model": {"type": "llama", "hidden_size": 64, "num_hidden_layers": 1,
                               "max_position_embeddings": 256},
            "tokenizer": {"pretrained": str(tokenizer)},
        },
        "stages": {
            "learn": {
                "objective": {"type": "answer", "max_length": 256},
                "data": WORLD,
                "train": {"encoder": True, "connector": True, "language_model": True},
                "learning_rate": 1e-3, "max_steps": 2, "per_device_train_batch_size": 2, "save_steps": 1,
            }
        },
    }  # fmt: skip


def study_tree(folder: Path, **changes: Any) -> dict[str, Any]:
    """A study's tree, its recipe and tokenizer in ``folder``."""
    if not (folder / "tokenizer").is_dir():
        train_bpe(TEXTS, 330, TEMPLATES.get("chatml")).save_pretrained(folder / "tokenizer")
        (folder / "tiny.yaml").write_text(yaml.safe_dump(recipe_tree(folder / "tokenizer"), sort_keys=False))
    return {
        "name": "toy",
        "question": "Is a picture in fewer tokens worth less?",
        "recipe": str(folder / "tiny.yaml"),
        "overrides": {"stages.learn.learning_rate": 2e-3},
        "variants": {
            "linear": {"model.connector": {"type": "linear"}},
            "shuffled": ["model.connector={type: pixel_shuffle, factor: 2}"],
        },
        "seeds": [0, 1],
        "budget": {"samples": 8, "at": [0.5]},
        "evaluate": {"data": WORLD, "scenes": 4},
        "compare": [
            {"claim": "More tokens see more.", "better": "linear", "worse": "shuffled", "measure": "mean_accuracy"},
            {"claim": "Fewer tokens are fewer.", "better": "shuffled", "worse": "linear", "measure": "visual_tokens"},
        ],
        **changes,
    }
