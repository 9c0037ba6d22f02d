/* A group consumer in C over librdkafka, as fast as its API allows: it takes messages by the batch call and throws them
 * away. From the first message to the RECORDS-th, in milliseconds; commits are automatic.
 * For the task `latency` it polls message by message, and tells percentiles. */
#include "../../tools/latency.h"

static void throw_away(rd_kafka_t *consumer, long long total) {
  rd_kafka_message_t *batch[BATCH];
  long long count = 0, first = 0;
  while (count < total) {
    ssize_t taken = take(consumer, batch);
    if (taken > 0 && count == 0) first = now_ns(CLOCK_MONOTONIC);
    for (ssize_t i = 0; i < taken; i++) {
      count += !batch[i]->err;
      rd_kafka_message_destroy(batch[i]);
    }
  }
  printf("%lld %lld\n", count, (now_ns(CLOCK_MONOTONIC) - first) / 1000000 + 1);
}

static void measure_latency(rd_kafka_t *consumer, long long total) {
  struct latency all = latency_of(total);
  while (all.count < total) {
    rd_kafka_message_t *message = rd_kafka_consumer_poll(consumer, 100);
    if (!message) continue;
    latency_add(&all, message);
    rd_kafka_message_destroy(message);
  }
  latency_tell(&all);
}

int main(int count, char **arguments) {
  if (count != 6) {
    fprintf(stderr, "usage: consumer BROKER TOPIC GROUP RECORDS TASK\n");
    return 2;
  }
  int latency = !strcmp(arguments[5], "latency");
  rd_kafka_t *consumer = join(arguments[1], arguments[2], arguments[3], !latency);
  long long total = atoll(arguments[4]);
  if (latency) measure_latency(consumer, total);
  else throw_away(consumer, total);
  fflush(stdout);
  /* The group is new each time: leaving it in order is nothing to measure. */
  _Exit(0);
}
