"""Defaults of Python's interface and of checkpoints' configs, where both sides have one under the same name."""

from __future__ import annotations

from typing import Any

from ..model import Case, Step

# (module of the reference, module of ours) → function or class → the arguments that have a default on both sides.
# A test holds that it is all of them: what is left out of it, and added to either side, is found there.
ARGUMENTS: dict[tuple[str, str], dict[str, str]] = {
    ("ltx_core.model.audio_vae.audio_vae", "ltx2_mlx.audio_vae"): {
        "encode_audio": "audio_processor",
    },
    ("ltx_core.model.transformer.transformer", "ltx2_mlx.block"): {
        "BasicAVTransformerBlock.__call__": "perturbations",
        "BasicAVTransformerBlock.get_av_ca_ada_values": "num_scale_shift_values",
        "apply_cross_attention_adaln": "context_mask norm_eps",
    },
    ("ltx_core.model.transformer.transformer_args", "ltx2_mlx.block"): {
        "TransformerArgs.__init__": "prompt_timestep self_attention_mask",
    },
    ("ltx_core.text_encoders.gemma.config", "ltx2_mlx.config.text"): {
        "Gemma3TextConfig.__init__": (
            "head_dim query_pre_attn_scalar rms_norm_eps rope_local_base_freq rope_theta "
            "sliding_window_pattern vocab_size"
        ),
    },
    ("ltx_core.model.transformer.transformer", "ltx2_mlx.config.transformer"): {
        "TransformerConfig.__init__": "apply_gated_attention cross_attention_adaln",
    },
    ("ltx_core.conditioning.types.reference_video_cond", "ltx2_mlx.diffusion.conditioning"): {
        "VideoConditionByReferenceLatent.__init__": "downscale_factor strength",
    },
    ("ltx_pipelines.utils.helpers", "ltx2_mlx.diffusion.denoisers"): {
        "modality_from_latent_state": "enabled",
    },
    ("ltx_core.components.guiders", "ltx2_mlx.diffusion.guiders"): {
        "MultiModalGuider.__init__": "negative_context",
        "MultiModalGuiderFactory.__init__": "negative_context",
        "MultiModalGuiderParams.__init__": "cfg_scale stg_scale stg_blocks rescale_scale modality_scale skip_step",
        "create_multimodal_guider_factory": "negative_context",
    },
    ("ltx_core.tools", "ltx2_mlx.diffusion.latent_state"): {
        "VideoLatentTools.__init__": "scale_factors causal_fix",
    },
    ("ltx_core.components.noisers", "ltx2_mlx.diffusion.noisers"): {
        "GaussianNoiser.__call__": "noise_scale",
    },
    ("ltx_core.components.patchifiers", "ltx2_mlx.diffusion.patchifiers"): {
        "AudioPatchifier.__init__": "sample_rate hop_length audio_latent_downsample_factor is_causal shift",
        "get_pixel_coords": "causal_fix",
    },
    ("ltx_pipelines.utils.res2s", "ltx2_mlx.diffusion.samplers"): {
        "get_res2s_coefficients": "c2",
    },
    ("ltx_pipelines.utils.samplers", "ltx2_mlx.diffusion.samplers"): {
        "res2s_audio_video_denoising_loop": "bongmath_max_iter",
    },
    ("ltx_core.components.schedulers", "ltx2_mlx.diffusion.schedulers"): {
        "LTX2Scheduler.execute": "max_shift base_shift stretch terminal",
    },
    ("ltx_pipelines.utils.media_io", "ltx2_mlx.media.images"): {
        "load_image_conditioning": "crf",
        "preprocess": "crf",
    },
    ("ltx_pipelines.utils.media_io", "ltx2_mlx.media.audio"): {
        "decode_audio_from_file": "start_time max_duration",
    },
    ("ltx_core.model.transformer.attention", "ltx2_mlx.nn.attention"): {
        "Attention.__call__": "context mask pe k_pe perturbation_mask all_perturbed",
    },
    ("ltx_core.model.transformer.feed_forward", "ltx2_mlx.nn.attention"): {
        "FeedForward.__init__": "mult",
    },
    ("ltx_core.model.upsampler.blur_downsample", "ltx2_mlx.nn.conv"): {
        "BlurDownsample.__init__": "kernel_size",
    },
    ("ltx_core.model.video_vae.convolution", "ltx2_mlx.nn.conv"): {
        "CausalConv3d.__call__": "causal",
        "CausalConv3d.__init__": "kernel_size stride",
    },
    ("ltx_core.model.upsampler.pixel_shuffle", "ltx2_mlx.nn.conv"): {
        "PixelShuffleND.__init__": "upscale_factors",
    },
    ("ltx_core.model.common.normalization", "ltx2_mlx.nn.norm"): {
        "PixelNorm.__init__": "eps",
    },
    ("ltx_core.utils", "ltx2_mlx.nn.norm"): {
        "rms_norm": "weight eps",
    },
    ("ltx_pipelines.a2vid_two_stage", "ltx2_mlx.pipelines.a2vid_two_stage"): {
        "A2VidPipelineTwoStage.__call__": "audio_start_time audio_max_duration tiling_config enhance_prompt",
    },
    ("ltx_pipelines.utils.constants", "ltx2_mlx.pipelines.constants"): {
        "PipelineParams.__init__": (
            "seed stage_1_height stage_1_width num_frames frame_rate num_inference_steps "
            "video_guider_params audio_guider_params"
        ),
    },
    ("ltx_pipelines.distilled", "ltx2_mlx.pipelines.distilled"): {
        "DistilledPipeline.__call__": "tiling_config enhance_prompt",
    },
    ("ltx_pipelines.ic_lora", "ltx2_mlx.pipelines.ic_lora"): {
        "ICLoraPipeline.__call__": (
            "enhance_prompt tiling_config conditioning_attention_strength skip_stage_2 conditioning_attention_mask"
        ),
    },
    ("ltx_pipelines.utils.model_ledger", "ltx2_mlx.pipelines.ledger"): {
        "ModelLedger.__init__": "gemma_root_path spatial_upsampler_path loras",
    },
    ("ltx_pipelines.retake", "ltx2_mlx.pipelines.retake"): {
        "RetakePipeline.__call__": (
            "negative_prompt num_inference_steps video_guider_params audio_guider_params regenerate_video "
            "regenerate_audio enhance_prompt distilled tiling_config"
        ),
    },
    ("ltx_pipelines.utils.helpers", "ltx2_mlx.pipelines.stages"): {
        "create_noised_state": "noise_scale initial_latent",
        "denoise_audio_video": "noise_scale initial_video_latent initial_audio_latent",
    },
    ("ltx_pipelines.ti2vid_one_stage", "ltx2_mlx.pipelines.ti2vid_one_stage"): {
        "TI2VidOneStagePipeline.__call__": "enhance_prompt",
    },
    ("ltx_pipelines.ti2vid_two_stages", "ltx2_mlx.pipelines.ti2vid_two_stages"): {
        "TI2VidTwoStagesPipeline.__call__": "tiling_config enhance_prompt",
    },
    ("ltx_pipelines.ti2vid_two_stages_hq", "ltx2_mlx.pipelines.ti2vid_two_stages_hq"): {
        "TI2VidTwoStagesHQPipeline.__call__": "tiling_config enhance_prompt",
    },
    ("ltx_core.text_encoders.gemma.embeddings_processor", "ltx2_mlx.text.embeddings"): {
        "EmbeddingsProcessor.process_hidden_states": "padding_side",
    },
    ("ltx_core.text_encoders.gemma.feature_extractor", "ltx2_mlx.text.feature_extractor"): {
        "FeatureExtractorV1.__call__": "padding_side",
        "FeatureExtractorV1.__init__": "is_av",
        "FeatureExtractorV2.__call__": "padding_side",
        "FeatureExtractorV2.__init__": "audio_aggregate_embed",
    },
    ("ltx_core.text_encoders.gemma.tokenizer", "ltx2_mlx.text.tokenizer"): {
        "LTXVGemmaTokenizer.__init__": "max_length",
    },
    ("ltx_core.model.video_vae.tiling", "ltx2_mlx.tiling"): {
        "SpatialTilingConfig.__init__": "tile_overlap_in_pixels",
        "TemporalTilingConfig.__init__": "tile_overlap_in_frames",
        "TilingConfig.__init__": "spatial_config temporal_config",
        "compute_trapezoidal_mask_1d": "left_starts_from_0",
    },
    ("ltx_core.utils", "ltx2_mlx.transformer"): {
        "to_denoised": "calc_dtype",
    },
    ("ltx_core.types", "ltx2_mlx.types"): {
        "AudioLatentShape.from_duration": "channels mel_bins sample_rate hop_length audio_latent_downsample_factor",
        "AudioLatentShape.from_video_pixel_shape": "channels mel_bins",
        "LatentState.__init__": "attention_mask",
        "VideoLatentShape.from_pixel_shape": "latent_channels scale_factors",
        "VideoLatentShape.upscale": "scale_factors",
    },
    ("ltx_pipelines.utils.args", "ltx2_mlx.types"): {
        "ImageConditioningInput.__new__": "crf",
    },
    ("ltx_core.model.transformer.modality", "ltx2_mlx.types"): {
        "Modality.__init__": "enabled context_mask attention_mask",
    },
    ("ltx_core.model.video_vae.sampling", "ltx2_mlx.video_vae"): {
        "DepthToSpaceUpsample.__call__": "causal",
        "SpaceToDepthDownsample.__call__": "causal",
    },
    ("ltx_core.model.video_vae.resnet", "ltx2_mlx.video_vae"): {
        "ResnetBlock3D.__call__": "causal timestep generator",
        "ResnetBlock3D.__init__": "inject_noise timestep_conditioning",
        "UNetMidBlock3D.__call__": "causal timestep generator",
        "UNetMidBlock3D.__init__": "timestep_conditioning",
    },
    ("ltx_core.model.video_vae.video_vae", "ltx2_mlx.video_vae"): {
        "VideoDecoder.__call__": "timestep generator",
        "VideoDecoder.tiled_decode": "tiling_config timestep generator",
        "VideoEncoder.tiled_encode": "tiling_config",
        "decode_video": "tiling_config generator",
        "prepare_tiles_for_encoding": "tiling_config",
    },
    ("ltx_core.model.audio_vae.vocoder", "ltx2_mlx.vocoder"): {
        "LowPassFilter1d.__init__": "kernel_size",
        "UpSample1d.__init__": "kernel_size",
    },
}
# Constants, as attributes of both modules.
CONSTANTS: dict[tuple[str, str], str] = {
    (
        "ltx_pipelines.utils.constants",
        "ltx2_mlx.pipelines.constants",
    ): "LTX_2_PARAMS LTX_2_3_PARAMS LTX_2_3_HQ_PARAMS DISTILLED_SIGMA_VALUES STAGE_2_DISTILLED_SIGMA_VALUES "
    "VIDEO_LATENT_CHANNELS",
    ("ltx_pipelines.utils.constants", "ltx2_mlx.media.images"): "DEFAULT_IMAGE_CRF",
    ("ltx_core.model.video_vae.tiling", "ltx2_mlx.tiling"): "TilingConfig.default",
    ("ltx_core.components.guiders", "ltx2_mlx.diffusion.guiders"): "MultiModalGuiderParams",
    ("ltx_core.types", "ltx2_mlx.types"): "SpatioTemporalScaleFactors.default",
}
# Component → our config dataclass, and the keys that may be absent from a checkpoint.
KEYS: dict[str, tuple[str, str]] = {
    "transformer": (
        "TransformerConfig",
        "apply_gated_attention cross_attention_adaln caption_proj_before_connector audio_num_attention_heads "
        "audio_attention_head_dim audio_in_channels audio_out_channels audio_cross_attention_dim "
        "audio_positional_embedding_max_pos",
    ),
    "embeddings_processor": ("EmbeddingsProcessorConfig", "connector_apply_gated_attention"),
    "video_decoder": ("VideoVAEConfig", "decoder_base_channels"),
    "audio_decoder": ("AudioVAEConfig", "causal"),
    "vocoder": ("VocoderConfig", "output_sampling_rate use_tanh_at_final use_bias_at_final"),
}


def _step(name: str, function: str, kwargs: dict[str, Any], reference: dict[str, Any], ours: dict[str, Any]) -> Step:
    return Step(name, function, {"step": name} | kwargs, on_reference=reference, on_ours=ours)


def case() -> Case:
    steps = []
    for (reference, ours), functions in ARGUMENTS.items():
        for name, arguments in functions.items():
            kwargs = {"name": name, "arguments": tuple(arguments.split())}
            step = f"python.{ours.rpartition('.')[2]}.{name}"
            steps.append(_step(step, "arguments_of", kwargs, {"module": reference}, {"module": ours}))
    for (reference, ours), names in CONSTANTS.items():
        for name in names.split():
            steps.append(_step(f"python.{name}", "constant", {"name": name}, {"module": reference}, {"module": ours}))
    for component, (cls, keys) in KEYS.items():
        kwargs = {"keys": tuple(keys.split())}
        steps.append(_step(f"config.{component}", "keys_of", kwargs, {"component": component}, {"cls": cls}))
    for video, audio in ((17, 23), (23, 17)):  # in released files both are 20
        longest = {"video": video, "audio": audio}
        steps.append(_step(f"config.between.{video}.{audio}", "between_streams", longest, {}, {}))
    return Case(steps=tuple(steps), half=False)
