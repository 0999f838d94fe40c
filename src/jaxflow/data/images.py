"""Images in files: arrays of NumPy, and folders of pictures."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxflow.data.arrays import load_arrays
from jaxflow.runtime.extras import import_extra

PICTURES = (".png", ".jpg", ".jpeg")
ARRAYS = (".npz", ".npy")


class Images(NamedTuple):
    """Images of a file or a folder.

    Attributes:
        images: (n, height, width, channels), as they are stored.
        labels: class of each image as text, (n,); None for no classes.
        names: file of each image, (n,); None for arrays.
    """

    images: np.ndarray
    labels: np.ndarray | None
    names: list[str] | None


def holds_images(path: str | Path) -> bool:
    """Whether a folder has pictures, or a NumPy file images: an array of 3 axes or more.

    What cannot be read is no image.
    """
    path = Path(path)
    if path.is_dir():
        return next(_pictures(path), None) is not None
    found = False
    if path.suffix.lower() in ARRAYS and path.is_file():
        with contextlib.suppress(ValueError):
            found = any(map(_is_stack, _arrays(path).values()))
    return found


def read_images(path: str | Path) -> Images:
    """Read the images of a file or of a folder, with their classes.

    - `.npz`: the array `images`, or the only one of 3 axes or more, and the array `labels` if
      there is one; `.npy`: that array. (n, height, width, channels), or (n, height, width).
    - a folder of `.png` and `.jpg` files; in sub-folders, which are their classes.

    ```python
    import numpy as np
    from jaxflow.data import read_images

    np.savez("images.npz", images=np.zeros((5, 8, 8), np.uint8), labels=[0, 1, 0, 1, 1])
    images, labels, names = read_images("images.npz")  # (5, 8, 8, 1), five texts, None
    ```

    Args:
        path: the file or folder.

    Returns:
        An `Images`.

    Raises:
        ValueError: no images, or images of several sizes or kinds; names the file.
        ImportError: Pillow is not installed, for a folder.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    arrays = _arrays(path)
    stacks = {name: array for name, array in arrays.items() if _is_stack(array)}
    name = "images" if "images" in stacks else next(iter(stacks), "")
    if len(stacks) != 1 and name != "images":
        raise ValueError(
            f"{path}: {len(stacks)} arrays (n, height, width, channels) among {list(arrays)}; "
            "save the one to read as images: np.savez(path, images=images)"
        )
    images, labels = np.asarray(stacks[name]), arrays.get("labels")
    images = images[..., None] if images.ndim == 3 else images
    if labels is not None and np.shape(labels) != (len(images),):
        raise ValueError(
            f"{path}: labels has shape {np.shape(labels)} for {len(images)} images; give one each"
        )
    return Images(images, None if labels is None else np.asarray(labels).astype(str), None)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a NumPy file by name, without those of Python objects."""
    loaded = load_arrays(path)
    named = loaded if isinstance(loaded, dict) else {"images": loaded}
    return {name: array for name, array in named.items() if array is not None}


def _is_stack(array: np.ndarray) -> bool:
    return array.ndim in (3, 4) and array.dtype.kind in "biuf" and array.size > 0


def _pictures(folder: Path) -> Iterator[Path]:
    """The pictures in a folder and in its sub-folders, in the order of their names."""
    for place in (folder, *sorted(each for each in folder.iterdir() if each.is_dir())):
        yield from sorted(p for p in place.iterdir() if p.suffix.lower() in PICTURES)


def _read_folder(folder: Path) -> Images:
    paths = list(_pictures(folder))
    if not paths:
        raise ValueError(f"{folder}: no {', '.join(PICTURES)} files in it or its sub-folders")
    classes = [path.parent.name for path in paths if path.parent != folder]
    if classes and len(classes) < len(paths):
        raise ValueError(
            f"{folder}: {paths[0].name} lies beside folders of classes; move it into one of them"
        )
    first = _read_picture(paths[0])
    images = np.empty((len(paths), *first.shape), np.uint8)
    for i, path in enumerate(paths):
        image = _read_picture(path)
        if image.shape != first.shape:
            raise ValueError(
                f"{path} is {_kind(image)}, and {paths[0]} is {_kind(first)}: all must be of one "
                "size, all grey or all in colour"
            )
        images[i] = image
    names = [str(path.relative_to(folder)) for path in paths]
    return Images(images, np.array(classes) if classes else None, names)


def _kind(image: np.ndarray) -> str:
    height, width, channels = image.shape
    return f"{'grey' if channels == 1 else 'colour'} of {height} x {width}"


def _read_picture(path: Path) -> np.ndarray:
    """One picture as 8-bit levels, (height, width, 1 or 3)."""
    pil: Any = import_extra("PIL.Image", "images", "reading pictures needs Pillow")
    try:
        with pil.open(path) as opened:
            opened.load()
            mode, picture = opened.mode, opened
    except (OSError, ValueError, SyntaxError) as error:
        raise ValueError(f"{path}: not a complete picture ({error})") from None
    if mode in ("RGBA", "LA", "PA", "P"):
        picture = picture.convert("RGBA")
        if np.asarray(picture)[..., 3].min() < 255:
            raise ValueError(f"{path} is transparent in places: save it without an alpha channel")
    if mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"):
        raise ValueError(f"{path} has pixels of kind {mode}: save it with 8 bits a channel")
    values = np.asarray(picture.convert("L" if mode in ("1", "L", "LA") else "RGB"))
    return values[..., None] if values.ndim == 2 else values
