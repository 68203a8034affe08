"""Readers of reference spectra: Athena ``.nor`` and ``.prj``, XDI, and plain columns in eV or keV."""

from __future__ import annotations

import gzip
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from txm_stream.arrays import Matrix, Vector
from txm_stream.errors import BadReferenceError

KEV_BELOW = 100.0
"""An energy column whose values all lie below this is in keV."""
_ALLOWED = "allowed: Athena .nor or .prj, XDI, or text columns (energy in eV or keV, absorption)"
_NORMALISED = ("normtrans", "normfluor", "norm", "flat")
_ABSORPTION = ("mutrans", "mufluor", "mu", "xmu", "mux", "mue", "absorption")
_TRANSMITTED, _FLUORESCENCE = ("itrans", "it", "i1"), ("ifluor", "if")


@dataclass(frozen=True, eq=False)
class RawSpectrum:
    """One column of a file: ``energies_eV`` (E,), ``mu`` (E,); ``raw`` as in :func:`.edge_step.normalise`."""

    name: str
    energies_eV: Vector
    mu: Vector
    raw: bool | None = None


@dataclass(frozen=True, eq=False)
class TextTable:
    """Numeric columns of a text file: ``values`` (rows, columns), their ``names`` ("" where unknown), the header."""

    values: Matrix
    names: tuple[str, ...]
    header: tuple[str, ...]


def read_spectra(path: Path | str) -> list[RawSpectrum]:
    """Read every spectrum of a file, energies in eV.

    Raises
    ------
    BadReferenceError
        The file is not there, is in no known format, or holds no spectrum.
    """
    path = Path(path)
    text = read_text(path)
    if "@x = (" in text or "Athena project file" in text[:200]:
        return _from_project(path, text)
    return _from_table(path, parse_table(text, path))


def read_named(files: Sequence[Path]) -> dict[str, RawSpectrum]:
    """Read all spectra of several files; files of one spectrum each are named by the file, repeated names get #2."""
    found = [(path, spectrum) for path in files for spectrum in read_spectra(path)]
    one_each = len(found) == len(files) == len({path.stem for path in files})
    named: dict[str, RawSpectrum] = {}
    for path, spectrum in found:
        name = path.stem.removeprefix("ref_") if one_each else spectrum.name
        count = sum(known == name or known.startswith(f"{name}#") for known in named)
        named[name if count == 0 else f"{name}#{count + 1}"] = spectrum
    return named


def read_text(path: Path) -> str:
    """Return the text of a plain or gzip'd file."""
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except FileNotFoundError:
        raise BadReferenceError(f"{path}: no such file; check the path") from None
    except (OSError, EOFError) as error:
        raise BadReferenceError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if b"\x00" in data[:4096]:
        raise BadReferenceError(f"{path}: a binary file is no text; {_ALLOWED}")
    return data.decode("utf-8", errors="replace")


def parse_table(text: str, path: Path) -> TextTable:
    """Parse numeric columns separated by blanks, tabs, commas or semicolons.

    Lines that do not start with a number are header; names come from XDI ``Column.N`` fields or the last header line.

    Raises
    ------
    BadReferenceError
        No numbers, or rows of different length.
    """
    rows: list[list[float]] = []
    header: list[str] = []
    for number, line in enumerate(text.lstrip("\ufeff").splitlines(), start=1):
        cells = re.split(r"\s*[,;]\s*|\s+", line.strip().rstrip(",;"))
        try:
            row = [float(cell) for cell in cells]
        except ValueError:
            if line.strip() and not rows:
                header.append(line.strip().lstrip("#%!;").strip())
            continue
        if rows and len(row) != len(rows[0]):
            raise BadReferenceError(
                f"{path}, line {number}: {len(row)} columns, the lines above have {len(rows[0])}; {_ALLOWED}"
            )
        rows.append(row)
    if not rows:
        raise BadReferenceError(f"{path}: no line with numbers in it; {_ALLOWED}")
    values = np.asarray(rows, dtype=np.float64)
    return TextTable(values, _column_names(header, values.shape[1]), tuple(header))


def energies_in_eV(energies: Vector) -> Vector:
    """Return energies in eV: values below 100 throughout are keV."""
    return energies * 1000.0 if np.nanmax(energies) < KEV_BELOW else energies


def _column_names(header: list[str], count: int) -> tuple[str, ...]:
    named = {int(m[1]): m[2] for line in header if (m := re.match(r"Column\.(\d+):\s*(\S+)", line))}
    if len(named) >= count:
        return tuple(named[index] for index in range(1, count + 1))
    last = [cell.strip("\"'") for cell in re.split(r"\s*[,;\t]\s*|\s+", header[-1].strip("\"' "))] if header else []
    return tuple(last) if len(last) == count else ("",) * count


def _from_table(path: Path, table: TextTable) -> list[RawSpectrum]:
    if table.values.shape[1] < 2:
        raise BadReferenceError(f"{path}: one column, at least two (energy, absorption) are needed; {_ALLOWED}")
    lower = [name.lower() for name in table.names]
    at = lower.index("energy") if "energy" in lower else 0
    if lower[at] in ("angle", "k"):
        raise BadReferenceError(f"{path}: first column is {lower[at]!r}, an energy in eV or keV is needed; convert it")
    energies = energies_in_eV(table.values[:, at])
    head = "\n".join(table.header).lower()
    sample = re.search(r"^sample\.(?:name|formula):\s*(.+)$", "\n".join(table.header), re.IGNORECASE | re.MULTILINE)
    title = re.sub(r"\s+", " ", sample[1]).strip() if sample else path.stem

    def column(wanted: tuple[str, ...]) -> Vector | None:
        return next((table.values[:, lower.index(name)] for name in wanted if name in lower), None)

    i0 = column(("i0",))
    for detectors, divide in ((_TRANSMITTED, False), (_FLUORESCENCE, True)):
        detector = column(detectors)
        if i0 is not None and detector is not None:
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = detector / i0
                return [RawSpectrum(title, energies, ratio if divide else -np.log(ratio), raw=True)]
    labels: tuple[tuple[tuple[str, ...], bool | None], ...] = ((_NORMALISED, False), (_ABSORPTION, None))
    for wanted, raw in labels:
        chosen = column(wanted)
        if chosen is not None:
            return [RawSpectrum(title, energies, chosen, raw=raw)]
    normalised = path.suffix.lower() == ".nor" or ("normalized" in head and "mu(e)" in head)
    others = [index for index in range(table.values.shape[1]) if index != at]
    numbered = [f"{path.stem}_{order}" for order in range(1, len(others) + 1)] if len(others) > 1 else [title]
    return [
        RawSpectrum(
            (table.names[index] or numbered[order]) if len(others) > 1 else title,
            energies,
            table.values[:, index],
            raw=False if normalised else None,
        )
        for order, index in enumerate(others)
    ]


def _from_project(path: Path, text: str) -> list[RawSpectrum]:
    """Read the mu(E) groups of an Athena project, each moved by its own energy shift."""
    spectra = []
    for block in text.split("$old_group")[1:]:
        arrays = {
            key: np.asarray(re.findall(r"[-+.\deE]+", listed), dtype=np.float64)
            for key, listed in re.findall(r"^@([xy])\s*=\s*\(([^)]*)\)", block, re.MULTILINE)
        }
        if "x" not in arrays or "y" not in arrays or len(arrays["x"]) != len(arrays["y"]):
            continue
        if _argument(block, "is_chi") == "1":
            continue
        group = re.match(r"\s*=\s*'([^']*)'", block)
        name = (_argument(block, "label") or (group[1] if group else path.stem)).strip()
        energies = energies_in_eV(arrays["x"]) + float(_argument(block, "bkg_eshift") or 0.0)
        raw = False if _argument(block, "is_nor") == "1" else None
        spectra.append(RawSpectrum(name, energies, arrays["y"], raw=raw))
    if not spectra:
        raise BadReferenceError(f"{path}: an Athena project without a mu(E) group; save one in Athena, or {_ALLOWED}")
    return spectra


def _argument(block: str, key: str) -> str | None:
    found = re.search(rf"'{key}',\s*(?:'([^']*)'|([-\d.eE+]+))", block)
    return (found[1] if found[1] is not None else found[2]) if found else None
