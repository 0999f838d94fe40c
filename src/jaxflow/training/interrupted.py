"""What remains of a training whose callback raised."""

from typing import Any

import jax

from jaxflow.training.checkpoints import Store


def keep(error: BaseException, run: Any, store: Store | None) -> None:
    """Give the error the flow and the history so far, save the state, and say where they are."""
    error.__dict__.update(flow=run.result(), history=run.history)
    where = "error.flow has the best weights so far, and error.history the records"
    # Several processes save together, and the others may not have raised.
    if store is not None and jax.process_count() == 1:
        try:
            run.save(store)
            store.wait()
            where += f"; fit(..., resume=True) goes on from checkpoint={store.name!r}"
        except Exception as failure:  # the first error is the one to report
            where += f"; checkpoint={store.name!r} could not be written: {failure}"
    error.add_note(f"a callback of fit raised this after step {run.step}: {where}")
