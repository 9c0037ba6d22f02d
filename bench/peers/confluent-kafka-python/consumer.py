"""A group consumer of confluent-kafka that takes 1,000 messages a call: from the first message to the RECORDS-th, in
milliseconds. Commits are automatic. For `emit` it produces each message to the topic of BENCH_OUT, and commits what is
acknowledged."""

import json
import os
import sys
import time

from confluent_kafka import Consumer, Producer, TopicPartition

broker, topic, group, records, task = sys.argv[1:]
total = int(records)
consumer = Consumer({
    "bootstrap.servers": broker,
    "group.id": group,
    "auto.offset.reset": "earliest",
    "fetch.queue.backoff.ms": 2,
    "enable.auto.commit": task != "emit",
})
consumer.subscribe([topic])


def pipe():
    """At most 8,192 records have no acknowledgement. Of the one partition they come in order."""
    producer = Producer({"bootstrap.servers": broker, "enable.idempotence": True, "acks": "all", "linger.ms": 5})
    out = os.environ["BENCH_OUT"]
    sent, acknowledged, first, position = 0, 0, 0.0, 0
    behind = []

    def delivered(error, _):
        nonlocal acknowledged
        if error:
            sys.exit(f"not acknowledged: {error}")
        acknowledged += 1

    committed_at = time.monotonic()
    while acknowledged < total:
        messages = consumer.consume(1000, 0.05) if sent < total and sent - acknowledged + 1000 <= 8192 else []
        if messages and sent == 0:
            first = time.monotonic()
        for message in messages:
            if message.error() or sent == total:
                continue
            producer.produce(out, message.value(), message.key(), on_delivery=delivered)
            behind.append(message.offset() + 1)
            sent += 1
        producer.poll(0 if messages else 0.001)
        now = time.monotonic()
        if acknowledged and now - committed_at >= 0.1:
            position = behind[acknowledged - 1]
            consumer.commit(offsets=[TopicPartition(topic, 0, position)], asynchronous=True)
            committed_at = now
    print(sent, max(1, round((time.monotonic() - first) * 1000)), flush=True)
    os._exit(0)


if task == "emit":
    pipe()

count = 0
first = 0.0
size = 0
while count < total:
    messages = consumer.consume(1000, 0.1)
    if messages and count == 0:
        first = time.monotonic()
    for message in messages:
        if message.error():
            continue
        if task == "json":
            order = json.loads(message.value())
            order["id"], order["customer"], order["amount"]
        else:
            size += len(message.value())
        count += 1
print(count, max(1, round((time.monotonic() - first) * 1000)), flush=True)
# A new group each time: leaving it in order is nothing to measure.
os._exit(0)
