"""Which absorption edge a scan spans: K and L3 edges that X-ray microscopes measure."""

from __future__ import annotations

from txm_stream.errors import ExportError

K_EDGES_EV = {
    "Na": 1070.8, "Mg": 1303.0, "Al": 1559.0, "Si": 1839.0, "P": 2145.5, "S": 2472.0, "Cl": 2822.4, "K": 3608.4,
    "Ca": 4038.5, "Sc": 4492.0, "Ti": 4966.0, "V": 5465.0, "Cr": 5989.0, "Mn": 6539.0, "Fe": 7112.0, "Co": 7709.0,
    "Ni": 8333.0, "Cu": 8979.0, "Zn": 9659.0, "Ga": 10367.0, "Ge": 11103.0, "As": 11867.0, "Se": 12658.0,
    "Br": 13474.0, "Rb": 15200.0, "Sr": 16105.0, "Y": 17038.0, "Zr": 17998.0, "Nb": 18986.0, "Mo": 20000.0,
}  # fmt: skip
L3_EDGES_EV = {
    "Ti": 453.8, "V": 512.1, "Cr": 574.1, "Mn": 638.7, "Fe": 706.8, "Co": 778.1, "Ni": 852.7, "Cu": 932.7,
    "Zn": 1021.8, "La": 5483.0, "Ce": 5723.0, "Pr": 5964.0, "Nd": 6208.0, "Sm": 6716.0, "Eu": 6977.0, "Gd": 7243.0,
    "Hf": 9561.0, "Ta": 9881.0, "W": 10207.0, "Re": 10535.0, "Ir": 11215.0, "Pt": 11564.0, "Au": 11919.0,
    "Pb": 13035.0, "U": 17166.0,
}  # fmt: skip
_WITHIN_EV = 25.0
"""Chemistry and calibration move an edge by less; on the way through the periodic table K edges are 250 eV apart."""


def edge_near(energy_eV: float) -> tuple[str, str]:
    """Return element and edge ("Ni", "K") whose tabulated energy is nearest, K before L3 where both are near.

    Raises
    ------
    ExportError
        None lies within 25 eV.

    References
    ----------
    X-Ray Data Booklet (LBNL, 2009), table 1-1.
    """
    for name, table in (("K", K_EDGES_EV), ("L3", L3_EDGES_EV)):
        element = min(table, key=lambda symbol: abs(table[symbol] - energy_eV))
        if abs(table[element] - energy_eV) <= _WITHIN_EV:
            return element, name
    raise ExportError(f"no known absorption edge lies near {energy_eV:.1f} eV; say which it is, such as --edge 'Ni K'")


def parse_edge(text: str) -> tuple[str, str]:
    """Return element and edge of a text such as "Ni K" or "Ce L3".

    Raises
    ------
    ExportError
        It is not an element's symbol and the name of an edge.
    """
    element, _, edge = text.strip().partition(" ")
    if not (element.isalpha() and element.istitle() and len(element) <= 2 and edge in ("K", "L1", "L2", "L3", "M5")):
        raise ExportError(f"edge is {text!r}, needed are element and edge (K, L1, L2, L3, M5), such as 'Ni K'")
    return element, edge
