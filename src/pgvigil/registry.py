"""A package whose modules are the registry: a new file is a new command, or a new report format."""

from __future__ import annotations

from pathlib import Path


def modules(package: str) -> list[str]:
    """The modules of this package of pgvigil, such as `commands`, in alphabetical order. None of them is imported."""
    folder = Path(__file__).parent.joinpath(*package.split("."))
    return sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")
