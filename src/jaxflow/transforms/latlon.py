"""A chart of the sphere: latitude and longitude."""

import math
from typing import final

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxflow.runtime.checks import check_choice, check_event
from jaxflow.runtime.shapes import ArrayInput, Event, Scalar
from jaxflow.transforms.samples import checked_rows


@final
class LatLon(eqx.Module):
    """Latitude and longitude, as a unit vector of 3 entries.

    ```
    u = (cos(lat) cos(lon), cos(lat) sin(lon), sin(lat))
    ```
    The surface measure of the sphere is `cos(lat) dlat dlon`. By default log-densities are those
    of the two columns in their own units, for which a pole counts as the nearest number beside
    it; with `measure="surface"` they are those of the sphere, per steradian, which have no seam at
    the poles. Samples have longitudes from -180 to 180, or
    from `west` on: 0 for right ascensions.

    ```python
    import jax
    from jaxflow import CNF
    from jaxflow.bases import UniformOn
    from jaxflow.dynamics import MLP, OnManifold
    from jaxflow.manifolds import Sphere
    from jaxflow.transforms import LatLon

    field = OnManifold(MLP(3, key=jax.random.key(0)), Sphere(2))
    flow = CNF(field, UniformOn(Sphere(2)), transform=LatLon(measure="surface"))
    print(flow.log_prob([[52.5, 13.4], [90.0, 0.0]]))
    ```

    Attributes:
        degrees: whether the columns are in degrees; else in radians.
        measure: unit of the density: `"chart"` for square degrees or square radians of the
            columns, `"surface"` for steradians.
        polar: whether the first column is the angle from the pole, from 0 to 180 degrees, not a
            latitude.
        west: least longitude of samples; None for -180 degrees.
        hours: whether the second column is in hours, 24 a turn, as right ascensions often are.

    Raises:
        ValueError: `measure` is unknown, `west` is out of range, or `hours` is set without
            `degrees`.
    """

    degrees: bool = eqx.field(static=True)
    measure: str = eqx.field(static=True)
    polar: bool = eqx.field(static=True)
    west: float = eqx.field(static=True)
    hours: bool = eqx.field(static=True)

    # Rows outside are mistakes, not points of density 0.
    strict = True
    event_shape = (2,)
    image_shape = (3,)

    def __init__(
        self,
        *,
        degrees: bool = True,
        measure: str = "chart",
        polar: bool = False,
        west: float | int | None = None,
        hours: bool = False,
    ) -> None:
        check_choice("measure", measure, ("chart", "surface"))
        if hours and not degrees:
            raise ValueError("hours=True is for hours beside degrees: leave degrees=False out")
        self.degrees, self.measure, self.polar, self.hours = degrees, measure, polar, hours
        least = -self.turn / 2
        self.west = least if west is None else float(west)
        if not least <= self.west <= 0:
            raise ValueError(f"west={west} must lie in [{least:g}, 0], such as 0")

    @property
    def half_turn(self) -> float:
        """180 or pi: from pole to pole, in the units of the first column."""
        return 180.0 if self.degrees else math.pi

    @property
    def turn(self) -> float:
        """360, 24 or 2 pi: around, in the units of the second column."""
        return 24.0 if self.hours else 2 * self.half_turn

    def check(self, x: ArrayInput) -> None:
        """Check that latitudes and longitudes are in range.

        Args:
            x: rows `(lat, lon)`, (rows, 2).

        Raises:
            ValueError: a latitude is beyond the poles, or a longitude beyond a full turn; the
                message has the first row.
        """
        first, second = checked_rows(x, self.event_shape).T
        half, units = self.half_turn, "degrees" if self.degrees else "radians"
        name, low = ("polar angle", 0.0) if self.polar else ("latitude", -half / 2)
        around = "hours" if self.hours else units
        ranges = (
            (first, name, low, low + half, units),
            (second, "longitude", -self.turn, self.turn, around),
        )
        for column, (values, name, low, high, units) in enumerate(ranges):
            slack = 1e-6 * high
            rows = np.flatnonzero((values < low - slack) | (values > high + slack))
            if rows.size:
                hint = f"write ({'angle' if self.polar else 'lat'}, lon), in this order"
                if not self.degrees:
                    hint += ", or LatLon(degrees=True) if these are degrees"
                raise ValueError(
                    f"column {column} has {rows.size} values that are not a {name} in {units}, "
                    f"from {low:g} to {high:g}, first {values[rows[0]]:g} in row {rows[0]}: {hint}"
                )

    def inside(self, x: Event) -> Bool[Array, ""]:
        """Whether latitude and longitude are in range; True for NaN."""
        check_event("x", x, self.event_shape, "transform.inside")
        quarter = self.half_turn / 2
        lat = quarter - x[0] if self.polar else x[0]
        beyond = jnp.maximum(jnp.abs(lat) / quarter, jnp.abs(x[1]) / self.turn) > 1 + 1e-6
        return ~beyond

    def forward(self, x: Event) -> tuple[Float[Array, " 3"], Scalar]:
        """The unit vector, and `log` of the area on the sphere per area of the columns."""
        check_event("x", x, self.event_shape, "transform.forward")
        # By entry, without an array of factors in the program.
        angle, lon = x[0] * (math.pi / self.half_turn), x[1] * (2 * math.pi / self.turn)
        cos_lat = self._cosine(x[0])
        height = jnp.cos(angle) if self.polar else jnp.sin(angle)
        u = jnp.stack([cos_lat * jnp.cos(lon), cos_lat * jnp.sin(lon), height])
        return u, self._log_area(cos_lat)

    def inverse(self, u: Float[Array, " 3"]) -> tuple[Event, Scalar]:
        """Latitude and longitude of a vector of any length, and minus the log of the area."""
        check_event("u", u, self.image_shape, "transform.inverse")
        square = u[0] ** 2 + u[1] ** 2
        away = square > 0  # from the poles, whose longitude is set to 0
        across = jnp.where(away, jnp.sqrt(jnp.where(away, square, 1.0)), 0.0)
        lon = jnp.where(away, jnp.arctan2(u[1], jnp.where(away, u[0], 1.0)), 0.0)
        up = jnp.where(away | (u[2] != 0), u[2], 1.0)  # a vector of length 0 counts as a pole
        # The angle from a pole is accurate near it, unlike the sine of the latitude.
        angle = jnp.arctan2(across, up)
        angle = angle if self.polar else math.pi / 2 - angle
        x = jnp.stack([angle * (self.half_turn / math.pi), lon * (self.turn / (2 * math.pi))])
        if self.west > -self.turn / 2:
            turned = jnp.where(x[1] < self.west, x[1] + self.turn, x[1])
            # A longitude just below `west` is rounded to the end of the turn, which is `west`.
            x = x.at[1].set(jnp.where(turned >= self.west + self.turn, self.west, turned))
        return x, -self._log_area(self._cosine(x[0]))

    def _cosine(self, angle: Scalar) -> Scalar:
        """The cosine of the latitude, accurate near the poles, and positive on them.

        On a pole it is that of the nearest number beside it.
        """
        quarter = self.half_turn / 2
        least = quarter * float(jnp.finfo(angle.dtype).eps) / 2
        if self.polar:
            from_pole = jnp.minimum(angle, self.half_turn - angle)
        else:
            from_pole = quarter - jnp.abs(angle)
        return jnp.sin(jnp.maximum(from_pole, least) * (math.pi / self.half_turn))

    def _log_area(self, cos_lat: Scalar) -> Scalar:
        if self.measure == "surface":
            return jnp.zeros_like(cos_lat)
        return jnp.log(cos_lat) + math.log(math.pi / self.half_turn * 2 * math.pi / self.turn)
