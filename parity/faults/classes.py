"""The kinds of planted faults, by which they are scored, and the classes of their causes, each with the first place to
look."""

from __future__ import annotations

CAUSES = {
    "swapped": "two rows, chunks or operands exchanged: compare the order of shift, scale and gate, of cosine and sine",
    "axis order": "values in another order: compare the transpose, the reshape and the layout of the file's kernels",
    "wrong activation": "another pointwise function: tanh or exact GELU, slope of a leaky ReLU, tanh or clamp",
    "eps": "another eps in a norm: it shows where inputs are small",
    "missing normalisation": "a norm, or per-channel statistics, left out or applied twice",
    "wrong reduction": "a mean or norm over other axes or groups; a sum for a mean; a biased or unbiased deviation",
    "precision": "computed or stored in another dtype, or rounded at another place",
    "wrong constant": "a multiplier, base, slope or length: read it from the checkpoint's config",
    "skipped term": "a residual, gate, bias, noise or modulation that is not applied",
    "mask": "a mask that is ignored, inverted, off by one or of the wrong kind (additive or boolean)",
    "position/offset": "positions or indices off by one, shifted or counted from another start",
    "padding side": "padded, cropped or cut at the wrong end",
    "padding mode": "zeros, the edge or a mirror image around the borders where it should be another of them",
    "wrong input": "right arithmetic on the wrong tensor: of the other stream, of another step, before for after",
    "wrong filter": "a kernel, window or basis that is not the checkpoint's or has another width",
    "tile blending": "tiles cut, weighted or added up in another way",
    "wrong weights": "tensors of the file in the wrong place, or not read at all",
    "other network": "a network that is not the one that the config describes",
}

# Where a fault lies, or what hides it. A fault without a kind has that of its file in the catalogue.
KINDS = {
    "settings equal to the default": "a setting that never arrives, and whose default is what everyone takes",
    "command line": "a flag that does not reach its pipeline, or reaches it as another's value",
    "defaults": "another default than the reference's, for one pipeline or for all",
    "identity of noise": "the right numbers drawn by another generator, from another seed or in another order",
    "options with one value": "an option that is only ever tried at one of its values",
    "sizes": "what goes wrong only at a length where tiles, caches and index arithmetic change",
    "batch rows and caches": "rows of a batch mixed up, or an answer kept for what is another question",
    "clamps and neutral values": "a bound, a strength or a scale at which an error vanishes",
    "stand-ins": "an argument that a stand-in of the harness could fail to look at",
    "compiled path": "what only the compiled functions, or the GPU's branch, do",
    "files": "what becomes of frames and samples on the way into and out of a file",
    "loading": "tensors of the checkpoint that are not read, or read into another place",
    "text": "tokens, Gemma, feature extractors and connectors",
    "positions": "patches, positions and rotary embedding",
    "transformer": "the transformer's arithmetic",
    "video": "the video VAE and the upsamplers",
    "audio": "the audio VAE, the vocoder and the spectrogram",
    "sampling": "schedules, guiders and steps",
    "denoising": "noise, conditioning and the loops",
    "LoRA and float8": "fused weights, strengths and float8",
    "pipelines": "how the parts of a pipeline are put together",
    "symptoms": "what the views of parity debug name",
}

# Kind → the ids (globs) of its faults. Where none matches, the catalogue's file decides, and ``kind="…"`` over both.
OF_KIND = {
    "settings equal to the default": "Q1[a-z] E4[0-5]",
    "command line": "F[0-9][0-9]",
    "defaults": "Q[0-9][0-9]",
    "identity of noise": "E4[6-9] E5[0-4]",
    "options with one value": "E5[5-9] E6[0-6]",
    "sizes": "Q6[a-z]",
    "batch rows and caches": "Q7[a-z]",
    "clamps and neutral values": "Q8[a-z] E6[7-9] E7[0-5]",
    "stand-ins": "Q9[a-z] E7[6-9] E8[0-2]",
    "compiled path": "Q10[a-z]",
    "files": "H[0-9][0-9]",
}

# Of each kind, the fault that cannot be overlooked: where it is, nothing that the kind's score says is worth anything.
CANARIES = {
    "settings equal to the default": "Q1a",
    "command line": "F02",
    "defaults": "Q01",
    "identity of noise": "E46",
    "options with one value": "E57",
    "sizes": "Q6e",
    "batch rows and caches": "Q7d",
    "clamps and neutral values": "Q8f",
    "stand-ins": "Q9e",
    "compiled path": "Q10c",
    "files": "H02",
    "loading": "L01",
    "text": "T07",
    "positions": "V04b",
    "transformer": "D14",
    "video": "V21",
    "audio": "A23",
    "sampling": "S30",
    "denoising": "N11",
    "LoRA and float8": "L02c",
    "pipelines": "E02",
    "symptoms": "Y07",
}

# Ids of known faults that are not planted, and why.
NOT_APPLICABLE = {
    "C12": "a probe of the platform: one MLX build's attention at one shape",
    "R13": "the transformer runs whole: no tiles that reference tokens could be spread over",
    "M08": "the transformer runs whole: no mask is cut into tiles",
    "M11": "a probe of the platform: 16-bit matrix products on one GPU",
    "S18": "concerns what upstream never did: the audio noise is plain",
    "S23": "blindness of a metric, not a fault: tensors are compared, never their statistics alone",
    "A15": "rounding noise, within the gate by design",
    "A17": "a CUDA reference that does not repeat itself; ours is run on the CPU",
    "L11": "a matter of time, not of values",
    "L12": "a reference that does not repeat itself is inconclusive: test_gate",
    "L13": "a change of the platform; the reference is computed live",
    "L15": "nothing is cached between passes but rotary tables, keyed by their inputs",
    "X03": "an estimate of memory, which moves no tensor: tests/test_video.py",
    "X04": "a probe of the platform: outputs beyond 2³¹ elements",
    "X05": "a probe of the platform: a convolution that gives zeros",
    "X06": "a fault of one MLX release on Metal; no strided update is used",
    "X07": "a limit of the platform: shapes beyond 2³¹ elements",
    "X08": "a limit of the platform: the length of a command buffer",
    "X10": "concerns AVFoundation, which is not used",
}
