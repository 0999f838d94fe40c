"""ODE problems that carry their exact solution.

A problem has `f(t, y, args)`, an interval from `t0` to `t1`, a start `y0`, parameters `args`, and
`solution(y0, t0, t, args)`, the state at `t`. The solution is plain jax code, so autodiff of it
gives the exact gradient in the start, in both times and in the parameters.
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp


@dataclass(frozen=True)
class GrowingRate:
    """`z' = theta t z`, so `z(t) = z0 exp(theta (t^2 - t0^2) / 2)`; not autonomous."""

    t0: float = 0.5
    t1: float = 2.0

    @property
    def y0(self) -> Any:
        return jnp.asarray(1.0)

    @property
    def args(self) -> Any:
        return jnp.asarray(0.4)

    def f(self, t, z, theta):
        return theta * t * z

    def solution(self, z0, t0, t, theta):
        return z0 * jnp.exp(theta * (t**2 - t0**2) / 2)


@dataclass(frozen=True)
class Cosine:
    """`y' = cos(w t)`, a quadrature: `y(t) = y0 + (sin(w t) - sin(w t0)) / w`."""

    t0: float = 0.3
    t1: float = 1.1

    @property
    def y0(self) -> Any:
        return jnp.asarray([0.7])

    @property
    def args(self) -> Any:
        return jnp.asarray(1.5)

    def f(self, t, y, w):
        return jnp.cos(w * t) * jnp.ones_like(y)

    def solution(self, y0, t0, t, w):
        return y0 + (jnp.sin(w * t) - jnp.sin(w * t0)) / w


@dataclass(frozen=True)
class Riccati:
    """`y' = -2 r t y^2`, so `1 / y(t) = 1 / y0 + r (t^2 - t0^2)`; not linear, not autonomous."""

    t0: float = -0.4
    t1: float = 1.3

    @property
    def y0(self) -> Any:
        return jnp.asarray([[1.2, 0.5], [0.8, 2.0], [0.3, 1.0]])

    @property
    def args(self) -> Any:
        return jnp.asarray([0.6, 0.9])

    def f(self, t, y, r):
        return -2 * r[None, :] * t * y**2

    def solution(self, y0, t0, t, r):
        return 1 / (1 / y0 + r[None, :] * (t**2 - t0**2))


@dataclass(frozen=True)
class DampedRotation:
    """`q' = w p - g q`, `p' = -w q - g p`: a damped rotation by `-w (t - t0)`; all in dicts."""

    t0: float = 1.0
    t1: float = -0.7

    @property
    def y0(self) -> Any:
        return {"q": jnp.asarray([1.0, -0.3]), "p": jnp.asarray([0.2, 0.9])}

    @property
    def args(self) -> Any:
        return {"w": jnp.asarray(2.2), "g": jnp.asarray(0.35)}

    def f(self, t, y, args):
        w, g = args["w"], args["g"]
        return {"q": w * y["p"] - g * y["q"], "p": -w * y["q"] - g * y["p"]}

    def solution(self, y0, t0, t, args):
        angle, decay = args["w"] * (t - t0), jnp.exp(-args["g"] * (t - t0))
        c, s = jnp.cos(angle), jnp.sin(angle)
        return {
            "q": decay * (c * y0["q"] + s * y0["p"]),
            "p": decay * (c * y0["p"] - s * y0["q"]),
        }


@dataclass(frozen=True)
class Logistic:
    """`y' = r y (1 - y)`, so `(1 - y) / y` falls as `exp(-r t)`; not linear, autonomous."""

    t0: float = 0.3
    t1: float = 2.0

    @property
    def y0(self) -> Any:
        return jnp.asarray([0.2, 0.4, 0.6])

    @property
    def args(self) -> Any:
        return jnp.asarray(3.0)

    def f(self, t, y, r):
        return r * y * (1 - y)

    def solution(self, y0, t0, t, r):
        return 1 / (1 + (1 - y0) / y0 * jnp.exp(-r * (t - t0)))


@dataclass(frozen=True)
class LimitCycle:
    """`z' = (m (1 - |z|^2) + i w) z`, which spirals onto the unit circle; a nonlinear system."""

    t0: float = 0.3
    t1: float = 2.0

    @property
    def y0(self) -> Any:
        return jnp.asarray([1.3, 0.4])

    @property
    def args(self) -> Any:
        return {"m": jnp.asarray(0.2), "w": jnp.asarray(2.0)}

    def f(self, t, z, args):
        pull = args["m"] * (1 - jnp.sum(z**2))
        return pull * z + args["w"] * jnp.stack([-z[1], z[0]])

    def solution(self, z0, t0, t, args):
        # 1 / |z|^2 - 1 falls as exp(-2 m t).
        square = jnp.sum(z0**2)
        growth = 1 / jnp.sqrt(square + (1 - square) * jnp.exp(-2 * args["m"] * (t - t0)))
        c, s = jnp.cos(args["w"] * (t - t0)), jnp.sin(args["w"] * (t - t0))
        return growth * jnp.stack([c * z0[0] - s * z0[1], s * z0[0] + c * z0[1]])


@dataclass(frozen=True)
class Together:
    """Several problems at once, on an interval of their own."""

    parts: tuple[Any, ...]
    t0: float = -0.4
    t1: float = 1.3

    @property
    def y0(self) -> Any:
        return tuple(part.y0 for part in self.parts)

    @property
    def args(self) -> Any:
        return tuple(part.args for part in self.parts)

    def f(self, t, y, args):
        return tuple(p.f(t, *each) for p, *each in zip(self.parts, y, args, strict=True))

    def solution(self, y0, t0, t, args):
        return tuple(
            p.solution(y0, t0, t, args) for p, y0, args in zip(self.parts, y0, args, strict=True)
        )


PROBLEMS = {
    "growing rate": GrowingRate(),
    "cosine": Cosine(),
    "riccati": Riccati(),
    "damped rotation": DampedRotation(),
    "logistic": Logistic(),
    "limit cycle": LimitCycle(),
    "together": Together((Riccati(), DampedRotation())),
}
