"""`jax.vmap` of a function of rows: the rows of all calls become the rows of one call.

A function of rows fills all its lanes however few rows it gets, and plain `jax.vmap` would fill
them once a call. jax's `custom_vmap` changes what vmap does but has no reverse mode, so this file
defines a primitive with every mode. Its derivatives are functions of rows too: a tangent is
`jax.jvp` of the function, and its transpose is `jax.vjp`, which computes the function anew.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

# `f(shared, rows) -> (totals, outs)`: from arrays that all rows share and arrays with one entry a
# row, to sums over rows and arrays with one entry a row.
Leaves = list[Any]
RowFunction = Callable[[Leaves, Leaves], tuple[Leaves, Leaves]]
# For each shared array and each array of rows, whether it has a tangent.
Moves = tuple[tuple[bool, ...], tuple[bool, ...]]


def join_vmaps(f: Callable[[Any, Any], Any], rows: Any, shared: Any) -> Any:
    """`f(rows, shared)`, where vmap over rows gives `f` the rows of all calls at once.

    If vmap also maps `shared`, as in ensembles, or `f` closes over a tracer, the call is an
    ordinary vmap. `f` returns one entry a row, which must not depend on other rows, for any number
    of rows.
    """
    return join_with_totals(lambda rows, shared: (None, f(rows, shared)), rows, shared)[1]


def join_with_totals(
    f: Callable[[Any, Any], tuple[Any, Any]], rows: Any, shared: Any
) -> tuple[Any, Any]:
    """`join_vmaps` of an `f` that returns `(totals, outs)`: sums over rows, and rows."""
    arrays, static = eqx.partition(shared, eqx.is_array)
    leaves, (in_shared, in_rows) = zip(*map(jax.tree.flatten, (arrays, rows)), strict=True)
    trees: list[Any] = []

    def flat(shared: Leaves, rows: Leaves) -> tuple[Leaves, Leaves]:
        arrays = jax.tree.unflatten(in_shared, shared)
        out = f(jax.tree.unflatten(in_rows, rows), eqx.combine(arrays, static))
        (totals, of_totals), (outs, of_outs) = map(jax.tree.flatten, out)
        trees[:] = of_totals, of_outs
        return totals, outs

    totals, outs = _call(flat, *leaves)
    return jax.tree.unflatten(trees[0], totals), jax.tree.unflatten(trees[1], outs)


def _call(f: RowFunction, shared: Leaves, rows: Leaves) -> tuple[Leaves, Leaves]:
    """Apply the primitive to a function."""
    closed, shapes = jax.make_jaxpr(f, return_shape=True)(shared, rows)
    if any(isinstance(const, Tracer) for const in closed.consts):
        return f(shared, rows)
    return _bind(f, shared, rows, len(shapes[0]), closed.out_avals, closed=closed, primal=None)


def _call_tangent(
    f: RowFunction, moves: Moves, shared: Leaves, rows: Leaves, num_totals: int, avals: Any
) -> tuple[Leaves, Leaves]:
    """Apply it to a tangent, untraced: reverse mode transposes it and computes it nowhere."""
    tangent, primal = _tangent_of(f, moves), (f, moves)
    return _bind(tangent, shared, rows, num_totals, avals, closed=None, primal=primal)


def _bind(
    f: RowFunction, shared: Leaves, rows: Leaves, num_totals: int, avals: Any, **params: Any
) -> tuple[Leaves, Leaves]:
    sizes = {"num_shared": len(shared), "num_totals": num_totals}
    out = _rows.bind(*shared, *rows, f=f, avals=tuple(avals), **sizes, **params)
    return out[:num_totals], out[num_totals:]


def _tangent_of(f: RowFunction, moves: Moves) -> RowFunction:
    """`jax.jvp` of `f`: takes the inputs of `f`, each list followed by its tangents."""

    def tangent(shared: Leaves, rows: Leaves) -> tuple[Leaves, Leaves]:
        (shared, of_shared), (rows, of_rows) = map(_split, (shared, rows), moves)
        return jax.jvp(*_moving(f, moves, shared, rows), (of_shared, of_rows))[1]

    return tangent


def _cotangent_of(f: RowFunction, moves: Moves) -> RowFunction:
    """`jax.vjp` of `f`: takes the inputs of `f`, each list followed by cotangents of results."""

    def cotangent(shared: Leaves, rows: Leaves) -> tuple[Leaves, Leaves]:
        (shared, of_totals), (rows, of_outs) = map(_split, (shared, rows), moves)
        moving, few = _moving(f, moves, shared, rows)
        return jax.vjp(moving, *few)[1]((of_totals, of_outs))

    return cotangent


def _moving(f: RowFunction, moves: Moves, shared: Leaves, rows: Leaves) -> tuple[Any, Any]:
    """`f` of the inputs with a tangent, without its integer results; and those inputs."""

    def fill(old: Leaves, new: Leaves, flags: tuple[bool, ...]) -> Leaves:
        fresh = iter(new)
        return [next(fresh) if flag else leaf for leaf, flag in zip(old, flags, strict=True)]

    def moving(few_shared: Leaves, few_rows: Leaves) -> tuple[Leaves, Leaves]:
        totals, outs = f(fill(shared, few_shared, moves[0]), fill(rows, few_rows, moves[1]))
        return totals, [out for out in outs if _is_inexact(out)]

    return moving, tuple(map(_pick, (shared, rows), moves))


def _without_totals(f: RowFunction) -> RowFunction:
    return lambda shared, rows: ([], f(shared, rows)[1])


def _split(leaves: Leaves, flags: tuple[bool, ...]) -> tuple[Leaves, Leaves]:
    return leaves[: len(flags)], leaves[len(flags) :]


def _pick(leaves: Leaves, flags: tuple[bool, ...]) -> Leaves:
    return [leaf for leaf, flag in zip(leaves, flags, strict=True) if flag]


def _is_inexact(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


# The rules of the primitive.


def _apply(*args: Array, f: RowFunction, num_shared: int, closed: Any, **_: Any) -> Any:
    if closed is not None:
        return jaxpr_as_fun(closed)(*args)
    totals, outs = f(list(args[:num_shared]), list(args[num_shared:]))
    return [*totals, *outs]


def _abstract(*_: Any, avals: Any, closed: Any, **params: Any) -> tuple[Any, Any]:
    return avals, set() if closed is None else closed.effects


def _differentiate(
    primals: Any, tangents: Any, *, f: RowFunction, num_shared: int, num_totals: int, **params: Any
) -> tuple[Leaves, Leaves]:
    """Bind the primitive again for the tangents, where reverse mode finds them to transpose."""
    out = _rows.bind(*primals, f=f, num_shared=num_shared, num_totals=num_totals, **params)
    flags = tuple(not isinstance(leaf, ad.Zero) and _is_inexact(leaf) for leaf in tangents)
    moves = flags[:num_shared], flags[num_shared:]
    shared, rows = (
        [*leaves, *_pick(list(changes), some)]
        for leaves, changes, some in (
            (primals[:num_shared], tangents[:num_shared], moves[0]),
            (primals[num_shared:], tangents[num_shared:], moves[1]),
        )
    )
    avals = [aval.to_tangent_aval() for aval in params["avals"]]
    inexact = [aval for aval in avals if _is_inexact(aval)]
    totals, outs = _call_tangent(f, moves, shared, rows, num_totals, inexact)
    change = iter([*totals, *outs])
    return out, [next(change) if _is_inexact(aval) else ad.Zero(aval) for aval in avals]


def _transpose(
    cotangents: Any, *args: Any, num_shared: int, num_totals: int, primal: Any, **_: Any
) -> Leaves:
    if primal is None:
        raise NotImplementedError("a function of rows is not linear; its tangent is")
    f, moves = primal
    filled = [ad.instantiate_zeros(cotangent) for cotangent in cotangents]
    shared = [*args[: len(moves[0])], *filled[:num_totals]]
    rows = [*args[num_shared : num_shared + len(moves[1])], *filled[num_totals:]]
    of_shared, of_rows = _call(_cotangent_of(f, moves), shared, rows)
    results = [*[None] * len(moves[0]), *of_shared, *[None] * len(moves[1]), *of_rows]
    is_wanted = map(ad.is_undefined_primal, args)
    return [each if wanted else None for each, wanted in zip(results, is_wanted, strict=True)]


def _batch(
    args: Any,
    dims: Any,
    *,
    f: RowFunction,
    num_shared: int,
    num_totals: int,
    avals: Any,
    primal: Any,
    **_: Any,
) -> tuple[Leaves, list[int]]:
    """Join the rows of all calls; totals stay apart, and so do calls with shared arrays each."""
    size = next(arg.shape[dim] for arg, dim in zip(args, dims, strict=True) if dim is not None)
    shared, rows = list(args[:num_shared]), list(args[num_shared:])
    axes = list(dims[:num_shared]), list(dims[num_shared:])
    apart = not size or any(axis is not None for axis in axes[0])
    totals, outs = jax.vmap(f, in_axes=axes)(shared, rows) if apart or num_totals else ([], [])
    if not apart:
        stacked = [_in_front(leaf, axis, size) for leaf, axis in zip(rows, axes[1], strict=True)]
        num = stacked[0].shape[1]
        rows = [leaf.reshape(size * num, *leaf.shape[2:]) for leaf in stacked]
        if primal is None:
            outs = _call(_without_totals(f), shared, rows)[1]
        else:
            of_rows = [aval.update(shape=(size * num, *aval.shape[1:])) for aval in avals]
            tangent = _without_totals(primal[0]), primal[1], shared, rows
            outs = _call_tangent(*tangent, 0, of_rows[num_totals:])[1]
        outs = [leaf.reshape(size, num, *leaf.shape[1:]) for leaf in outs]
    return [*totals, *outs], [0] * (len(totals) + len(outs))


def _in_front(leaf: Array, axis: int | None, size: int) -> Array:
    if axis is None:
        return jnp.broadcast_to(leaf, (size, *leaf.shape))
    return jnp.moveaxis(leaf, axis, 0)


_rows = Primitive("jaxflow_rows")
_rows.multiple_results = True
_rows.def_impl(_apply)
_rows.def_effectful_abstract_eval(_abstract)
ad.primitive_jvps[_rows] = _differentiate
ad.primitive_transposes[_rows] = _transpose
batching.primitive_batchers[_rows] = _batch
mlir.register_lowering(_rows, mlir.lower_fun(_apply, multiple_results=True))
