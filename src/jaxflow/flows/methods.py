"""Bound methods that jax can hash, so that `jax.jit(flow.log_prob)` works."""

from typing import Any, final

import equinox as eqx


class _Example(eqx.Module):
    def method(self) -> None:
        """Has equinox's class of bound methods, which has no public name."""


BoundMethod: Any = type(_Example().method)


@final
class FlowMethod(BoundMethod):
    """A method of one flow: a pytree with the leaves of the flow, as equinox makes it.

    Equinox hashes it by its arrays, which have no hash, and compares them, which tracers refuse;
    `jax.jit` and `jax.checkpoint` need both. Here it is equal to the same method of the same
    object, as in Python. Flows never change, so what jax keeps for it stays right.
    """

    def __hash__(self) -> int:
        return hash((self.__func__, id(self.__self__)))

    def __eq__(self, other: Any) -> bool:
        if not isinstance(other, FlowMethod):
            return False
        return self.__self__ is other.__self__ and self.__func__ is other.__func__
