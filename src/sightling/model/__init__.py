"""The composed model, its configuration and its processor, registered with transformers' Auto classes."""

from __future__ import annotations

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
)

from sightling.model.config import VisionLanguageConfig
from sightling.model.image_processor import VisionLanguageImageProcessor
from sightling.model.language_models import CAUSAL
from sightling.model.modeling import VisionLanguageModel, VisionLanguageOutput
from sightling.model.processor import Encoded, VisionLanguageProcessor

AutoConfig.register(VisionLanguageConfig.model_type, VisionLanguageConfig, exist_ok=True)
AutoModelForImageTextToText.register(VisionLanguageConfig, VisionLanguageModel, exist_ok=True)
for causal in CAUSAL:
    AutoModelForCausalLM.register(causal.config_class, causal, exist_ok=True)
AutoImageProcessor.register(
    VisionLanguageConfig, slow_image_processor_class=VisionLanguageImageProcessor, exist_ok=True
)
AutoProcessor.register(VisionLanguageConfig, VisionLanguageProcessor, exist_ok=True)

__all__ = [
    "Encoded",
    "VisionLanguageConfig",
    "VisionLanguageImageProcessor",
    "VisionLanguageModel",
    "VisionLanguageOutput",
    "VisionLanguageProcessor",
]
