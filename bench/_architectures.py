"""Models by name, beyond those of bench/zoo.txt: segmentation, detection, video, and Hugging Face transformers.

All are built without a download. Transformers are made from their configuration classes, two layers of width 64: what
is measured is the architecture and not its size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from icycle.tracing import output_tensors
from icycle.zoo import build_model, example_shape

__all__ = ["ARCHITECTURES", "CLASSES", "architecture"]

CLASSES = 1000

Example = tuple[nn.Module, Any]


def architecture(name: str) -> tuple[nn.Module, Tensor]:
    """The model called `name`, with random weights, as a function of one tensor, and an example."""
    family, _, member = name.partition("/")
    if family not in _FAMILIES:
        return build_model(name, num_classes=CLASSES), torch.randn(1, *example_shape(name))
    model, inputs = _FAMILIES[family][member]()
    inputs = inputs if isinstance(inputs, Mapping) else {None: inputs}
    (own, example), *others = inputs.items()
    return OneTensor(model, own, tuple(others)), example


class OneTensor(nn.Module):
    """A model as a function of its first input, the others being fixed; several outputs are flattened and joined."""

    def __init__(self, model: nn.Module, own: str | None, others: tuple[tuple[str, Tensor], ...]) -> None:
        super().__init__()
        self.model = model
        self.own = own
        self.others = others

    def forward(self, x: Tensor) -> Tensor:
        result = self.model(x) if self.own is None else self.model(**{self.own: x, **dict(self.others)})
        found = [out for out in output_tensors(result) if out.is_floating_point()]
        return found[0] if len(found) == 1 else torch.cat([out.flatten(1) for out in found], 1)


# ---- torchvision's models for other tasks ----


def _segmentation(name: str, **options: Any) -> Callable[[], Example]:
    def build() -> Example:
        from torchvision.models import segmentation

        return getattr(segmentation, name)(weights=None, weights_backbone=None, **options), torch.randn(1, 3, 64, 64)

    return build


def _detection_features(name: str, size: int) -> Callable[[], Example]:
    """The backbone with its pyramid; the boxes that come after it are chosen by value."""

    def build() -> Example:
        from torchvision.models import detection

        return getattr(detection, name)(weights=None, weights_backbone=None).backbone, torch.randn(1, 3, size, size)

    return build


def _video(name: str, frames: int, size: int) -> Callable[[], Example]:
    def build() -> Example:
        from torchvision.models import video

        return getattr(video, name)(weights=None, num_classes=CLASSES), torch.randn(1, 3, frames, size, size)

    return build


# ---- Hugging Face transformers ----

_SIZE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
_IMAGE = {"image_size": 64, "patch_size": 16}
_TEXT = {"vocab_size": CLASSES}
_STAGES = {"hidden_sizes": [16, 32, 64, 128], "depths": [1, 1, 1, 1]}


def _transformer(
    model: str, config: str, inputs: Callable[[], dict[str, Tensor]], **options: Any
) -> Callable[[], Example]:
    def build() -> Example:
        import transformers

        return getattr(transformers, model)(getattr(transformers, config)(**options)), inputs()

    return build


def _pixels() -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(1, 3, 64, 64)}


def _tokens() -> dict[str, Tensor]:
    return {"input_ids": torch.randint(3, 90, (1, 12))}


def _masked_tokens() -> dict[str, Tensor]:
    return {**_tokens(), "attention_mask": torch.ones(1, 12, dtype=torch.long)}


def _two_sequences() -> dict[str, Tensor]:
    return {**_tokens(), "decoder_input_ids": torch.randint(3, 90, (1, 5))}


def _sound() -> dict[str, Tensor]:
    return {"input_features": torch.randn(1, 20, 100), "decoder_input_ids": torch.randint(3, 90, (1, 5))}


_FAMILIES: dict[str, dict[str, Callable[[], Example]]] = {
    "segmentation": {
        "fcn_resnet50": _segmentation("fcn_resnet50"),
        "deeplabv3_resnet50": _segmentation("deeplabv3_resnet50", aux_loss=True),
        "lraspp_mobilenet_v3_large": _segmentation("lraspp_mobilenet_v3_large"),
    },
    "detection": {
        "ssdlite320_mobilenet_v3_large": _detection_features("ssdlite320_mobilenet_v3_large", 320),
        "retinanet_resnet50_fpn": _detection_features("retinanet_resnet50_fpn", 128),
        "fasterrcnn_resnet50_fpn": _detection_features("fasterrcnn_resnet50_fpn", 128),
    },
    "video": {
        "r3d_18": _video("r3d_18", 4, 32),
        "mc3_18": _video("mc3_18", 4, 32),
        "r2plus1d_18": _video("r2plus1d_18", 4, 32),
        "mvit_v1_b": _video("mvit_v1_b", 16, 224),
    },
    "transformers": {
        "vit": _transformer("ViTForImageClassification", "ViTConfig", _pixels, num_labels=CLASSES, **_SIZE, **_IMAGE),
        "deit": _transformer(
            "DeiTForImageClassification", "DeiTConfig", _pixels, num_labels=CLASSES, **_SIZE, **_IMAGE
        ),
        "swin": _transformer(
            "SwinForImageClassification",
            "SwinConfig",
            _pixels,
            num_labels=CLASSES,
            image_size=64,
            patch_size=4,
            embed_dim=16,
            depths=[2, 2],
            num_heads=[2, 4],
            window_size=4,
        ),
        "segformer": _transformer(
            "SegformerForSemanticSegmentation", "SegformerConfig", _pixels, decoder_hidden_size=32, **_STAGES
        ),
        "convnext": _transformer(
            "ConvNextForImageClassification", "ConvNextConfig", _pixels, num_labels=CLASSES, **_STAGES
        ),
        "bert": _transformer(
            "BertForSequenceClassification", "BertConfig", _masked_tokens, num_labels=CLASSES, **_TEXT, **_SIZE
        ),
        "roberta": _transformer(
            "RobertaForSequenceClassification", "RobertaConfig", _tokens, num_labels=CLASSES, **_TEXT, **_SIZE
        ),
        "distilbert": _transformer(
            "DistilBertForSequenceClassification",
            "DistilBertConfig",
            _masked_tokens,
            num_labels=CLASSES,
            dim=64,
            n_layers=2,
            n_heads=4,
            hidden_dim=128,
            **_TEXT,
        ),
        "albert": _transformer(
            "AlbertForSequenceClassification",
            "AlbertConfig",
            _tokens,
            num_labels=CLASSES,
            embedding_size=32,
            **_TEXT,
            **_SIZE,
        ),
        "gpt2": _transformer(
            "GPT2LMHeadModel", "GPT2Config", _tokens, n_embd=64, n_layer=2, n_head=4, use_cache=False, **_TEXT
        ),
        "llama": _transformer(
            "LlamaForCausalLM", "LlamaConfig", _tokens, num_key_value_heads=2, use_cache=False, **_TEXT, **_SIZE
        ),
        "mistral": _transformer(
            "MistralForCausalLM", "MistralConfig", _tokens, num_key_value_heads=2, use_cache=False, **_TEXT, **_SIZE
        ),
        "qwen2": _transformer(
            "Qwen2ForCausalLM", "Qwen2Config", _tokens, num_key_value_heads=2, use_cache=False, **_TEXT, **_SIZE
        ),
        "t5": _transformer(
            "T5ForConditionalGeneration",
            "T5Config",
            _two_sequences,
            d_model=64,
            d_kv=16,
            d_ff=128,
            num_layers=2,
            num_heads=4,
            use_cache=False,
            **_TEXT,
        ),
        "clip": _transformer(
            "CLIPModel",
            "CLIPConfig",
            lambda: {**_pixels(), **_tokens()},
            projection_dim=32,
            text_config={"max_position_embeddings": 20, "projection_dim": 32, **_TEXT, **_SIZE},
            vision_config={"projection_dim": 32, **_SIZE, **_IMAGE},
        ),
        "whisper": _transformer(
            "WhisperForConditionalGeneration",
            "WhisperConfig",
            _sound,
            d_model=64,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=128,
            decoder_ffn_dim=128,
            max_source_positions=50,
            num_mel_bins=20,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
            use_cache=False,
            **_TEXT,
        ),
    },
}

ARCHITECTURES = tuple(f"{family}/{member}" for family, members in _FAMILIES.items() for member in members)
