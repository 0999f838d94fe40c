"""Kinds of table columns: what each detects, how it is described, coded and printed.

To add a kind, write a class with the methods of the others and put it into `DETECTED`.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxflow.tables.cells import COMPACT, ORDERS, WHOLE, Cells, is_code
from jaxflow.tables.curved import as_angles
from jaxflow.tables.dates import Date
from jaxflow.tables.laws import Labels, Law
from jaxflow.tables.numeric import Number, Whole
from jaxflow.tables.spacing import are_frequent, is_whole
from jaxflow.transforms.kinds import ATOM_ROWS

# Text with more different cells than this, or than this share of the rows, tells rows apart. So
# few rows show nothing.
MAX_LABELS, OWN_SHARE, OWN_ROWS = 1000, 0.5, 20
# Names of numbers that tell rows apart if each occurs once: id, row_id, CustomerID, Unnamed: 0.
_ID_NAME = re.compile(
    r"(?i:^unnamed: \d+$|(^|[^a-z])(id|rowid|uid|index|rownames?|row)$)|[a-z](ID|Id)$"
)
# Text that differs so much and has this many words a cell is prose.
FREE_WORDS = 4
# Durations such as 1:30, 01:30:00.5, 90 min, 1h 30m, PT1H30M.
_UNIT = r"(d|days?|h|hr|hours?|m|mins?|minutes?|s|sec|seconds?|ms)"
_DURATION = re.compile(
    rf"-?\d+:\d\d(:\d\d(\.\d+)?)?|P[\dDTHMS.]+|(\d+(\.\d+)? ?{_UNIT} ?)+", re.IGNORECASE
)
# Text of which at least this share is numbers or dates, and at most this share other words, is
# refused: the words are gaps, or mistakes.
MOSTLY, WORDS = 0.5, 0.1
# At most so many different numbers are labels beside words, or where hardly two are neighbours.
MOST_NUMBERS = 20
# Amounts and percentages as text.
_SIGNED = re.compile(r"-?[$€£¥] ?-?[\d.,]+|-?[\d.,]+ ?[$€£¥%]")
# Frequent numbers are labels if they fill less than this share of their range.
FILLED = 0.5

Codes = Float[np.ndarray, " n"]


def repeat_as_labels(known: np.ndarray) -> bool:
    """Whether few numbers or dates differ: at most a tenth or, of few rows, half."""
    different = len(set(known))
    share = OWN_SHARE if len(known) < OWN_ROWS else 1 / ATOM_ROWS
    return different <= min(MOST_NUMBERS, share * len(known))


@dataclass(frozen=True)
class Category:
    """Labels, the frequent ones first: text, truth values, codes, or the only value there is."""

    labels: tuple[str, ...]
    type: str = "text"

    @classmethod
    def detect(cls, cells: Cells) -> "Category | None":
        """Text, truth values, and numbers with at most two values."""
        if cells.are_numbers and len(np.unique(cells.known)) > 2:
            return None
        return cls.of(cells)

    @classmethod
    def few(cls, cells: Cells) -> "Category | None":
        """Numbers with few values, each in many rows."""
        counts = np.unique(cells.known, return_counts=True)[1]
        return cls.of(cells) if are_frequent(counts) else None

    @classmethod
    def scattered(cls, cells: Cells) -> "Category | None":
        """As `few`, but only if most numbers in the range never occur, as in 2500, 7500, 200000.

        If hardly any two are neighbours, it is enough that few differ.
        """
        steps = Whole.detect(cells)
        if steps is None:
            return None
        values = np.unique(cells.known)
        gaps = np.diff(values) / steps.step
        if len(values) >= FILLED * (gaps.sum() + 1):
            return None
        apart = np.median(gaps) > 1.5 and repeat_as_labels(cells.known)
        return cls.of(cells) if apart else cls.few(cells)

    @classmethod
    def of(cls, cells: Cells) -> "Category":
        """A category with the labels of these cells."""
        labels, counts = np.unique(cells.text[~cells.missing], return_counts=True)
        order = np.argsort(-counts, kind="stable")
        kind = {"b": "bool", "i": "number", "u": "number", "f": "number"}
        codes = all(isinstance(cell, Integral) for cell in cells.known)
        found = kind.get(cells.raw.dtype.kind, "number" if codes else "text")
        if found == "text" and set(labels) <= {"true", "false"}:
            found = "bool"
        return cls(tuple(str(labels[i]) for i in order), found)

    def describe(self) -> str:
        """The number of labels, and some of them."""
        if len(self.labels) == 1:
            return f"constant, {self.labels[0]}"
        shown = ", ".join(self.labels[:4]) + (", ..." if len(self.labels) > 4 else "")
        return f"category with {len(self.labels)} labels: {shown}"

    def law(self, codes: Codes) -> Law:
        """The law of the codes."""
        return Labels(len(self.labels))

    def encode(self, cells: Cells) -> Codes:
        """Numbers of the labels; raises ValueError for an unknown one."""
        place = {label: float(i) for i, label in enumerate(self.labels)}
        codes = np.array([place.get(text, -1.0) for text in cells.text])
        known = ", ".join(self.labels[:20]) + (", ..." if len(self.labels) > 20 else "")
        cells.refuse(codes < 0, f"the labels are {known}")
        return np.where(cells.missing, np.nan, codes)

    def decode(self, codes: Codes) -> np.ndarray:
        """Labels of codes, with the type that they had."""
        texts = np.array(self.labels, object)[np.nan_to_num(codes).astype(int)]
        if self.type == "bool":
            return texts == "true"
        if self.type == "number":
            if all(map(WHOLE.fullmatch, self.labels)):
                return np.array([int(label) for label in texts])
            values = texts.astype(float)
            return values.astype(int) if (values == np.floor(values)).all() else values
        return texts


@dataclass(frozen=True)
class Ignored:
    """A column that is left out of the density, and why."""

    reason: str = "left out as you said"

    @classmethod
    def detect(cls, cells: Cells) -> "Ignored | None":
        """A column without cells, or whose cells tell rows apart: names, prose, durations."""
        known = cells.known
        if not len(known):
            return cls("every cell is missing")
        if len(known) < OWN_ROWS:
            return None
        if cells.are_numbers:
            # A series of years is no number of the row.
            if known[0] in (0, 1) and (np.diff(known) == 1).all():
                return cls("an identifier: the number of the row")
            is_once = is_whole(known) and len(set(known)) == len(known)
            named = _ID_NAME.search(cells.name) is not None
            return cls("an identifier: each number occurs once") if is_once and named else None
        texts = [str(cell) for cell in cells.text[~cells.missing]]
        distinct = len(set(texts))
        if distinct <= MAX_LABELS and distinct <= OWN_SHARE * len(known):
            return None
        if all(map(_DURATION.fullmatch, texts)):
            return cls("durations as text: write them as numbers, such as minutes")
        words = sum(len(text.split()) for text in texts) / len(texts)
        word = "free text" if words >= FREE_WORDS else "an identifier"
        return cls(f"{word}: {distinct} different cells in {len(known)} rows")

    def describe(self) -> str:
        """The reason."""
        return f"left out: {self.reason}"


def refuse_words(cells: Cells) -> None:
    """Refuse text that is numbers or dates but for a few words: it is no identifier.

    A few numbers that repeat are labels beside other words, and so are codes.
    """
    is_text = cells.raw.dtype.kind == "O" and len(cells.known) > 0
    if not is_text or any(map(is_code, cells.known)):
        return
    texts = cells.text[~cells.missing]
    signed = np.array([_SIGNED.fullmatch(text) is not None for text in texts], bool)
    if signed.mean() >= MOSTLY and not repeat_as_labels(texts[signed]):
        raise ValueError(
            f"column {cells.name!r}: {signed.sum()} of {len(texts)} cells are numbers with a "
            f"sign, such as {texts[signed][0]}: write the numbers alone, or name a kind, "
            f"{_naming(cells.name, 'category')}"
        )
    for sort, found in _numbers_or_dates(cells):
        words = sorted(set(texts[~found]))
        if found.mean() < MOSTLY or len(words) > max(1, WORDS * len(texts)):
            continue
        if repeat_as_labels(texts[found]) or (sort == "dates" and not words):
            continue
        kind = _naming(cells.name, "category")
        many = f"column {cells.name!r}: {found.sum()} of {len(texts)} cells are {sort}"
        if not words:
            raise ValueError(f"{many} as text: convert them, or name a kind, {kind}")
        shown, more = words[:4], f" and {len(words) - 4} more" if len(words) > 4 else ""
        options = " ".join(f"--null {shlex.quote(word)}" for word in shown)
        raise ValueError(
            f"{many}, {', '.join(map(repr, shown))}{more} {'is' if len(words) == 1 else 'are'} "
            f"not: {options} (in Python null={shown}) for gaps; else name a kind, {kind}"
        )


def _naming(name: str, kind: str) -> str:
    return f"--kind {shlex.quote(f'{name}={kind}')} (in Python kinds={{{name!r}: {kind!r}}})"


def _numbers_or_dates(cells: Cells) -> Iterator[tuple[str, np.ndarray]]:
    """Which of the known cells are numbers, and which are dates, in each order."""
    known = ~cells.missing
    yield "numbers", ~np.isnan(cells.numbers[known])
    rows = np.flatnonzero(known)
    # Some cells exclude most columns.
    some = cells.take(rows[:: max(1, len(rows) // 100)])
    for order in ("", COMPACT, *ORDERS):
        if np.mean(~np.isnat(some.times(order))) >= MOSTLY / 2:
            yield "dates", ~np.isnat(cells.times(order)[known])


Kind = Category | Whole | Date | Number | Ignored

# In the order of detection; all that comes after `Category.detect` sees numbers only.
DETECTED: tuple[Any, ...] = (
    Date.detect,
    refuse_words,
    Ignored.detect,
    Category.detect,
    Category.scattered,
    Whole.detect,
    Category.few,
    Number.detect,
)

# How a user names a kind.
NAMED: dict[str, Any] = {
    "category": Category.of,
    "count": Whole.count,
    "whole": Whole.whole,
    "date": Date.of,
    "continuous": lambda cells: Number.within(cells, -np.inf, np.inf),
    "positive": lambda cells: Number.within(cells, 0.0, np.inf),
    "identifier": lambda cells: Ignored(),
}


def kind_of(cells: Cells, wanted: Any = None) -> Kind:
    """The kind of a column; `wanted` is a name in `NAMED`, limits, a period, or None to detect it.

    Raises ValueError if it is unknown, or does not fit the cells.
    """
    if wanted is None or not len(cells.known):
        return next(kind for detect in DETECTED if (kind := detect(cells)) is not None)
    if isinstance(wanted, tuple | list) and len(wanted) == 2:
        return Number.within(cells, float(wanted[0]), float(wanted[1]))
    if isinstance(wanted, str) and wanted.partition(":")[0] == "periodic":
        return as_angles(cells, wanted)
    if not isinstance(wanted, str) or wanted not in NAMED:
        raise ValueError(
            f"kinds[{cells.name!r}]={wanted!r} is unknown; choose {', '.join(NAMED)}, "
            "periodic:360, or limits such as (0, 1)"
        )
    return NAMED[wanted](cells)
