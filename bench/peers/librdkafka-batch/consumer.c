/* A group consumer in C over librdkafka, as fast as its API allows: it takes messages by the batch call and throws them
 * away. From the first message to the RECORDS-th, in milliseconds; commits are automatic.
 * For the task `latency` it polls message by message, and tells percentiles. */
#include <string.h>
#include "../../tools/group.h"

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

static int by_size(const void *a, const void *b) {
  long long x = *(const long long *)a, y = *(const long long *)b;
  return (x > y) - (x < y);
}

static void measure_latency(rd_kafka_t *consumer, long long total) {
  long long *took = malloc(total * sizeof *took), count = 0, measured = 0, first = 0;
  while (count < total) {
    rd_kafka_message_t *message = rd_kafka_consumer_poll(consumer, 100);
    if (!message) continue;
    long long sent = 0;
    if (!message->err) {
      if (count++ == 0) first = now_ns(CLOCK_MONOTONIC);
      memcpy(&sent, message->payload, sizeof sent);
      if (sent) took[measured++] = now_ns(CLOCK_REALTIME) - sent;
    }
    rd_kafka_message_destroy(message);
  }
  printf("%lld %lld\n", count, (now_ns(CLOCK_MONOTONIC) - first) / 1000000 + 1);
  qsort(took, measured, sizeof *took, by_size);
  printf("latency %lld %lld %lld %lld\n", took[measured / 2] / 1000, took[measured * 99 / 100] / 1000,
         took[measured * 999 / 1000] / 1000, measured);
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
