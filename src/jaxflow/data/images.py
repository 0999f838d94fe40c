"""Images in files: arrays of NumPy, and folders of pictures."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxflow.data.arrays import load_arrays
from jaxflow.runtime.extras import import_extra

PICTURES = (".png", ".jpg", ".jpeg")
# Pictures that are not supported: a folder with one is refused, rather than read in part.
OTHERS = (".bmp", ".gif", ".webp", ".tif", ".tiff", ".jfif", ".jp2", ".avif", ".heic", ".ppm")
ARRAYS = (".npz", ".npy")


# Names of the array of classes in a `.npz` file.
LABELS = ("labels", "y")
Arrays = dict[str, np.ndarray | None]


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
    """Whether a folder has pictures, or a NumPy file an array of 3 axes or more.

    Pictures and arrays that `read_images` refuses count; a damaged file does not.
    """
    path = Path(path)
    if path.is_dir():
        return any(file.suffix.lower() in PICTURES + OTHERS for file in path.rglob("*"))
    if path.suffix.lower() not in ARRAYS or not path.is_file():
        return False
    try:
        arrays = _arrays(path)
    except ValueError:
        return False
    # None is an array of Python objects.
    return arrays.get("images", ()) is None or any(map(_is_stack, arrays.values()))


def read_images(path: str | Path) -> Images:
    """Read the images of a file or of a folder, with their classes.

    - `.npz`: the array `images`, or the only one of 3 axes or more, and the array `labels` or `y`
      if there is one; `.npy`: that array. (n, height, width, channels), or (n, height, width).
    - a folder of `.png` and `.jpg` files; in sub-folders, which are their classes. Pictures of
      other kinds, and in deeper folders, are refused.

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
    if "images" in arrays and arrays["images"] is None:
        raise ValueError(
            f"{path}: images is an array of Python objects, such as images of several sizes; save "
            "one array (n, height, width, channels) of images of one size"
        )
    if len(stacks) != 1 and name != "images":
        raise ValueError(
            f"{path}: {len(stacks)} arrays (n, height, width, channels) among {list(arrays)}; "
            "save the one to read as images: np.savez(path, images=images)"
        )
    images = np.asarray(stacks[name])
    if images.ndim > 4:
        raise ValueError(
            f"{path}: {name} has shape {images.shape}; needed are (n, height, width, channels), "
            "or (n, height, width) for grey images"
        )
    images = images[..., None] if images.ndim == 3 else images
    labels = _labels(arrays, len(images), path)
    return Images(images, None if labels is None else labels.astype(str), None)


def _labels(arrays: Arrays, num: int, path: Path) -> np.ndarray | None:
    """The array `labels` or `y`; raise ValueError for others that look like classes."""
    name = next((name for name in LABELS if name in arrays), None)
    if name is None:
        for other, array in arrays.items():
            if array is not None and array.shape == (num,) and array.dtype.kind in "biuUS":
                raise ValueError(
                    f"{path}: {other} has an entry for each image; save it as labels if it holds "
                    "their classes, or leave it out of the file"
                )
        return None
    labels = arrays[name]
    if labels is None:
        raise ValueError(f"{path}: {name} is an array of Python objects; save {name}.astype(str)")
    if labels.shape != (num,):
        raise ValueError(
            f"{path}: {name} has shape {labels.shape} for {num} images; give one each"
        )
    return labels


def _arrays(path: Path) -> Arrays:
    """The arrays of a NumPy file by name."""
    loaded = load_arrays(path)
    return loaded if isinstance(loaded, dict) else {"images": loaded}


def _is_stack(array: np.ndarray | None) -> bool:
    return array is not None and array.ndim > 2 and array.dtype.kind in "biuf" and array.size > 0


def _pictures(folder: Path) -> list[Path]:
    """The pictures in a folder and in its sub-folders, in the order of their names.

    Raises ValueError if there are none, or if others would be left out.
    """
    pictures, left_out = [], []
    for path in sorted(folder.rglob("*"), key=lambda path: (path.parent, path)):
        if path.suffix.lower() in PICTURES + OTHERS:
            deep = path.parent != folder and path.parent.parent != folder
            (left_out if deep or path.suffix.lower() in OTHERS else pictures).append(path)
    kinds = ", ".join(PICTURES)
    if left_out:
        raise ValueError(
            f"{folder}: {len(left_out)} pictures would be left out, such as {left_out[0]}: give "
            f"{kinds} files, in the folder or in folders of classes right in it"
        )
    if not pictures:
        raise ValueError(f"{folder}: no {kinds} files in it or its sub-folders")
    return pictures


def _read_folder(folder: Path) -> Images:
    paths = _pictures(folder)
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
