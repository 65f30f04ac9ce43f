"""Whether the SAE file that --out names can be written."""

from pathlib import Path

from ...sae_ops.atomic_write import check_writable


def check_out(path: Path, overwrite: bool, suffixes: tuple[str, ...] = (".safetensors",)) -> None:
    """Raises ValueError, before any work, if no SAE file can or may be written there."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder. Name the file as well: {path / 'sae.safetensors'}")
    if path.suffix not in suffixes:
        raise ValueError(f"ComfyUI would not list {path}. Name it {path.name}.safetensors")
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists. Choose another --out, or pass --overwrite to replace it.")
    try:
        check_writable(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error.strerror}). Choose another --out.") from error
