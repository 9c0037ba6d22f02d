#!/usr/bin/env bash
# What handlers that never end (`while true do end`, ended after 100 ms by `limits.blocking`) cost the others.
#
# Two workers, one partition each. In both a handler sleeps for 1 ms again and again and writes down how long that took;
# in the second run LOOPS messages of the first partition never end. Calm and wild by turns, ROUNDS times: the longest
# gap in the worker of the loops, and the 99th percentile in the other one. Needs Java and Maven, ends what it starts.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
loops=${LOOPS:-40}
rounds=${ROUNDS:-3}
seconds=${SECONDS_A_RUN:-8}
work=$(mktemp -d -t moontide-bench.XXXXXX)
. "$root/bench/common.sh"

# fill TOPIC LOOPS
fill() {
  tool TopicCommand --bootstrap-server "$broker" --create --topic "$1" --partitions 2 --replication-factor 1 >/dev/null
  # The keys are such that each finds its partition: the first of some that the tool puts there.
  {
    for key in a b c d e f g h; do echo "$key:tick"; done
    for _ in $(seq "$2"); do echo "$loop_key:loop"; done
  } | tool ConsoleProducer --bootstrap-server "$broker" --topic "$1" --property parse.key=true --property key.separator=: \
    >/dev/null 2>&1
}

# ran TOPIC: the gaps of one run in `$work/gaps`.
ran() {
  : >"$work/log"
  : >"$work/gaps"
  BENCH_BROKER=$broker BENCH_GROUP=$(basename "$work")-$RANDOM-$RANDOM BENCH_TOPIC=$1 BENCH_DIRECTORY=$work \
    BENCH_SECONDS=$seconds "$moontide" run --config "$here/project/config.toml" 2>"$work/log" &
  daemon=$!
  ticked() { (($(grep -c 'bench: partition' "$work/log") >= 2)); }
  wait_until "both have ticked" 120 ticked
  stop
}

gaps() { awk -v partition="$1" '$1 == partition { print $2 }' "$work/gaps" | sort -n; }
percentile() { awk -v share="$1" '{ value[NR] = $1 } END { at = int(NR * share + 0.999999); print value[at < 1 ? 1 : at] }'; }

(cd "$root" && cargo build --locked --quiet "${arguments[@]}")
start_kafka
# `a` goes to this partition; the loops go with it.
loop_key=a
fill calm 0
fill wild "$loops"
for round in $(seq "$rounds"); do
  for topic in calm wild; do
    ran "$topic"
    for partition in 0 1; do
      echo "round $round, $topic, partition $partition: $(gaps $partition | wc -l) ticks," \
        "median $(gaps $partition | percentile 0.5) ms, p99 $(gaps $partition | percentile 0.99) ms," \
        "longest $(gaps $partition | tail -n 1) ms; $(grep -c 'message skipped' "$work/log" || true) loops told of"
    done
  done
done
