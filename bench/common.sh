# What the benchmarks share: a real Kafka, the daemon, and waiting. Sourced, after `root` and `work` are set.
#
# Needs Java and Maven. `finish` ends what was started.
profile=${PROFILE:-release}
target=${CARGO_TARGET_DIR:-$root/target}/$profile
moontide=$target/moontide
[[ $profile == release ]] && arguments=(--release) || arguments=()
kafka=
daemon=

finish() {
  for pid in $kafka $daemon; do kill -9 "$pid" 2>/dev/null || true; done
  rm -rf "$work"
}
trap finish EXIT

free_port() {
  local port
  while port=$((20000 + RANDOM % 10000)); do
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
  done
}

wait_until() { # WHAT SECONDS COMMAND…
  local what=$1 deadline=$((SECONDS + $2))
  shift 2
  until "$@"; do
    ((SECONDS < deadline)) || { echo "waited in vain: $what" >&2; exit 1; }
    sleep 0.01
  done
}

now_ms() { date +%s%3N; }
memory_kb() { awk -v field="$2:" '$1 == field { print $2 }' "/proc/$1/status"; }
median() { sort -n | awk '{ value[NR] = $1 } END { print (NR % 2) ? value[(NR + 1) / 2] : (value[NR / 2] + value[NR / 2 + 1]) / 2 }'; }

start_kafka() {
  local settings=$root/tests/it/support/kafka port controller
  libraries=$root/target/kafka-libs-bench
  if [[ ! -d $libraries ]]; then
    mvn -q -B -f "$settings/pom.xml" dependency:copy-dependencies -DoutputDirectory="$work/libs"
    mv "$work/libs" "$libraries"
  fi
  port=$(free_port) controller=$(free_port)
  broker=127.0.0.1:$port
  sed -e "s|@BROKER@|$port|" -e "s|@CONTROLLER@|$controller|" -e "s|@DATA@|$work/data|" \
    "$settings/server.properties" >"$work/server.properties"
  java -cp "$libraries/*" kafka.tools.StorageTool format -t bW9vbnRpZGUtYmVuY2gtMQ -c "$work/server.properties" >/dev/null 2>&1
  java -Xms256m -Xmx768m -Dlog4j2.configurationFile="$settings/log4j2.properties" -cp "$libraries/*" \
    kafka.Kafka "$work/server.properties" >"$work/broker.log" 2>&1 &
  kafka=$!
  disown
  listening() { (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; }
  wait_until "the broker listens" 90 listening
}

tool() { java -XX:TieredStopAtLevel=1 -cp "$libraries/*" "org.apache.kafka.tools.$1" "${@:2}"; }

logged() { grep -q "$1" "$work/log"; }
stop() {
  kill "$daemon"
  wait "$daemon" || true
  daemon=
}
