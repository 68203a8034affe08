"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one machine-readable object as the last line.")]
References = Annotated[
    list[Path] | None,
    typer.Option("--references", help="Reference spectra: one file per state (repeat the option), or one library."),
]
ProfileFile = Annotated[Path | None, typer.Option("--profile", help="TOML file that says where the data are.")]
