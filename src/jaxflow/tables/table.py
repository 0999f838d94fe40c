"""`FittedTable`: the joint density of a table, its samples, marginals and conditionals."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from jaxflow.density.error import LogDensity
from jaxflow.runtime.checks import check_count
from jaxflow.runtime.keys import check_key, host_seed
from jaxflow.tables.cells import Cells
from jaxflow.tables.continuous import Continuous
from jaxflow.tables.discrete import Autoregressive
from jaxflow.tables.frames import Frame, read_cells
from jaxflow.tables.partial import Known, complete
from jaxflow.tables.plan import Coded, Plan
from jaxflow.training.comparison import Comparison

# Most times that numbers are drawn again that meet an atom, and what else makes them unlikely.
REDRAWS, UNLIKELY = 20, -700.0


class FittedTable(eqx.Module):
    """The joint density of the rows of a table, by `jaxflow.fit_table`.

    ```
    p(row) = P(gaps) P(discrete cells | gaps) p(continuous cells | discrete cells, gaps)
    ```
    It counts discrete cells and integrates over continuous ones, in the units of the table:
    summed over all discrete cells and integrated over all numbers it is 1. Labels, counts, dates
    and numbers in steps are discrete, and so are values of continuous columns that many rows share
    (atoms) and whether a cell is missing.

    Attributes:
        plan: the kinds of the columns; `print` shows them.
        discrete: probabilities of the discrete cells.
        continuous: density of the continuous ones; None if there are none.
        comparison: held-out log-densities beside those of simple densities.
        steps: number of updates of the flow; 0 where it stayed the Gaussian that it starts from.
    """

    plan: Plan = eqx.field(static=True)
    discrete: Autoregressive
    continuous: Continuous | None
    comparison: Comparison = eqx.field(static=True)
    steps: int = eqx.field(static=True)

    def __str__(self) -> str:
        return f"{self.plan}\n{self.comparison}"

    def log_prob(self, frame: Frame) -> Float[np.ndarray, " rows"]:
        """Log-density of each row, in nats.

        Args:
            frame: rows with the columns that were fitted, in any order, as for `fit_table`.

        Returns:
            Log-densities, (rows,), in float64.

        Raises:
            ValueError: a column is absent, or cells do not fit their columns (rows and columns
                named): an unknown label, a number beyond the limits, a gap where there was none.
            SolveError: the solve of a row failed.
        """
        return self.log_prob_coded(self._read(read_cells(frame, self.plan.null)))

    def log_prob_with_error(self, frame: Frame) -> LogDensity:
        """Log-density of each row with the error of the solve of its continuous cells.

        The log-probabilities of discrete cells are sums, in float64, without such an error.

        Args:
            frame: as for `log_prob`.

        Returns:
            A `jaxflow.density.error.LogDensity` of NumPy arrays, (rows,).

        Raises:
            ValueError, SolveError: as `log_prob`.
        """
        rows = self._read(read_cells(frame, self.plan.null))
        log_p = self.discrete.log_prob(rows.codes).sum(axis=1)
        if self.continuous is None:
            none, zero = np.zeros(len(log_p)), np.zeros(len(log_p), int)
            parts: Any = (log_p, none, none, log_p, zero, zero)
            return LogDensity(*parts)
        conditions = self.continuous.conditions(rows.codes, self.discrete.encode(rows.codes))
        answer: Any = self.continuous.log_prob_with_error(rows.y, conditions)
        more = log_p - np.where(conditions.seen, self.plan.log_scales, 0.0).sum(axis=1)
        return answer._replace(value=answer.value + more, refined=answer.refined + more)

    def sample(self, key: PRNGKeyArray, num: int) -> Frame:
        """Draw rows: a frame of the sort that was fitted, with gaps as often as there were.

        Args:
            key: random key.
            num: number of rows.

        Returns:
            A pandas or polars frame (polars for files), or a dict of columns. Labels, whole
            numbers and dates are as they were, and numbers lie strictly within their limits.
        """
        check_key(key)
        return self.plan.write(self.draw(key, check_count("num", num)))

    def marginal(
        self, frame: Frame, key: PRNGKeyArray, *, draws: int = 256
    ) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
        """Log-density of the cells that are there, whatever the others are.

        Missing labels are summed over, exactly, where there are at most 512 combinations; over
        other missing cells the mean of importance weights is taken.

        Args:
            frame: rows with gaps; columns may be absent.
            key: for the draws.
            draws: draws of the missing cells of a row, at least 2.

        Returns:
            Log-densities in nats, (rows,), and their standard errors, (rows,), 0 where exact.

        Raises:
            ValueError: as `log_prob`.
        """
        check_key(key)
        draws = check_count("draws", draws, 2)
        rows = self._read(read_cells(frame, self.plan.null), partial=True)
        known = Known.of(self.plan, rows, complete=False)
        log_p, error = np.zeros((2, len(rows.y)))
        for i, (index, part) in enumerate(known.patterns()):
            found = complete(
                self.discrete, self.continuous, part, jax.random.fold_in(key, i), draws
            )
            values, errors = found.log_density(len(part.seen), draws)
            log_p[index], error[index] = values[: len(index)], errors[: len(index)]
        return log_p - np.where(known.seen, self.plan.log_scales, 0.0).sum(axis=1), error

    def impute(self, frame: Frame, key: PRNGKeyArray, *, draws: int = 64) -> Frame:
        """Fill gaps by draws from their density given the cells that are there.

        Missing cells are taken to be as in rows without gaps (missing at random). Each row's
        fillings are `draws` draws, of which one is chosen by importance weights; where only labels
        are missing the draw is exact.

        Args:
            frame: rows with gaps; columns may be absent.
            key: for the draws; another key fills in other values.
            draws: draws of the missing cells of a row.

        Returns:
            A frame without gaps, of the sort that was fitted.

        Raises:
            ValueError: as `log_prob`.
        """
        check_key(key)
        draws = check_count("draws", draws)
        cells = read_cells(frame, self.plan.null)
        rows = self._read(cells, partial=True)
        known = Known.of(self.plan, rows, complete=True)
        codes, y = rows.codes.copy(), rows.y.copy()
        for i, (index, part) in enumerate(known.patterns()):
            drawn = self._draw(part, jax.random.fold_in(key, i), draws, 1)
            codes[index], y[index] = (each[: len(index)] for each in drawn)
        return self.plan.write(Coded(codes, y), cells)

    def condition(
        self,
        given: Mapping[str, Any] | None = None,
        /,
        *,
        key: PRNGKeyArray | None = None,
        draws: int = 4096,
        **cells: Any,
    ) -> "ConditionalTable":
        """The density of the other columns given some cells.

        ```python
        import jax
        import numpy as np
        import jaxflow

        rng = np.random.default_rng(0)
        city = rng.choice(["Oslo", "Rome"], 60)
        frame = {"city": city, "degrees": rng.normal(np.where(city == "Oslo", 5.0, 18.0))}
        table = jaxflow.fit_table(frame, key=jax.random.key(0), steps=25)
        oslo = table.condition(city="Oslo")
        rows = oslo.sample(jax.random.key(1), 5)
        ```

        Args:
            given: cells by the name of their column, for names that are no words of Python.
            key: for the draws; None for a fixed key.
            draws: draws for `p(given)` where it cannot be summed exactly, at least 2.
            cells: cells by the name of their column.

        Raises:
            ValueError: a column is unknown, or a cell does not fit it or is missing.
        """
        cells = {**(given or {}), **cells}
        unknown = [name for name in cells if name not in self.plan.names]
        if unknown or not cells:
            out = {each.name: each.kind.describe() for each in self.plan.columns}
            why = [f"; {name!r} was {out[name]}" for name in unknown if name in out]
            raise ValueError(
                f"given names {unknown}: name one or more of the columns {self.plan.names}"
                + "".join(why)
            )
        frame = _repeat(cells, 1)
        gaps = [name for name, each in frame.items() if each.missing.any()]
        if gaps:
            raise ValueError(f"the given cells of {gaps} are missing: leave these columns out")
        key = jax.random.key(0) if key is None else key
        log_p, error = self.marginal(frame, key, draws=draws)
        rows = self._read(frame, partial=True)
        known = Known.of(self.plan, rows, complete=False)
        return ConditionalTable(self, known, cells, float(log_p[0]), float(error[0]))

    def _read(self, cells: Mapping[str, Cells], *, partial: bool = False) -> Coded:
        """Coded rows; raises ValueError for a number that the precision takes for a limit."""
        rows = self.plan.read_cells(cells, partial=partial, gaps=partial)
        precision = jnp.finfo(jnp.result_type(float))
        with np.errstate(over="ignore", invalid="ignore"):
            y = rows.y.astype(precision.dtype).astype(np.float64)
            near = np.abs(y[:, None] - self.plan.limits).min(axis=1)
        wrong = np.isinf(y) | (near < float(precision.tiny))
        faults = []
        for j, row in zip(self.plan.numbers, wrong.argmax(axis=0), strict=True):
            if wrong[row, self.plan.numbers.index(j)]:
                cell = cells[self.plan.columns[j].name]
                faults.append(f"column {cell.name!r} has {cell.raw[row]} in row {row}")
        if faults:
            raise ValueError(
                f"{'; '.join(faults)}: {precision.dtype} takes it for a limit or for infinity; "
                'compute in float64, jax.config.update("jax_enable_x64", True) before the fit '
                "(command line: jaxflow fit --float64)"
            )
        return rows

    def _draw(self, known: Known, key: PRNGKeyArray, draws: int, each: int) -> Coded:
        """`each` draws of the unknown cells of rows with one pattern of known cells."""
        count, (key, number_key) = len(known.rows.y), jax.random.split(key)
        found = complete(self.discrete, self.continuous, known, key, draws)
        if not found.exact:
            unlikely = UNLIKELY * self.plan.meet_atoms(found.rows)
            found = found._replace(log_weight=found.log_weight + unlikely)
        chosen = found.choose(count, each, host_seed(key))
        codes, y = (part[chosen] for part in found.rows)
        if not known.seen.any():
            y = self.sample_numbers(number_key, codes)
        return Coded(codes, y)

    def log_prob_coded(self, rows: Coded) -> Float[np.ndarray, " rows"]:
        """Log-density of coded rows, in the units of the table."""
        log_p = self.discrete.log_prob(rows.codes).sum(axis=1)
        if self.continuous is None:
            return log_p
        conditions = self.continuous.conditions(rows.codes, self.discrete.encode(rows.codes))
        log_p = log_p + self.continuous.log_prob(rows.y, conditions)
        return log_p - np.where(conditions.seen, self.plan.log_scales, 0.0).sum(axis=1)

    def draw(self, key: PRNGKeyArray, num: int) -> Coded:
        """Draw coded rows."""
        discrete_key, key = jax.random.split(key)
        codes = self.discrete.sample(discrete_key, np.zeros((num, len(self.plan.variables))))
        return Coded(codes, self.sample_numbers(key, codes))

    def sample_numbers(self, key: PRNGKeyArray, codes: np.ndarray) -> np.ndarray:
        """Codes of the continuous columns of rows with these discrete cells.

        Numbers that would be rounded to an atom of their column are drawn again: the atom has its
        own probability.
        """
        if self.continuous is None:
            return np.zeros((len(codes), 0))
        inputs = self.discrete.encode(codes)
        y = np.array(self.continuous.sample(key, self.continuous.conditions(codes, inputs)))
        for number in range(REDRAWS):
            met = np.flatnonzero(self.plan.meet_atoms(Coded(codes, y)))
            if not len(met):
                break
            # Few sizes, for few compilations.
            rows = np.resize(met, 1 << (len(met) - 1).bit_length())
            again = self.continuous.conditions(codes[rows], inputs[rows])
            drawn = self.continuous.sample(jax.random.fold_in(key, number), again)
            y[met] = drawn[: len(met)]
        return y


class ConditionalTable(eqx.Module):
    """The density of some columns of a table given cells of others: `FittedTable.condition`.

    Attributes:
        table: the joint density.
        known: the given cells, as one row.
        given: the given cells by column.
        log_p_given: log-density of the given cells, in nats.
        standard_error: its standard error, 0 where it is exact; all values of `log_prob` share
            this error.
    """

    table: FittedTable
    known: Known
    given: dict[str, Any] = eqx.field(static=True)
    log_p_given: float
    standard_error: float

    def log_prob(self, frame: Frame) -> Float[np.ndarray, " rows"]:
        """Log-density of the other cells of rows, `log p(row) - log p(given)`, in nats.

        Args:
            frame: rows without the given columns.
        """
        cells = read_cells(frame, self.table.plan.null)
        twice = [name for name in self.given if name in cells]
        if twice:
            raise ValueError(f"frame has the columns {twice}, which are given: leave them out")
        count = len(next(iter(cells.values())))
        rows = self.table._read(cells | _repeat(self.given, count))
        return self.table.log_prob_coded(rows) - self.log_p_given

    def sample(self, key: PRNGKeyArray, num: int, *, draws: int = 8) -> Frame:
        """Draw rows with the given cells.

        Where the density of the given cells is exact, so are the draws. Elsewhere rows are chosen
        by importance weights among `draws` times as many.

        Args:
            key: random key.
            num: number of rows.
            draws: as above.
        """
        check_key(key)
        most = max(check_count("draws", draws) * check_count("num", num), 4096)
        return self.table.plan.write(self.table._draw(self.known, key, most, num))


def _repeat(given: Mapping[str, Any], count: int) -> dict[str, Cells]:
    return {n: Cells.of(n, np.array([cell] * count, object)) for n, cell in given.items()}
