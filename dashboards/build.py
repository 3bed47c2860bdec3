#!/usr/bin/env python3
"""Writes the dashboards beside it: `dashboards/build.py`; with `--check` it only says whether they are as it would write them.

Each dashboard is a file in `source/`, panel by panel; what they share is there, too: `expressions.py`, `panels.py`, `dashboard.py`.
"""

import json
import pathlib
import sys

sys.dont_write_bytecode = True

from source import limits, local, overview, upstreams, usage  # noqa: E402

FOLDER = pathlib.Path(__file__).parent
DASHBOARDS = {
    "overview": overview.overview,
    "usage": usage.usage,
    "upstreams": upstreams.upstreams,
    "limits": limits.limits,
    "local": local.local,
}


def main():
    check = sys.argv[1:] == ["--check"]
    if sys.argv[1:] and not check:
        sys.exit(__doc__)
    stale = []
    for name, build in DASHBOARDS.items():
        path, text = FOLDER / f"{name}.json", json.dumps(build(), indent=2, ensure_ascii=False) + "\n"
        if check and (not path.exists() or path.read_text() != text):
            stale.append(path.name)
        elif not check:
            path.write_text(text)
    if stale:
        sys.exit(f"not as build.py writes them: {', '.join(stale)}; run dashboards/build.py")


if __name__ == "__main__":
    main()
