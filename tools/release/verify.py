"""`python -m release.verify FOLDER --key release.pub`: is this what was released? Offline.

One line and status 0 if so: it says of which version and commit, for an older release is as well
signed as the newest. One line that names the file, and status 1, if not.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from release.signatures import NotVerified, public, verify


def main() -> int:
    parser = argparse.ArgumentParser(description="Verifies a release, offline.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--key", type=Path, required=True, help="the releaser's public key, PEM")
    given = parser.parse_args()
    try:
        found = verify(given.folder, public(given.key.read_bytes()))
    except (NotVerified, OSError, ValueError) as error:
        print(f"NOT VERIFIED: {error}", file=sys.stderr)
        return 1
    print(f"verified: {found.files} files are those of {found.version}, commit {found.commit}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
