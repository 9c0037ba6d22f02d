"""A group consumer of confluent-kafka that takes 1,000 messages a call: from the first message to the RECORDS-th, in
milliseconds. Commits are automatic."""

import json
import os
import sys
import time

from confluent_kafka import Consumer

broker, topic, group, records, task = sys.argv[1:]
total = int(records)
consumer = Consumer({
    "bootstrap.servers": broker,
    "group.id": group,
    "auto.offset.reset": "earliest",
    "fetch.queue.backoff.ms": 2,
})
consumer.subscribe([topic])

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
