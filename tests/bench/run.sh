#!/bin/sh
# make bench: builds its helpers, and runs the comparison.
set -eu
cd "$(dirname "$0")/../.."
command -v python3 >/dev/null || { echo "bench: needs python3"; exit 1; }
${CARGO:-cargo} build --locked --release --example floor --example tables --example spool --example sink --example tls_source --example filter
exec python3 -B tests/bench/run.py "$@"
