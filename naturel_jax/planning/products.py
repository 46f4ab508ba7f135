"""FLOPs of the matrix products of a traced step, and how many of them are of bfloat16 factors."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp


class Products(NamedTuple):
    """FLOPs on all devices together, a multiply-add as 2; ``bfloat16``: those of which both factors are."""

    flops: float
    bfloat16: float


def count(jaxpr: Any) -> Products:
    """Counts the products of a ``ClosedJaxpr`` as it is traced: what is computed again counts, loops are multiplied out
    except for ``while``, whose trips it does not state, and kernels (splash attention) are left out."""
    found = list(_products(jaxpr.jaxpr, 1))
    return Products(sum(flops for flops, _ in found), sum(flops for flops, bfloat16 in found if bfloat16))


def _products(jaxpr: Any, times: int) -> Iterator[tuple[float, bool]]:
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            factors, ((summed, _), _) = [factor.aval for factor in equation.invars], params["dimension_numbers"]
            terms = math.prod(factors[0].shape[axis] for axis in summed)
            flops = 2.0 * times * terms * math.prod(equation.outvars[0].aval.shape)
            yield flops, all(factor.dtype == jnp.bfloat16 for factor in factors)
        elif name != "pallas_call":
            repeats = params["length"] if name == "scan" else 1
            if name == "shard_map":
                mesh = params["mesh"]
                repeats *= math.prod(mesh.shape[axis] for axis in params.get("newly_manual_axes", mesh.axis_names))
            for value in params.values():
                for inner in value if isinstance(value, tuple | list) else (value,):
                    if hasattr(inner := getattr(inner, "jaxpr", inner), "eqns"):
                        yield from _products(inner, times * repeats)
