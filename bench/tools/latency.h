/* What the consumers in C that measure latency share: the nanoseconds that each message took, and what is told of them. */
#pragma once
#include <string.h>
#include "group.h"

struct latency {
  long long *took, measured, count, first;
};

static struct latency latency_of(long long total) {
  return (struct latency){.took = malloc(total * sizeof(long long))};
}

/* One message; its payload begins with the time at which it was produced, or with 0 where it does not count. */
static void latency_add(struct latency *all, const rd_kafka_message_t *message) {
  long long sent = 0;
  if (message->err) return;
  if (all->count++ == 0) all->first = now_ns(CLOCK_MONOTONIC);
  memcpy(&sent, message->payload, sizeof sent);
  if (sent) all->took[all->measured++] = now_ns(CLOCK_REALTIME) - sent;
}

static int by_size(const void *a, const void *b) {
  long long x = *(const long long *)a, y = *(const long long *)b;
  return (x > y) - (x < y);
}

static void latency_tell(struct latency *all) {
  long long *took = all->took, measured = all->measured;
  printf("%lld %lld\n", all->count, (now_ns(CLOCK_MONOTONIC) - all->first) / 1000000 + 1);
  qsort(took, measured, sizeof *took, by_size);
  printf("latency %lld %lld %lld %lld\n", took[measured / 2] / 1000, took[measured * 99 / 100] / 1000,
         took[measured * 999 / 1000] / 1000, measured);
}
