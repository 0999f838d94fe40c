"""Images in files: what is read, and what is wrong with a file by name."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxflow.data import read_images
from jaxflow.data.images import holds_images

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 5, 4), np.uint8)


def write(folder, values, names):
    for value, name in zip(values, names, strict=True):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(value).save(path)
    return folder


def test_a_folder_of_classes_is_its_pictures_and_labels(tmp_path):
    names = [f"{'cat' if i < 4 else 'dog'}/{i}.png" for i in range(6)]
    read = read_images(write(tmp_path, GREY, names))
    np.testing.assert_array_equal(read.images, GREY[..., None])
    assert read.labels is not None
    assert read.labels.tolist() == ["cat"] * 4 + ["dog"] * 2
    assert read.names == names
    assert holds_images(tmp_path)


def test_a_folder_without_classes_in_colour(tmp_path):
    colour = RNG.integers(0, 256, (3, 5, 4, 3), np.uint8)
    # A palette and opaque alpha are colours too.
    write(tmp_path, colour[:2], ["a.png", "b.png"])
    opaque = np.concatenate([colour[2], np.full((5, 4, 1), 255, np.uint8)], axis=-1)
    write(tmp_path, [opaque], ["c.png"])
    (tmp_path / "notes.txt").write_text("not an image")
    read = read_images(tmp_path)
    np.testing.assert_array_equal(read.images, colour)
    assert read.labels is None


@pytest.mark.parametrize("name", ["images", "x"])
def test_arrays_keep_their_values_and_labels(tmp_path, name):
    path = tmp_path / "images.npz"
    arrays: dict[str, Any] = {name: GREY, "weights": np.ones((6, 2))}
    np.savez(path, labels=np.arange(6), **arrays)
    images, labels, names = read_images(path)
    np.testing.assert_array_equal(images[..., 0], GREY)
    assert (labels is not None and labels.tolist(), names) == (list("012345"), None)
    np.save(tmp_path / "images.npy", GREY)
    assert read_images(tmp_path / "images.npy").images.shape == (6, 5, 4, 1)


def test_tables_and_what_cannot_be_read_hold_no_images(tmp_path):
    np.savez(tmp_path / "table.npz", x=np.ones((5, 2)))
    (tmp_path / "damaged.npz").write_bytes(b"PK")
    (tmp_path / "empty").mkdir()
    for name in ("table.npz", "damaged.npz", "empty", "none.npz"):
        assert not holds_images(tmp_path / name)


@pytest.mark.parametrize(
    ("values", "names", "said"),
    [
        ([GREY[0], GREY[1, :4]], ["a.png", "b.png"], r"b.png is grey of 4 x 4, and .*grey of 5 x"),
        ([GREY[0], np.stack([GREY[1]] * 3, -1)], ["a.png", "b.png"], r"b.png is colour of 5 x 4"),
        ([GREY[0], GREY[1]], ["a.png", "cat/b.png"], "a.png lies beside folders of classes"),
        ([np.stack([GREY[0]] * 4, -1)], ["a.png"], "a.png is transparent in places"),
        ([GREY[0].astype(np.uint16)], ["a.png"], "save it with 8 bits a channel"),
    ],
)
def test_pictures_of_several_kinds_are_named(tmp_path, values, names, said):
    with pytest.raises(ValueError, match=said):
        read_images(write(tmp_path, values, names))


@pytest.mark.parametrize("name", ["a/deeper/b.png", "a/b.bmp", "c.gif"])
def test_pictures_that_would_be_left_out_are_named(tmp_path, name):
    write(tmp_path, GREY[:2], ["a/a.png", name])
    assert holds_images(tmp_path)
    with pytest.raises(ValueError, match=rf"pictures would be left out, such as .*{name}"):
        read_images(tmp_path)


def test_other_names_of_labels_are_read_or_refused(tmp_path):
    path = tmp_path / "images.npz"
    np.savez(path, x=GREY, y=np.arange(6))
    labels = read_images(path).labels
    assert labels is not None
    assert labels.tolist() == list("012345")
    np.savez(path, x=GREY, target=np.arange(6))
    with pytest.raises(ValueError, match="target has an entry for each image; save it as labels"):
        read_images(path)
    np.savez(path, x=GREY, labels=np.array([{}], object))
    with pytest.raises(ValueError, match=r"save labels.astype\(str\)"):
        read_images(path)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.array([GREY[0], GREY[1, :4]], object), "Python objects, such as images of several"),
        (GREY[None, ..., None], r"images has shape \(1, 6, 5, 4, 1\); needed are \(n, height"),
    ],
)
def test_arrays_of_several_sizes_or_of_five_axes_are_refused(tmp_path, array, said):
    path = tmp_path / "images.npz"
    np.savez(path, images=array, allow_pickle=True)
    assert holds_images(path)
    with pytest.raises(ValueError, match=said):
        read_images(path)


def test_a_damaged_picture_and_arrays_that_do_not_fit_are_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    with pytest.raises(ValueError, match=r"a.png: not a complete picture"):
        read_images(tmp_path)
    path = tmp_path / "images.npz"
    np.savez(path, a=GREY, b=GREY)
    with pytest.raises(ValueError, match="save the one to read as images"):
        read_images(path)
    np.savez(path, images=GREY, labels=np.arange(5))
    with pytest.raises(ValueError, match=r"labels has shape \(5,\) for 6 images"):
        read_images(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a complete NumPy file"):
        read_images(path)
