/* A group consumer in C over librdkafka, as fast as its API allows: it takes messages by the batch call and throws them
 * away. From the first message to the RECORDS-th, in milliseconds; commits are automatic.
 *
 * The batch call must not see the group's own queue, where it would swallow rebalances: every assigned partition's queue
 * is forwarded to one of our own. For the task `latency` it polls message by message, and tells percentiles. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "rdkafka.h"

#define BATCH 1000

static rd_kafka_queue_t *messages;

static long long now_ns(clockid_t clock) {
  struct timespec time;
  clock_gettime(clock, &time);
  return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void set(rd_kafka_conf_t *conf, const char *name, const char *value) {
  char why[512];
  if (rd_kafka_conf_set(conf, name, value, why, sizeof why) != RD_KAFKA_CONF_OK) {
    fprintf(stderr, "%s: %s\n", name, why);
    exit(1);
  }
}

static void rebalance(rd_kafka_t *consumer, rd_kafka_resp_err_t what, rd_kafka_topic_partition_list_t *list, void *opaque) {
  (void)opaque;
  if (what != RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS) {
    rd_kafka_assign(consumer, NULL);
    return;
  }
  for (int i = 0; messages && i < list->cnt; i++) {
    rd_kafka_queue_t *queue = rd_kafka_queue_get_partition(consumer, list->elems[i].topic, list->elems[i].partition);
    rd_kafka_queue_forward(queue, messages);
    rd_kafka_queue_destroy(queue);
  }
  rd_kafka_assign(consumer, list);
}

static void throw_away(rd_kafka_t *consumer, long long total) {
  rd_kafka_message_t *batch[BATCH];
  long long count = 0, first = 0;
  while (count < total) {
    /* Rebalances and errors, without waiting; no message comes this way. */
    rd_kafka_message_t *event = rd_kafka_consumer_poll(consumer, 0);
    if (event) rd_kafka_message_destroy(event);
    ssize_t taken = rd_kafka_consume_batch_queue(messages, 10, batch, BATCH);
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
  char why[512];
  rd_kafka_conf_t *conf = rd_kafka_conf_new();
  set(conf, "bootstrap.servers", arguments[1]);
  set(conf, "group.id", arguments[3]);
  set(conf, "auto.offset.reset", "earliest");
  set(conf, "fetch.queue.backoff.ms", "5");
  rd_kafka_conf_set_rebalance_cb(conf, rebalance);
  rd_kafka_t *consumer = rd_kafka_new(RD_KAFKA_CONSUMER, conf, why, sizeof why);
  if (!consumer) {
    fprintf(stderr, "%s\n", why);
    return 1;
  }
  rd_kafka_poll_set_consumer(consumer);
  if (!latency) messages = rd_kafka_queue_new(consumer);
  rd_kafka_topic_partition_list_t *topics = rd_kafka_topic_partition_list_new(1);
  rd_kafka_topic_partition_list_add(topics, arguments[2], RD_KAFKA_PARTITION_UA);
  rd_kafka_subscribe(consumer, topics);
  long long total = atoll(arguments[4]);
  if (latency) measure_latency(consumer, total);
  else throw_away(consumer, total);
  fflush(stdout);
  /* The group is new each time: leaving it in order is nothing to measure. */
  _Exit(0);
}
