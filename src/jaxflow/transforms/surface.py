"""The manifold, base and transform of a table with columns on a manifold."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxflow.bases import Independent, StandardNormal, UniformOn
from jaxflow.manifolds import Euclidean, Manifold, Product, Torus
from jaxflow.transforms.angles import Angles
from jaxflow.transforms.blocks import Blocks
from jaxflow.transforms.chain import Chain
from jaxflow.transforms.groups import Group
from jaxflow.transforms.periodic import Periodic
from jaxflow.transforms.protocol import Transform


class Surface(NamedTuple):
    """Columns on a manifold, and the other columns, which are flat.

    In flow space the places, rotations and unit vectors come first, then the columns with a
    period, in radians, then the others.

    Attributes:
        groups: columns on a manifold, those with a period last.
        others: numbers of the other columns.
        parts: transforms of grids and limits, applied to all columns first.
    """

    groups: tuple[Group, ...]
    others: tuple[int, ...]
    parts: tuple[Any, ...]

    @property
    def curved(self) -> Manifold:
        """The manifold of `groups` alone; its volume is finite."""
        factors: list[Manifold] = [g.manifold for g in self.groups if not isinstance(g, Periodic)]
        if self._periodic:
            factors.append(Torus(len(self._periodic)))
        return factors[0] if len(factors) == 1 else Product(*factors)

    @property
    def manifold(self) -> Manifold:
        """The manifold of all columns."""
        if not self.others:
            return self.curved
        factors = getattr(self.curved, "factors", (self.curved,))
        return Product(*factors, Euclidean(len(self.others)))

    def base(self, of_others: Any = None) -> Any:
        """Uniform on the manifold, times a base of the other columns; None for a normal one."""
        uniform = UniformOn(self.curved)
        if not self.others:
            return uniform
        return Independent((uniform, of_others or StandardNormal(len(self.others))))

    @property
    def columns(self) -> tuple[int, ...]:
        """Numbers of the columns on the manifold, in the order of flow space."""
        return tuple(itertools.chain.from_iterable(group.columns for group in self.groups))

    @property
    def charts(self) -> list[Any]:
        """Transforms of these columns, in the order of flow space."""
        charts: list[Any] = [g.chart for g in self.groups if not isinstance(g, Periodic)]
        if self._periodic:
            periods, starts = zip(*((g.period, g.start) for g in self._periodic), strict=True)
            charts.append(Angles(len(periods), periods, starts))
        return charts

    def transform(self, scaling: Transform | None = None) -> Transform:
        """From rows to points of the manifold, with a scaling of the other columns."""
        blocks = self.charts if scaling is None else [*self.charts, scaling]
        each = Blocks(blocks, (*self.columns, *self.others))
        return Chain((*self.parts, each)) if self.parts else each

    @property
    def _periodic(self) -> Sequence[Periodic]:
        return [group for group in self.groups if isinstance(group, Periodic)]
