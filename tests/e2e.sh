#!/usr/bin/env bash
# Runs tests that need a cluster: `tests/e2e.sh THREADS CARGO_TEST_ARGUMENTS...`.
#
# What failed is run once more, alone: a small machine that is also the cluster's node may stand still for seconds, and
# the deadlines of these tests are those of the product. What fails twice has failed.
set -uo pipefail

threads=$1
shift
log=$(mktemp)
trap 'rm -f "$log"' EXIT

if RUST_TEST_THREADS=$threads "${CARGO:-cargo}" test "$@" -- --ignored 2>&1 | tee "$log"; then
    exit 0
fi
mapfile -t failed < <(sed -n 's/^test \([^ ]*\) \.\.\. FAILED$/\1/p' "$log")
((${#failed[@]} > 0)) || exit 1
echo "once more, alone: ${failed[*]}"
RUST_TEST_THREADS=1 "${CARGO:-cargo}" test "$@" -- --ignored --exact "${failed[@]}"
