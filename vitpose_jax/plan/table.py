"""Plans for a person to read."""

import sys
from collections.abc import Sequence

import rich.box
import rich.console
import rich.table

from vitpose_jax.plan.chips import CHIPS, GIB
from vitpose_jax.plan.cost import ATTAINED, ESTIMATE_FILLS, Plan


def print_plans(plans: Sequence[Plan], *, console: rich.console.Console | None = None) -> None:
    """One table, best first, then each plan in detail if there are few, then what was assumed."""
    console = console or rich.console.Console(width=None if sys.stdout.isatty() else 160)
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    columns: tuple[tuple[str, rich.console.JustifyMethod], ...] = (
        ("experiment", "left"), ("remat", "left"), ("topology", "left"), ("data,fsdp,tensor", "left"),
        ("batch", "right"), ("GiB of", "right"), ("fits", "left"), ("ms a step", "right"), ("images/s", "right"),
        ("of peak", "right"), ("most time", "left"), ("source", "left"),
    )  # fmt: skip
    for name, justify in columns:
        table.add_column(name, justify=justify, no_wrap=True)
    for plan in plans:
        table.add_row(*cells(plan))
    console.print(table)
    for plan in plans if len(plans) <= 3 else ():
        print_details(plan, console)
    for line in assumptions(plans):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def cells(plan: Plan) -> list[str]:
    """A row of the table."""
    known = bool(plan.product_flops)
    return [
        f"{plan.name} {plan.image_size[0]}x{plan.image_size[1]}",
        plan.remat,
        plan.topology,
        ",".join(map(str, plan.mesh)), parts(plan),
        f"{plan.memory_total / GIB:.2f} / {plan.memory_limit / GIB:.1f}", "yes" if plan.fits else "NO",
        f"{plan.step_s * 1e3:.0f}" if known else "–", f"{plan.images_per_s:.0f}" if known else "–",
        f"{plan.utilisation:.0%}" if known else "–", plan.bound if known else "–", plan.source,
    ]  # fmt: skip


def parts(plan: Plan) -> str:
    """The batch, and in how many parts it is computed."""
    return f"{plan.batch_size} in {plan.accumulate}" if plan.accumulate > 1 else str(plan.batch_size)


def print_details(plan: Plan, console: rich.console.Console) -> None:
    """Everything that is known of one plan."""
    console.print(f"[bold]{plan.name}[/] on {plan.topology}, mesh {plan.mesh}, {plan.source}", highlight=False)
    lines = [f"  {plan.problem}"] if plan.problem else []
    memory = ", ".join(f"{name} {size / GIB:.3f}" for name, size in plan.memory.items())
    lines.append(f"  GiB a device: {memory}; {plan.memory_total / GIB:.2f} of {plan.memory_limit / GIB:.2f}")
    if plan.product_flops:
        lines += [
            f"  products: {plan.product_flops / 1e12:.3f} TFLOP a device, the model's own {plan.model_flops / 1e12:.3f}"
            f"; {plan.products_s * 1e3:.1f} ms",
            f"  main memory: {plan.memory_bytes / 1e9:.2f} GB a device; {plan.memory_s * 1e3:.1f} ms",
        ]
        for kind, entry in plan.exchanges.items():
            lines.append(
                f"  {kind}: {entry['count']:.0f} times, {entry['fast_bytes'] / 1e6:.1f} MB a device over fast links, "
                f"{entry['slow_bytes'] / 1e6:.1f} MB over slow; {entry['seconds'] * 1e3:.1f} ms"
            )
        lines.append(
            f"  step: {plan.step_s * 1e3:.1f} ms, {plan.exposed_s * 1e3:.1f} of them waiting for exchanges, "
            f"{plan.hidden_s * 1e3:.1f} of exchanges beside other work"
        )
    if plan.compile_s:
        lines.append(f"  compiled in {plan.compile_s:.0f} s")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def assumptions(plans: Sequence[Plan]) -> list[str]:
    """What the numbers rest on."""
    shares = ", ".join(f"{share:.0%} for {name}" for name, share in ATTAINED.items())
    lines = [
        f"Assumed, not measured: of the makers' peak rates programs reach {shares}; products, memory and the exchanges "
        "that the program starts ahead run at once, the other exchanges are waited for. 'of peak' counts the model's "
        "own operations, without what is computed again."
    ]
    for name in dict.fromkeys(plan.chip for plan in plans):
        chip = CHIPS[name]
        lines.append(
            f"{name}: {chip.peak_flops / 1e12:.0f} TFLOP/s bfloat16, {chip.memory_bandwidth / 1e9:.0f} GB/s memory, "
            f"{chip.link_bandwidth / 1e9:.0f} GB/s a fast link and direction, {chip.slow_bandwidth / 1e9:.3g} GB/s "
            f"between slices or hosts ({chip.source})"
        )
    if any(plan.source == "estimate" for plan in plans):
        lines.append(
            "'estimate' was not compiled: operations, traffic and live arrays of the traced program, exchanges from "
            f"the sharding tables. It fits if it fills at most {ESTIMATE_FILLS:.0%} of the memory: compilers need more."
        )
    return lines
