#!/usr/bin/env bash
# A Kafka broker (KRaft, one node) from its own jars out of Maven Central, on loopback: kafka.sh start|stop|status.
#
# The address is kafka://127.0.0.1:PORT; a second listener asks for a password (SASL PLAIN, user "headrace", password
# "secret-of-the-tests"), its address goes to .services/kafka_sasl.url. HEADRACE_KAFKA=NAME starts a broker of that
# name with data of its own beside the common one: for tests that stop and start it.
set -euo pipefail
cd "$(dirname "$0")/../.."
name=${HEADRACE_KAFKA:-kafka}
home=$PWD/.services/$name
jars=$PWD/.services/kafka-jars
sums=$PWD/tools/services/kafka.sha512
pid_file=$home/pid
url_file=.services/$name.url

running() {
    [ -f "$pid_file" ] && kill -0 "$(cat "$pid_file")" 2>/dev/null
}

answers() {
    running && (exec 3<>"/dev/tcp/127.0.0.1/$(cat "$home/port")") 2>/dev/null && [ -f "$home/started" ]
}

install() {
    (cd "$jars" 2>/dev/null && sha512sum --quiet --check "$sums" >/dev/null 2>&1) && return
    if ! command -v java >/dev/null || ! command -v mvn >/dev/null; then
        local sudo=""
        [ "$(id -u)" -eq 0 ] || sudo="sudo"
        $sudo apt-get -o DPkg::Lock::Timeout=120 update -qq
        DEBIAN_FRONTEND=noninteractive $sudo apt-get -o DPkg::Lock::Timeout=120 install -y -qq \
            --no-install-recommends default-jre-headless maven >/dev/null
    fi
    rm -rf "$jars"
    mvn -q -B -f tools/services/kafka.pom.xml dependency:copy-dependencies -DoutputDirectory="$jars"
    (cd "$jars" && sha512sum --quiet --check "$sums")
    for jar in "$jars"/*.jar; do
        grep -q " $(basename "$jar")\$" "$sums" || { echo "$(basename "$jar") is not in kafka.sha512" >&2; return 1; }
    done
}

free_port() {
    local port=$1
    while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
        port=$((port + 1))
    done
    echo "$port"
}

configure() {
    local port controller sasl
    port=$(free_port $((19092 + RANDOM % 2000)))
    sasl=$(free_port $((port + 1)))
    controller=$(free_port $((sasl + 1)))
    mkdir -p "$home/data"
    echo "$port" >"$home/port"
    echo "$sasl" >"$home/sasl_port"
    cat >"$home/server.properties" <<END
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:$port,SASL_PLAINTEXT://127.0.0.1:$sasl,CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAINTEXT://127.0.0.1:$port,SASL_PLAINTEXT://127.0.0.1:$sasl
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_plaintext.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_headrace="secret-of-the-tests";
log.dirs=$home/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
log.index.size.max.bytes=1048576
log.cleaner.dedupe.buffer.size=16777216
num.io.threads=4
broker.session.timeout.ms=1000
broker.heartbeat.interval.ms=200
num.network.threads=2
END
}

# Quick to start, and small: what the tests and benches ask for, not what a broker of production has.
java=(java -Xms192m -Xmx640m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp "$jars/*")

start() {
    answers && return
    install
    [ -f "$home/server.properties" ] || configure
    # Tests leave their topics behind; so many partitions make a start slow.
    [ "$(find "$home/data" -maxdepth 1 -type d | wc -l)" -lt 3000 ] || rm -rf "$home/data"
    [ -f "$home/data/meta.properties" ] ||
        "${java[@]}" kafka.tools.StorageTool format --config "$home/server.properties" --cluster-id aGVhZHJhY2UtdGVzdHMwMA
    rm -f "$home/started"
    nohup setsid "${java[@]}" kafka.Kafka "$home/server.properties" >"$home/broker.log" 2>&1 </dev/null &
    echo $! >"$pid_file"
    for _ in $(seq 300); do
        if grep -q "Kafka Server started" "$home/broker.log" 2>/dev/null; then
            touch "$home/started"
            echo "kafka://127.0.0.1:$(cat "$home/port")" >"$url_file"
            echo "kafka://127.0.0.1:$(cat "$home/sasl_port")" >".services/${name}_sasl.url"
            return
        fi
        sleep 0.2
        [ -f "$pid_file" ] && ! running && break
    done
    echo "the broker did not start; the end of $home/broker.log:" >&2
    tail -20 "$home/broker.log" >&2
    return 1
}

stop() {
    rm -f ".services/${name}_sasl.url"
    rm -f "$home/started"
    running || return 0
    kill "$(cat "$pid_file")"
    for _ in $(seq 100); do
        running || return 0
        sleep 0.2
    done
    kill -9 "$(cat "$pid_file")"
}

case ${1:?usage: kafka.sh start|stop|status} in
    start) start ;;
    stop) stop ;;
    status) answers ;;
    *) echo "usage: kafka.sh start|stop|status" >&2 && exit 2 ;;
esac
