"""Images, videos and audio: from files to NumPy arrays and back, with PyAV (FFmpeg) and Pillow.

Reading follows ``ltx_pipelines.utils.media_io`` value by value. Writing makes the same streams, H.264 in yuv420p and
AAC, and adds care: a file appears only when it is whole and holds what was given, and its colours are those that a
player shows.
"""

from .encoding import Encoding
from .images import (
    DEFAULT_IMAGE_CRF,
    decode_image,
    load_image_conditioning,
    normalize,
    preprocess,
    resize_and_center_crop,
    resize_aspect_ratio_preserving,
)
from .reading import (
    MediaInfo,
    VideoStreamMetadata,
    decode_audio_from_file,
    decode_video_from_file,
    get_videostream_metadata,
    load_video_conditioning,
    probe,
    read_comment,
)
from .writing import encode_video, frame_rate, save_png_frames, save_wav

__all__ = [
    "DEFAULT_IMAGE_CRF",
    "Encoding",
    "MediaInfo",
    "VideoStreamMetadata",
    "decode_audio_from_file",
    "decode_image",
    "decode_video_from_file",
    "encode_video",
    "frame_rate",
    "get_videostream_metadata",
    "load_image_conditioning",
    "load_video_conditioning",
    "normalize",
    "preprocess",
    "probe",
    "read_comment",
    "resize_and_center_crop",
    "resize_aspect_ratio_preserving",
    "save_png_frames",
    "save_wav",
]
