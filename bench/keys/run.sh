#!/usr/bin/env bash
# How long RECORDS messages of one partition take whose handler waits for 0 to 5 ms each, in the order of their keys.
#
# By 1,000 and by 20 keys; the least possible time is the longest key's own waiting. Medians of ROUNDS runs, each by a
# new group. It needs Java and Maven, ends what it starts, and leaves nothing but `target/`.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
records=${RECORDS:-10000}
rounds=${ROUNDS:-5}
work=$(mktemp -d -t moontide-bench.XXXXXX)
. "$root/bench/common.sh"

# fill TOPIC KEYS
fill() {
  tool TopicCommand --bootstrap-server "$broker" --create --topic "$1" --partitions 1 --replication-factor 1 >/dev/null
  awk -v records="$records" -v keys="$2" 'BEGIN { for (i = 0; i < records; i++) printf "key-%d:%d\n", i % keys, i }' |
    tool ConsoleProducer --bootstrap-server "$broker" --topic "$1" \
      --property parse.key=true --property key.separator=: >/dev/null 2>&1
}

# took TOPIC: milliseconds of one run.
took() {
  : >"$work/log"
  BENCH_BROKER=$broker BENCH_GROUP=$(basename "$work")-$RANDOM-$RANDOM BENCH_TOPIC=$1 BENCH_DIRECTORY=$work \
    BENCH_RECORDS=$records "$moontide" run --config "$here/project/config.toml" 2>"$work/log" &
  daemon=$!
  wait_until "all messages are handled" 120 logged 'bench: '
  stop
  sed -n 's/.*bench: [0-9]* messages in \([0-9]*\) ms.*/\1/p' "$work/log"
}

(cd "$root" && cargo build --locked --quiet "${arguments[@]}")
start_kafka
for keys in 1000 20; do
  fill "keys-$keys" "$keys"
  for round in $(seq "$rounds"); do
    ms=$(took "keys-$keys")
    echo "$ms" >>"$work/$keys"
    echo "$keys keys, round $round: $ms ms"
  done
  echo "$keys keys: median $(median <"$work/$keys") ms for $records messages"
done
