"""The machine, its devices, the versions of what is installed, and the code that is judged."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from ltx2_mlx.errors import InputError

from ..sides import versions
from . import sources

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ("ltx_core", "ltx_pipelines")
LIBRARIES = ("ltx-core", "ltx-pipelines", "torch", "mlx", "numpy", "transformers", "diffusers")
# Further ones that numbers depend on, and what the environment tells the libraries: for resuming, not for the report.
FURTHER: tuple[str, ...] = (
    "mlx-cpu",
    "mlx-metal",
    "mlx-cuda-12",
    "mlx-cuda-13",
    "torchaudio",
    "tokenizers",
    "safetensors",
    "av",
)
FURTHER += ("pillow", "einops", "scipy")
SETTINGS: tuple[str, ...] = (
    "MLX_",
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "DYLD_",
    "OPENBLAS_",
    "OMP_",
    "MKL_",
    "VECLIB_",
    "BLIS_",
    "KMP_",
)
SETTINGS += ("TORCH", "PYTORCH_", "ATEN_", "CUDA_", "CUBLAS_", "NVIDIA_", "LTX2_")


def use_device(device: str) -> None:
    """Run MLX there from now on, in this process."""
    import mlx.core as mx

    mx.set_default_device(getattr(mx, device))


def chosen_device(asked: str | None = None) -> str:
    """The device that was asked for, or else where MLX runs in this process. Raises InputError for one that is not
    there."""
    import mlx.core as mx

    if asked == "gpu" and not mx.is_available(mx.gpu):
        raise InputError("--device gpu: MLX finds no GPU here; leave the flag out, or install MLX for this GPU")
    return asked or default_device()


def default_device() -> str:
    """Where MLX runs in this process: ``cpu`` or ``gpu``."""
    import mlx.core as mx

    return "gpu" if mx.default_device().type == mx.gpu else "cpu"


def environment(device: str) -> dict[str, str]:
    """Machine and versions, for the report; without those that are not installed."""
    cpu, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), cpu)
    libraries = {name: found for name in LIBRARIES if (found := _version(name))}
    other = {"reference": versions.about(found)} if (found := versions.other()) else {}
    elsewhere = {} if judged_package().parent == ROOT else {"ltx2_mlx": str(judged_package())}
    for package in REFERENCE:
        if changed := sources.edited(package, package.replace("_", "-"), _package(package)):
            elsewhere[package] = changed
    return {
        "machine": f"{platform.system()} {platform.machine()}, {cpu}, {os.cpu_count()} cores",
        "device": device,
        "python": platform.python_version(),
        **libraries,
        **other,
        **elsewhere,
    }


def judged_package() -> Path:
    """The folder of the ``ltx2_mlx`` that is judged; PYTHONPATH may put another before the one beside this package."""
    return _package("ltx2_mlx") or ROOT / "ltx2_mlx"


@functools.cache
def code_digest() -> str:
    """SHA-256 of the source that decides what a run finds: ours, the harness's (but for its tests), the reference's."""
    digest = hashlib.sha256()
    folders = {"ltx2_mlx": judged_package(), "parity": ROOT / "parity"}
    folders |= {name: found for name in REFERENCE if (found := _package(name))}
    for package, folder in folders.items():
        for file in sorted(folder.rglob("*.py")):
            inside = file.relative_to(folder)
            if inside.parts[0] != "tests":
                digest.update(f"{package}/{inside.as_posix()}={_sha256(file)};".encode())
    return digest.hexdigest()


def _package(name: str) -> Path | None:
    """The folder that an import of this package would read; it is not imported."""
    spec = find_spec(name)
    folders = list(spec.submodule_search_locations or []) if spec else []
    return Path(folders[0]).resolve() if folders else None


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def settings() -> dict[str, str]:
    """All further versions, and the variables of the environment, that may change a number."""
    found = {name: version for name in FURTHER if (version := _version(name))}
    return found | {name: value for name, value in sorted(os.environ.items()) if name.startswith(SETTINGS)}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
