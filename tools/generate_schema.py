"""Writes deploy/app.schema.json, the JSON schema of the file of `tagtrail deploy`, from the code.

    python tools/generate_schema.py            write it
    python tools/generate_schema.py --check    exit 1 when it is not what the code says

A unit test makes the same check.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from serve.app.schema import app_schema

FILE = Path(__file__).parent.parent / "deploy" / "app.schema.json"


def schema_text() -> str:
    """The file as the code says."""
    return json.dumps(app_schema(), indent=2) + "\n"


def main() -> int:
    """The command."""
    is_current = FILE.exists() and FILE.read_text() == schema_text()
    if "--check" in sys.argv[1:]:
        if not is_current:
            print(f"{FILE.name} is not what the code says. Run: python tools/generate_schema.py")
        return 0 if is_current else 1
    if not is_current:
        FILE.write_text(schema_text())
        print(f"wrote {FILE.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
