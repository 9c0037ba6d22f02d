#!/usr/bin/env bash
# How many messages a second Moontide handles, against librdkafka's own consumer on the same machine in the same run.
#
# A real Kafka, one partition, RECORDS messages of SIZE bytes, a Lua handler that reads the value, automatic commits.
# Turn by turn (A B A B …), each time by a new group; medians and their ratio at the end. Then memory and start.
# It needs Java and Maven, ends what it starts, and leaves nothing but `target/`.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
records=${RECORDS:-2000000}
size=${SIZE:-200}
rounds=${ROUNDS:-3}
work=$(mktemp -d -t moontide-bench.XXXXXX)
. "$root/bench/common.sh"

build() {
  (cd "$root" && cargo build --locked --quiet "${arguments[@]}")
  # The program of librdkafka's sources, with the very library that moontide is linked with.
  local messages librdkafka
  messages=$(cd "$root" && cargo build --locked --quiet "${arguments[@]}" --message-format=json)
  directory_of() { grep -o "\"out_dir\":\"[^\"]*/$1-[0-9a-f]*/out\"" <<<"$messages" | head -n 1 | cut -d '"' -f 4; }
  librdkafka=$(directory_of rdkafka-sys)
  cc -O2 -w -I"$librdkafka/src" -I"$librdkafka" "$librdkafka/examples/rdkafka_performance.c" -o "$work/rdkafka_performance" \
    "$librdkafka/src/librdkafka.a" \
    "$(directory_of openssl-sys)"/openssl-build/install/lib/lib{ssl,crypto}.a \
    "$(directory_of libz-sys)/lib/libz.a" "$(directory_of zstd-sys)/libzstd.a" -lpthread -ldl -lrt -lm
}

fill() {
  for topic in full empty; do
    tool TopicCommand --bootstrap-server "$broker" --create --topic "$topic" --partitions 1 --replication-factor 1 >/dev/null
  done
  tool ProducerPerformance --topic full --num-records "$records" --record-size "$size" --throughput -1 \
    --producer-props "bootstrap.servers=$broker" batch.size=100000 linger.ms=20 2>/dev/null | tail -n 1
}

# start TOPIC HANDLER: the daemon's process id in `daemon`, its log in `$work/log`.
start() {
  # Nothing of the run before may be taken for this one's.
  : >"$work/log"
  BENCH_BROKER=$broker BENCH_GROUP=$(basename "$work")-$RANDOM-$RANDOM BENCH_TOPIC=$1 BENCH_HANDLER=$2 \
    BENCH_DIRECTORY=$work BENCH_RECORDS=$records \
    "$moontide" run --config "$here/project/config.toml" 2>"$work/log" &
  daemon=$!
}
moontide_rate() {
  start full read
  wait_until "all messages are handled" 600 logged 'bench: '
  echo "memory ${size} B, running: $(($(memory_kb "$daemon" VmHWM) / 1024)) MiB at most" >&2
  stop
  sed -n 's/.*bench: \([0-9]*\) messages in \([0-9]*\) ms.*/\1 \2/p' "$work/log" | awk '{ printf "%d\n", $1 * 1000 / $2 }'
}

librdkafka_rate() {
  "$work/rdkafka_performance" -G "bench-$RANDOM-$RANDOM" -t full -b "$broker" -c "$records" -o beginning -q \
    -X auto.offset.reset=earliest -X topic.auto.offset.reset=earliest 2>&1 |
    sed -n 's/.* messages .* consumed in .*: \([0-9]*\) msgs\/s.*/\1/p' | tail -n 1
}

compare() {
  local a b
  for round in $(seq "$rounds"); do
    a=$(librdkafka_rate)
    b=$(moontide_rate)
    echo "$a" >>"$work/a"
    echo "$b" >>"$work/b"
    echo "round $round: rdkafka_performance -G $a msg/s, moontide $b msg/s"
  done
  a=$(median <"$work/a") b=$(median <"$work/b")
  awk -v a="$a" -v b="$b" 'BEGIN { printf "median: rdkafka_performance -G %d msg/s, moontide %d msg/s, ratio %.2f\n", a, b, b / a }'
}

memory() {
  start full slow
  wait_until "it runs" 30 logged '"ready"'
  sleep 20
  echo "memory, slow handler and a backlog of $((records * size / 1048576)) MiB: $(($(memory_kb "$daemon" VmHWM) / 1024)) MiB at most"
  stop
  start empty read
  wait_until "it has its partition" 60 logged '"assigned"'
  sleep 5
  echo "memory, idle: $(memory_kb "$daemon" VmRSS) KiB"
  stop
}

times() {
  local began
  began=$(now_ms)
  BENCH_BROKER=$broker BENCH_GROUP=bench BENCH_TOPIC=empty BENCH_HANDLER=read BENCH_DIRECTORY=$work \
    "$moontide" check --config "$here/project/config.toml" >/dev/null
  echo "check: $(($(now_ms) - began)) ms"
  began=$(now_ms)
  start empty read
  wait_until "it runs" 30 logged '"ready"'
  echo "start until READY: $(($(now_ms) - began)) ms"
  stop
}

build
start_kafka
fill
compare
memory
times
