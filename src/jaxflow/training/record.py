"""What `fit` records at each validation."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, final

from jaxflow.training.history import History


@final
@dataclass(frozen=True)
class Record(Mapping[str, int | float]):
    """One validation of `fit`, as a callback gets it; also a mapping from names to numbers.

    ```python
    from jaxflow.training import Record

    record = Record(100, 1.5, 1.4, 1.41, 44.0, 2e-3, 3.2)
    print(record.validation, record["validation"], dict(record))
    ```

    Attributes:
        step: updates so far.
        loss: mean loss since the last validation; for likelihood in nats and data units.
        validation: mean negative log-density of the validation rows by the evaluation solver, in
            nats and data units, or the objective's own value.
        coarse: the same by the training solver.
        num_evals: mean number of field evaluations of a validation row.
        learning_rate: of the last update; NaN if the optimizer does not state it.
        seconds: since the start of the training.
        stage: number of the stage of a `Staged` objective, from 0. Losses of different stages are
            different quantities.
    """

    step: int
    loss: float
    validation: float
    coarse: float
    num_evals: float
    learning_rate: float
    seconds: float
    stage: int = 0

    def __getitem__(self, name: str) -> int | float:
        if name not in COLUMNS:
            raise KeyError(name)
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        return iter(COLUMNS)

    def __len__(self) -> int:
        return len(COLUMNS)


COLUMNS = tuple(field.name for field in fields(Record))
Callback = Callable[[Record], bool | None]


def new_history() -> History:
    """A history without a record."""
    return History({name: [] for name in COLUMNS})


def append_record(history: History, record: Record) -> None:
    """Add a record at the end of a history."""
    for name, value in record.items():
        history[name].append(value)


def records_of(history: History) -> list[Record]:
    """The records of a history."""
    columns: Any = history.values()
    return [Record(**dict(zip(history, row, strict=True))) for row in zip(*columns, strict=True)]


def progress_text(record: Record) -> str:
    """The record in a line."""
    text = f"loss {record['loss']:.3f}  validation loss {record['validation']:.3f} nats"
    return text + (f"  {record['num_evals']:.0f} evaluations" if record["num_evals"] else "")
