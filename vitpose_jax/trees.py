"""One vocabulary for parameters: paths like `backbone/blocks/attn/qkv/kernel`, and tables over them.

Sharding, weight decay, layer-wise rates, freezing and conversion are tables of (pattern, value) rows over these paths.
Exactly one row must match a path; no table has a catch-all row, so that a new parameter cannot be forgotten.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import jax

V = TypeVar("V")
Table = Iterable[tuple[str, V]]


def flatten(tree: Any) -> dict[str, Any]:
    """Any pytree to {path: leaf}, in the tree's order; parts of a path are joined by '/'."""
    return {path_string(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def path_string(path: tuple) -> str:
    """A jax key path as the string this project uses."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def unflatten(leaves: Mapping[str, Any]) -> dict:
    """{path: leaf} back to nested dictionaries."""
    tree: dict = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def dotted(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries of settings to {"model.size": value}."""
    leaves: dict[str, Any] = {}
    for name, value in section.items():
        leaves |= dotted(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return leaves


def map_with_path(function, tree: Any, *rest: Any) -> Any:
    """`jax.tree.map` whose function gets the path as its first argument."""
    return jax.tree_util.tree_map_with_path(lambda path, *leaves: function(path_string(path), *leaves), tree, *rest)


def match(table: Table[V], paths: Iterable[str], *, name: str) -> dict[str, V]:
    """Finds the one row of a table that speaks of each path.

    Args:
        table: (regular expression, value) rows; an expression must match a whole path.
        paths: parameter paths.
        name: what the table is, for the error.

    Returns:
        {path: value of its row}.

    Raises:
        ValueError: naming every path that no row or more than one row matches.
    """
    rows = [(re.compile(pattern), pattern, value) for pattern, value in table]
    found: dict[str, V] = {}
    faults = []
    for path in paths:
        hits = [(pattern, value) for regex, pattern, value in rows if regex.fullmatch(path)]
        if len(hits) == 1:
            found[path] = hits[0][1]
        else:
            faults.append(f"  {path}: {'no row' if not hits else 'rows ' + ', '.join(p for p, _ in hits)}")
    if faults:
        raise ValueError(f"the {name} table must have exactly one row for each parameter:\n" + "\n".join(faults))
    return found
