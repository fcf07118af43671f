#!/bin/sh
# make bench: builds the floor and the tables, and runs the comparison.
set -eu
cd "$(dirname "$0")/../.."
command -v python3 >/dev/null || { echo "bench: needs python3"; exit 1; }
${CARGO:-cargo} build --locked --release --example floor --example tables
exec python3 tests/bench/run.py "$@"
