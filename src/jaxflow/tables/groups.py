"""Variables with similar laws as one batch: training compiles a program a group, not a column."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxflow.tables.discrete import Codes, Head, encode
from jaxflow.tables.labels import label_log_prob
from jaxflow.tables.laws import Labels, Law, Steps
from jaxflow.tables.softmax import NEVER
from jaxflow.tables.steps import PARAMETERS, step_log_prob

# Fewest labels of a group; others have the next power of two.
FEWEST = 4

# The heads of a group have as many parameters and inputs; what is not theirs is 0.
Stacked = Head


class Group(NamedTuple):
    """Variables whose heads are stacked, (variables, ...).

    `before` is 1 for the inputs of the cells before each variable, `slots` marks the parameters
    of the law, and `spans` has each `Steps.span`; None for labels.
    """

    before: Float[Array, "variables inputs"]
    slots: Array
    spans: Float[Array, "variables 2"] | None

    def log_prob(
        self, heads: Stacked, inputs: Float[Array, "n inputs"], cells: Float[Array, "n each 4"]
    ) -> Float[Array, "n each"]:
        """Log-probability of each cell given those before it."""
        hidden = jnp.einsum("ni,jhi->jnh", inputs, heads.into * self.before[:, None, :])
        hidden = jnp.tanh(hidden + heads.shift[:, None, :])
        parameters = jnp.einsum("ni,jpi->jnp", inputs, heads.linear * self.before[:, None, :])
        parameters += jnp.einsum("jnh,jph->jnp", hidden, heads.out) + heads.bias[:, None, :]
        parameters = jnp.where(self.slots[:, None, :], parameters, NEVER)
        cells = jnp.swapaxes(cells, 0, 1)
        if self.spans is None:
            return jax.vmap(label_log_prob)(parameters, cells).T
        return jax.vmap(step_log_prob)(parameters, cells, *self.spans.T).T


class Groups(NamedTuple):
    """The groups of a table's variables, and the numbers of the variables of each."""

    groups: tuple[Group, ...]
    members: tuple[Int[np.ndarray, " each"], ...]

    @classmethod
    def of(cls, laws: Sequence[Law]) -> "Groups":
        """Laws of numbers in steps in one group, those of labels by the number of labels."""
        sizes = np.cumsum([0, *(law.num_inputs for law in laws)])
        places: dict[int, list[int]] = {}
        for j, law in enumerate(laws):
            places.setdefault(_width(law), []).append(j)
        groups = []
        for width, numbers in places.items():
            before = np.arange(sizes[-1]) < sizes[numbers][:, None]
            slots = np.stack([np.isin(np.arange(abs(width)), laws[j].slots) for j in numbers])
            steps = [law.span for law in (laws[j] for j in numbers) if isinstance(law, Steps)]
            spans = jnp.asarray(steps, float) if steps else None
            groups.append(Group(jnp.asarray(before, float), jnp.asarray(slots), spans))
        return cls(tuple(groups), tuple(np.array(each) for each in places.values()))

    @property
    def order(self) -> Int[np.ndarray, " variables"]:
        """Numbers of the variables in the order of the groups."""
        return np.concatenate(self.members) if self.members else np.zeros(0, int)

    def rows(self, laws: Sequence[Law], codes: Codes) -> tuple[Array, Array, Array]:
        """Inputs, cells of the table, and which are present, the variables in `order`."""
        parts = [laws[j].cells(codes[:, j], others=True) for j in self.order]
        cells = np.stack(parts, axis=1) if parts else np.zeros((len(codes), 0, 4))
        present = ~np.isnan(codes[:, self.order])
        return (
            jnp.asarray(encode(laws, codes), float),
            jnp.asarray(cells, float),
            jnp.asarray(present),
        )

    def stack(self, models: Sequence[Sequence[Head]], laws: Sequence[Law]) -> tuple[Stacked, ...]:
        """Heads of several models, stacked: (models, variables, ...) for each group."""
        stacked = []
        for group, numbers in zip(self.groups, self.members, strict=True):
            shape = group.slots.shape[1], group.before.shape[1]
            each = [_pad(heads[j], laws[j], *shape) for heads in models for j in numbers]
            lead = len(models), len(numbers)
            leaves = [np.stack(parts) for parts in zip(*each, strict=True)]
            stacked.append(
                Head(*(jnp.asarray(leaf.reshape(*lead, *leaf.shape[1:])) for leaf in leaves))
            )
        return tuple(stacked)

    def unstack(self, stacked: Sequence[Stacked], laws: Sequence[Law]) -> tuple[Head, ...]:
        """The heads of one model, from (variables, ...) for each group."""
        sizes = np.cumsum([0, *(law.num_inputs for law in laws)])
        heads: dict[int, Head] = {}
        for each, numbers in zip(stacked, self.members, strict=True):
            for i, j in enumerate(numbers.tolist()):
                slots, size = laws[j].slots, int(sizes[j])
                parts = (
                    np.asarray(each.bias[i])[slots],
                    np.asarray(each.linear[i])[slots, :size],
                    np.asarray(each.out[i])[slots],
                    np.asarray(each.into[i])[:, :size],
                    np.asarray(each.shift[i]),
                )
                heads[j] = Head(*map(jnp.asarray, parts))
        return tuple(heads[j] for j in range(len(laws)))


def log_prob(
    groups: Sequence[Group], heads: Sequence[Stacked], inputs: Array, cells: Array, present: Array
) -> Float[Array, "n variables"]:
    """Log-probability of each cell of rows, 0 where absent, in the order of the groups."""
    columns, first = [jnp.zeros((len(present), 0))], 0
    for group, each in zip(groups, heads, strict=True):
        last = first + len(group.before)
        columns.append(group.log_prob(each, inputs, cells[:, first:last]))
        first = last
    return jnp.where(present, jnp.concatenate(columns, axis=1), 0.0)


def _width(law: Law) -> int:
    """Number of parameters of a group; negative for labels."""
    if isinstance(law, Labels):
        return -max(FEWEST, 1 << (law.count - 1).bit_length())
    return PARAMETERS


def _pad(head: Head, law: Law, width: int, num_inputs: int) -> tuple[np.ndarray, ...]:
    """The parts of a head with zeros in place of the parameters and inputs that it lacks."""
    bias, linear, out, into, shift = (
        np.asarray(part) for part in (head.bias, head.linear, head.out, head.into, head.shift)
    )
    rows = np.zeros((width, len(bias)), bias.dtype)
    rows[law.slots, np.arange(len(bias))] = 1
    more = (0, 0), (0, num_inputs - linear.shape[1])
    return rows @ bias, np.pad(rows @ linear, more), rows @ out, np.pad(into, more), shift
