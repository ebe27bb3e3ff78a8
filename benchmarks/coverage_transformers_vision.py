"""Transformers' models of the zoo that see or hear: model type (the key of `AutoConfig.for_model`) -> recipe."""

from __future__ import annotations

from benchmarks.coverage_recipes import (
    BLOCKS,
    LABELS,
    PATCHES,
    SIDES,
    STAGES,
    TOKENS,
    VOCABULARY,
    Recipe,
    image,
    sound,
)

VISION = {
    "beit": image(**PATCHES, use_relative_position_bias=True),
    "bit": image(embedding_size=16, **STAGES, num_groups=8),
    "convnext": image(**STAGES),
    "convnextv2": image(**STAGES),
    "cvt": image(embed_dim=[16, 32, 64], num_heads=[1, 2, 4], depth=[1, 2, 3]),
    "data2vec-vision": image(**PATCHES),
    "deit": Recipe("DeiTForImageClassification", "image", {**PATCHES, "num_labels": LABELS}),
    "dinov2": image(**PATCHES),
    "dinov3_vit": Recipe("AutoModel", "image", PATCHES),
    "efficientnet": image(width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280, initializer_range=0.2),
    "focalnet": image(embed_dim=32, depths=[1, 1, 2, 1]),
    "hiera": image(image_size=[64, 64], embed_dim=32, depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 8]),
    "ijepa": image(**PATCHES),
    "levit": Recipe("LevitForImageClassification", "image", {"image_size": 224, "num_labels": LABELS}),
    "mobilenet_v1": image(depth_multiplier=0.5),
    "mobilenet_v2": image(depth_multiplier=0.5),
    "mobilevit": image(),
    "mobilevitv2": image(),
    "poolformer": image(depths=[1, 1, 2, 1]),
    "pvt": image(depths=[1, 1, 2, 1]),
    "pvt_v2": image(depths=[1, 1, 2, 1]),
    "regnet": image(embedding_size=16, **STAGES, groups_width=8),
    "resnet": image(embedding_size=16, **STAGES),
    "segformer": Recipe(
        "AutoModelForSemanticSegmentation", "image", {"depths": [1, 1, 1, 1], "num_labels": LABELS, "image_size": 64}
    ),
    "siglip_vision_model": Recipe("AutoModel", "image", PATCHES),
    "swiftformer": image(image_size=224, depths=[1, 1, 2, 1]),
    "swin": image(image_size=56, embed_dim=32, depths=[2, 2], num_heads=[2, 4]),
    "swinv2": image(image_size=56, embed_dim=32, depths=[2, 2], num_heads=[2, 4]),
    "timesformer": Recipe(
        "AutoModelForVideoClassification", "clip", {**PATCHES, "num_frames": 4, "num_labels": LABELS}
    ),
    "videomae": Recipe("AutoModelForVideoClassification", "clip", {**PATCHES, "num_frames": 4, "num_labels": LABELS}),
    "vit": image(**PATCHES),
    "vivit": Recipe(
        "AutoModelForVideoClassification",
        "clip",
        {**PATCHES, "num_frames": 4, "tubelet_size": [2, 16, 16], "num_labels": LABELS},
    ),
    "yolos": Recipe("AutoModel", "image", {**PATCHES, "image_size": [64, 64]}),
}
TWO_TOWERS = {
    name: Recipe(
        "AutoModel", "image and text", {"text_config": TOKENS | extra, "vision_config": PATCHES, "projection_dim": 32}
    )
    for name, extra in (("clip", {"eos_token_id": 127}), ("siglip", {"projection_size": 64}))
}
SPEECH = {
    "audio-spectrogram-transformer": Recipe(
        "AutoModelForAudioClassification",
        "spectrogram",
        {**BLOCKS, "num_labels": LABELS, "max_length": 128, "num_mel_bins": 64},
    ),
    "data2vec-audio": sound(),
    "hubert": sound(),
    "sew": sound(conv_dim=[32] * 13, squeeze_factor=2),
    "speech_to_text": Recipe(
        "Speech2TextForConditionalGeneration",
        "speech",
        {
            **SIDES,
            "vocab_size": VOCABULARY,
            "input_feat_per_channel": 64,
            "conv_channels": 64,
            "max_source_positions": 64,
        },
    ),
    "unispeech": sound(),
    "wav2vec2": sound(),
    "wav2vec2-conformer": sound(),
    "wavlm": sound(),
    "whisper": Recipe(
        "WhisperForConditionalGeneration",
        "speech",
        {
            **SIDES,
            "vocab_size": VOCABULARY,
            "max_source_positions": 32,
            "max_target_positions": 32,
            "num_mel_bins": 64,
            "pad_token_id": 0,
            "decoder_start_token_id": 1,
        },
    ),
}
