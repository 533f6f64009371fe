"""ONNX models of functions in plain operations: one row of a table for each.

What translates JAX elsewhere was tried first: docs/export.md says why it is not used.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.export
import numpy as np
import onnx
from jax.extend import core

from vitpose_jax.inference.plain import plain

OPSET = 18
_IR_VERSION = 8  # what came with opset 18: readers of that time take the file
_BATCH = "batch"

Shape = Sequence[Any]  # whole numbers and, in place of one, JAX's symbol for the size of the batch
Row = Callable[..., str]  # from (graph, equation, names of the inputs) to the name of the result


def onnx_model(
    function: Callable[[jax.Array], jax.Array], input_shape: Sequence[int], *, input_name: str, output_name: str
) -> onnx.ModelProto:
    """Translates a function of a batch of crops.

    Args:
        function: from uint8 [B, *input_shape] to float32 [B, ...].
        input_shape: of one crop.
        input_name: how the file calls its input.
        output_name: how the file calls its output.

    Raises:
        NotImplementedError: the function uses an operation that has no row here.
    """
    (batch,) = jax.export.symbolic_shape(_BATCH)
    program = jax.make_jaxpr(plain(function))(jax.ShapeDtypeStruct((batch, *input_shape), np.uint8))
    (argument,), (result,) = program.jaxpr.invars, program.jaxpr.outvars
    graph = _Graph(input_name)
    graph.values[argument] = (input_name, argument.aval.shape)
    for variable, value in zip(program.jaxpr.constvars, program.consts, strict=True):
        graph.values[variable] = (graph.constant(value), variable.aval.shape)
    for equation in program.jaxpr.eqns:
        graph.translate(equation)
    graph.nodes.append(onnx.helper.make_node("Identity", [graph.full(result)], [output_name]))
    return onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes, "vitpose", [_described(input_name, argument)], [_described(output_name, result)],
            graph.constants,
        ),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION, producer_name="vitpose_jax",
    )  # fmt: skip


def _described(name: str, variable: Any) -> onnx.ValueInfoProto:
    shape = [size if isinstance(size, int) else _BATCH for size in variable.aval.shape]
    return onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(variable.aval.dtype), shape)


class _Graph:
    """Collects the nodes of a graph.

    Attributes:
        nodes: in order.
        constants: the weights among them.
        values: of each variable, the name of the tensor that holds it and its shape. Axes of size 1 may stand for
            larger ones: ONNX repeats them where tensors are added, compared and so on.
    """

    def __init__(self, input_name: str):
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.values: dict[Any, tuple[str, Shape]] = {}
        self._shapes: dict[Shape, str] = {}
        self._batch = self.node("Shape", input_name, start=0, end=1)

    def translate(self, equation: Any) -> None:
        """Adds the nodes of an equation.

        Raises:
            NotImplementedError: there is no row for it.
        """
        primitive, (result,) = equation.primitive.name, equation.outvars
        if primitive == "broadcast_in_dim":  # not repeated before something needs it
            self.values[result] = self._with_rank(equation)
        elif primitive in _ELEMENTWISE:
            names, shapes = zip(*map(self.held, equation.invars), strict=True)
            rank = len(result.aval.shape)
            wide = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
            shape = tuple(next((size for size in sizes if size != 1), 1) for sizes in zip(*wide, strict=True))
            self.values[result] = (_ELEMENTWISE[primitive](self, equation, *names), shape)
        elif primitive in _ROWS:
            names = tuple(map(self.full, equation.invars))
            self.values[result] = (_ROWS[primitive](self, equation, *names), result.aval.shape)
        else:
            raise NotImplementedError(f"the ONNX writer has no row for {primitive!r}")

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node; the name of its result."""
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(kind, inputs, [name], **attributes))
        return name

    def constant(self, value: Any) -> str:
        """Adds a constant; its name."""
        name = f"constant_{len(self.constants)}"
        self.constants.append(onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def whole_numbers(self, values: Sequence[int]) -> str:
        """Adds an int64 list; its name."""
        return self.constant(np.array(values, np.int64))

    def held(self, variable: Any) -> tuple[str, Shape]:
        """What holds a value, see `values`."""
        if isinstance(variable, core.Literal):
            aval: Any = variable.aval
            return self.constant(np.asarray(variable.val, aval.dtype)), ()
        return self.values[variable]

    def full(self, variable: Any) -> str:
        """The tensor that holds a value in its own shape."""
        name, shape = self.held(variable)
        wanted = tuple(variable.aval.shape)
        if tuple(shape) == wanted:
            return name
        if wanted not in self._shapes:
            sizes = [self.whole_numbers([size]) if isinstance(size, int) else self._batch for size in wanted]
            self._shapes[wanted] = self.node("Concat", *sizes, axis=0)
        name = self.node("Expand", name, self._shapes[wanted])
        self.values[variable] = (name, wanted)
        return name

    def reshaped(self, name: str, shape: Shape) -> str:
        """A tensor in another shape."""
        return self.node("Reshape", name, self.whole_numbers([s if isinstance(s, int) else -1 for s in shape]))

    def _with_rank(self, equation: Any) -> tuple[str, Shape]:
        """A broadcast's operand with the axes of the result, of size 1 where it is repeated."""
        name, held = self.held(equation.invars[0])
        shape: list[Any] = [1] * len(equation.params["shape"])
        for size, axis in zip(held, equation.params["broadcast_dimensions"], strict=True):
            shape[axis] = size
        return (name if tuple(shape) == tuple(held) else self.reshaped(name, tuple(shape))), tuple(shape)


def _slice(graph: _Graph, equation: Any, name: str) -> str:
    shape, params = equation.invars[0].aval.shape, equation.params
    steps = params["strides"] or (1,) * len(shape)
    cut = [
        (axis, low, high, step)
        for axis, (low, high, step) in enumerate(
            zip(params["start_indices"], params["limit_indices"], steps, strict=True)
        )
        if (low, high, step) != (0, shape[axis], 1)
    ]
    if not cut:
        return name
    axes, low, high, step = map(graph.whole_numbers, zip(*cut, strict=True))
    return graph.node("Slice", name, low, high, axes, step)


def _reversed(graph: _Graph, equation: Any, name: str) -> str:
    axes = equation.params["dimensions"]
    ends = [np.iinfo(np.int64).min] * len(axes)  # beyond the first one
    lists = map(graph.whole_numbers, ([-1] * len(axes), ends, axes, [-1] * len(axes)))
    return graph.node("Slice", name, *lists)


def _argmax(graph: _Graph, equation: Any, name: str) -> str:
    (axis,) = equation.params["axes"]
    return _cast(graph, equation, graph.node("ArgMax", name, axis=axis, keepdims=0))


def _cast(graph: _Graph, equation: Any, name: str) -> str:
    return graph.node("Cast", name, to=onnx.helper.np_dtype_to_tensor_dtype(equation.outvars[0].aval.dtype))


def _reduced(kind: str) -> Row:
    def row(graph: _Graph, equation: Any, name: str) -> str:
        return graph.node(kind, name, graph.whole_numbers(equation.params["axes"]), keepdims=0)

    return row


def _same(kind: str) -> Row:
    def row(graph: _Graph, equation: Any, *names: str) -> str:
        return graph.node(kind, *names)

    return row


_ELEMENTWISE: dict[str, Row] = {
    **{
        primitive: _same(kind)
        for primitive, kind in {
            "abs": "Abs", "add": "Add", "and": "And", "div": "Div", "eq": "Equal", "erf": "Erf", "exp": "Exp",
            "gt": "Greater", "log": "Log", "lt": "Less", "max": "Max", "min": "Min", "mul": "Mul", "neg": "Neg",
            "sign": "Sign", "sqrt": "Sqrt", "sub": "Sub",
        }.items()
    },
    "clamp": lambda graph, equation, low, x, high: graph.node("Min", graph.node("Max", x, low), high),
    "convert_element_type": _cast,
    "ne": lambda graph, equation, *names: graph.node("Not", graph.node("Equal", *names)),
    "rsqrt": lambda graph, equation, x: graph.node("Reciprocal", graph.node("Sqrt", x)),
    "select_n": lambda graph, equation, which, no, yes: graph.node("Where", which, yes, no),
    "square": lambda graph, equation, x: graph.node("Mul", x, x),
}  # fmt: skip
_ROWS: dict[str, Row] = {
    "argmax": _argmax,
    "concatenate": lambda graph, equation, *names: graph.node("Concat", *names, axis=equation.params["dimension"]),
    "dot_general": _same("MatMul"),  # `plain` leaves no other
    "reduce_max": _reduced("ReduceMax"),
    "reduce_sum": _reduced("ReduceSum"),
    "reshape": lambda graph, equation, name: graph.reshaped(name, equation.outvars[0].aval.shape),
    "rev": _reversed,
    "slice": _slice,
    "squeeze": lambda graph, equation, name: graph.node(
        "Squeeze", name, graph.whole_numbers(equation.params["dimensions"])
    ),
    "transpose": lambda graph, equation, name: graph.node("Transpose", name, perm=equation.params["permutation"]),
}
