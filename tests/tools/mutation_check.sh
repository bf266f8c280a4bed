#!/usr/bin/env bash
# Breaks each invariance rule of the numerics on purpose and sees a test fail: shows that the
# invariance and parity tests guard what they claim to. Works on a copy of the checkout.
#
#   tests/tools/mutation_check.sh [WORK_DIRECTORY]
#
# Prints a line per mutation, exit code 0 when every one was caught. Takes a while: it rebuilds the
# tests once for each.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
work=${1:-$(mktemp -d)}
mkdir -p "$work"
missed=0

# fresh: the copy as the checkout has it.
fresh() { git -C "$root" ls-files -z | (cd "$root" && xargs -0 tar cf -) | tar xf - -C "$work"; }

# mutate RULE FILE PERL_SUBSTITUTION TEST_TARGET GTEST_FILTER
mutate() {
  local rule=$1 file=$2 substitution=$3 target=$4 filter=$5
  fresh
  perl -0pi -e "$substitution" "$work/$file"
  if cmp -s "$root/$file" "$work/$file"; then
    printf 'STALE   %s: the substitution no longer matches %s\n' "$rule" "$file"
    missed=1
    return
  fi
  ninja -C "$work/build" "$target" >"$work/build.log" 2>&1 || {
    printf 'BROKEN  %s: does not build, see %s\n' "$rule" "$work/build.log"
    missed=1
    return
  }
  if timeout 300 "$work/build/bin/$target" --gtest_filter="$filter" >"$work/test.log" 2>&1; then
    printf 'MISSED  %s\n' "$rule"
    missed=1
  else
    printf 'caught  %s\n' "$rule"
  fi
}

fresh
cmake -S "$work" -B "$work/build" -G Ninja -DCMAKE_BUILD_TYPE=Release >"$work/build.log"

mutate 'rule 2: a float reduction runs in the 16-lane order' kernels/core/lane_math.h \
  's/lanes\[k % kLanes\] =\s*std::fma\((.*?), lanes\[k % kLanes\]\)/'\
'lanes[k % 8] = std::fma($1, lanes[k % 8])/s' \
  parity_rows_test '*'
mutate 'rule 3: attention splits merge in ascending order' kernels/cpu/cpu_attention.cc \
  's/partial_of\(pair, split\), total\)/'\
'partial_of(pair, call.NumSplits(pair \/ runs) - split), total)/' \
  parity_attention_test '*'
mutate 'rule 3: K/V blocks are read through the block table' kernels/cpu/cpu_attention.cc \
  's/table\[t \/ block_size\] \* cache\.stride\(0\)/'\
'(table[0] + t \/ block_size) * cache.stride(0)/' \
  invariance_test '*BatchAndChunking/4'
mutate 'rule 3: a head of an int8 cache has the amax of its own row' kernels/cpu/cpu_attention.cc \
  's/kernels_\.rows\.abs_max_f32\(x, head_dim\)/'\
'[&] { static float most = 0.0f; '\
'return most = std::max(most, kernels_.rows.abs_max_f32(x, head_dim)); }()/' \
  invariance_test '*BatchAndChunking/7'
mutate 'rule 4: router ties go to the lowest expert' kernels/cpu/cpu_feed_forward.cc \
  's/logits\[e\] > logits\[experts/logits[e] >= logits[experts/' parity_rows_test '*'
mutate 'rule 5: slots are summed in ascending order' kernels/cpu/row_kernels_inl.h \
  's/V sum = V::Set\(weights\[0\]\) \* V::Load\(rows\[0\] \+ i, e\);\s*'\
'for \(int r = 1; r < num_rows; \+\+r\)/'\
'V sum = V::Set(weights[num_rows - 1]) * V::Load(rows[num_rows - 1] + i, e);\n      '\
'for (int r = 0; r + 1 < num_rows; ++r)/' \
  parity_rows_test '*'
mutate 'rule 5: results come back to their slot' moe/replicated_dispatcher.cc \
  's/exec, order\.row_of_slot, work\.run/exec, order.token_of_row, work.run/' \
  invariance_test '*EveryLayout/4'
mutate 'rule 6: random numbers depend on the output index, not on history' \
  runtime/engine/sampler.cc \
  's/static_cast<uint32_t>\(state\.output\.size\(\)\)/'\
'[] { static uint32_t calls = 0; return calls++; }()/' \
  runtime_engine_invariance_test '*'
mutate 'rule 6: ties go to the lowest token' kernels/cpu/cpu_top_k.cc \
  's/: value > other/: value >= other/' parity_rows_test '*TopK*'
mutate 'rule 6: ties go to the lowest token, also of slices' runtime/engine/merge_likeliest.cc \
  's/: a > b/: a >= b/' runtime_merge_likeliest_test '*'
mutate 'activations: amax is of the full row, not of the shard' comm/parallel_linear.cc \
  's/  comm_\.AllReduceMax\([^;]*;//' invariance_test '*EveryLayout/4'

exit "$missed"
