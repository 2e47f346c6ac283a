"""Which port of a memory carries which operand in which direction; knows no file format."""

from offramp.ir.accelerator import Move, Operand, Port

READS = (Move.TO_LOW, Move.TO_HIGH)
"""Directions that read the memory; the other two write it."""

PORT_LAYOUTS: dict[str, dict[Move, str]] = {
    "1rw": dict.fromkeys(Move, "rw_port_1"),
    "2rw": {
        Move.FROM_HIGH: "rw_port_1",
        Move.FROM_LOW: "rw_port_1",
        Move.TO_LOW: "rw_port_2",
        Move.TO_HIGH: "rw_port_2",
    },
    "1r1w": {
        Move.FROM_HIGH: "w_port_1",
        Move.FROM_LOW: "w_port_1",
        Move.TO_LOW: "r_port_1",
        Move.TO_HIGH: "r_port_1",
    },
    "2r2w": {
        Move.FROM_HIGH: "w_port_1",
        Move.FROM_LOW: "w_port_2",
        Move.TO_LOW: "r_port_1",
        Move.TO_HIGH: "r_port_2",
    },
}
"""Names of port layouts: how many ports read, write or do both, and what each carries."""


def moves_of(operand: Operand) -> tuple[Move, ...]:
    """Directions in which an operand moves: inputs and weights only downwards, outputs all four."""
    return tuple(Move) if operand is Operand.O else (Move.FROM_HIGH, Move.TO_LOW)


def ports_of(
    layout: dict[Move, str],
    operands: tuple[Operand, ...],
    read_bits: int,
    write_bits: int,
    granularity_bits: int | None = None,
) -> tuple[Port, ...]:
    """Ports of a memory that treats all its operands alike; a shared port has the smaller of both widths."""
    serves: dict[str, list[tuple[Operand, Move]]] = {}
    for operand in operands:
        for move in moves_of(operand):
            serves.setdefault(layout[move], []).append((operand, move))
    widths = {name: read_bits if name[:2] == "r_" else write_bits for name in serves}
    widths |= {name: min(read_bits, write_bits) for name in serves if name.startswith("rw")}
    return tuple(
        Port(
            name=name,
            bits_per_cycle=widths[name],
            granularity_bits=min(granularity_bits or widths[name], widths[name]),
            serves=tuple(uses),
        )
        for name, uses in serves.items()
    )
