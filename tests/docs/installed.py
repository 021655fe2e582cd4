"""What `pip install` and `npm install` of a page would bring is declared by the project and is here. Run in a checkout.

python -m tests.docs.installed '.[otel]'        an extra of pyproject.toml, and all that it names
python -m tests.docs.installed ccxt bybit-api   libraries that the tests have, of Python or of Node
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

_EXTRA: Final = re.compile(r"\.\[(?P<names>[\w,-]+)\]")
_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")


def missing(wanted: str) -> list[str]:
    """What of it is neither here nor declared."""
    match = _EXTRA.fullmatch(wanted)
    if match is None:
        return [] if wanted == "." or _is_known(wanted) else [wanted]
    extras = tomllib.loads(Path("pyproject.toml").read_text())["project"]["optional-dependencies"]
    lacking = []
    for name in match["names"].split(","):
        if name not in extras:
            lacking.append(f"the extra {name}")
            continue
        lacking += [each for each in extras[name] if not _is_known(each)]
    return lacking


def _is_known(requirement: str) -> bool:
    match = _NAME.match(requirement)
    if match is None:
        return False
    try:
        version(match[0])
    except PackageNotFoundError:
        return match[0] in json.loads(Path("tests/clients/js/package.json").read_text())["dependencies"]
    return True


def main() -> int:
    wanted = [word for word in sys.argv[1:] if not word.startswith("-")]
    lacking = [each for word in wanted for each in missing(word)]
    print(f"not declared or not here: {', '.join(lacking)}" if lacking or not wanted else "declared, and here")
    return 1 if lacking or not wanted else 0


if __name__ == "__main__":
    sys.exit(main())
