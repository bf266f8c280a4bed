#!/usr/bin/env bash
# Prints the README's table: the held-out perplexity of tiny-mixtral under each weight scheme and
# group size, and how far it is from that of unquantised weights.
#   tests/tools/perplexity_table.sh [BUILD_DIRECTORY]
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
intermix=${1:-$root/build/release}/bin/intermix
group_sizes=(32 64 128)

# perplexity OPTION...
perplexity() {
  "$intermix" perplexity --json --model "$root/tests/data/tiny-mixtral" \
    --text "$root/tests/data/text/kjv-heldout.txt" "$@" 2>/dev/null |
    sed -n 's/.*"perplexity": *\([0-9.]*\).*/\1/p'
}

# row NAME OPTION...: one scheme at every group size.
row() {
  local name=$1 cells="" group value
  shift
  for group in "${group_sizes[@]}"; do
    value=$(perplexity --group-size "$group" "$@")
    cells+=$(awk -v value="$value" -v none="$none" \
      'BEGIN { printf " %.3f (%+.2f%%) |", value, 100 * (value / none - 1) }')
  done
  printf '| %s |%s\n' "$name" "$cells"
}

none=$(perplexity --scheme none)
printf '| weights (activations int8) | g = %s | g = %s | g = %s |\n' "${group_sizes[@]}"
printf '|---|---|---|---|\n'
row 'int4, float scales' --scheme float
row 'int4, integer scales, folded (0..15)' --scales folded
row 'int4, integer scales, wide, amplifier per channel' --scales wide
row 'int4, integer scales, wide, amplifier 1024 (the paper)' --amplifier 1024
printf '\nNot quantised: %.3f.\n' "$none"
