#!/usr/bin/env bash
# A virtual environment with the pinned libraries, in .venv beside this script. Nothing in the build or the tests needs it.
set -euo pipefail
cd "$(dirname "$0")"
python3 -m venv .venv
.venv/bin/pip install --quiet --requirement requirements.txt
