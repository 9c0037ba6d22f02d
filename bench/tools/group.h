/* What the consumers in C share: a member of a group whose messages come by a queue of its own, or by polling. */
#pragma once
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "rdkafka.h"

/* Messages of one batch call. */
#define BATCH 1000

static rd_kafka_queue_t *messages;

static inline long long now_ns(clockid_t clock) {
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

/* Joins the group. The batch call must not see the group's own queue, where it would swallow rebalances: with `batches`
 * every assigned partition's queue is forwarded to `messages`. */
static rd_kafka_t *join(const char *broker, const char *topic, const char *group, int batches) {
  char why[512];
  rd_kafka_conf_t *conf = rd_kafka_conf_new();
  set(conf, "bootstrap.servers", broker);
  set(conf, "group.id", group);
  set(conf, "auto.offset.reset", "earliest");
  set(conf, "fetch.queue.backoff.ms", "2");
  rd_kafka_conf_set_rebalance_cb(conf, rebalance);
  rd_kafka_t *consumer = rd_kafka_new(RD_KAFKA_CONSUMER, conf, why, sizeof why);
  if (!consumer) {
    fprintf(stderr, "%s\n", why);
    exit(1);
  }
  rd_kafka_poll_set_consumer(consumer);
  if (batches) messages = rd_kafka_queue_new(consumer);
  rd_kafka_topic_partition_list_t *topics = rd_kafka_topic_partition_list_new(1);
  rd_kafka_topic_partition_list_add(topics, topic, RD_KAFKA_PARTITION_UA);
  rd_kafka_subscribe(consumer, topics);
  return consumer;
}

/* What is there of a batch, after a short wait. */
static inline ssize_t take(rd_kafka_t *consumer, rd_kafka_message_t **batch) {
  /* Rebalances and errors, without waiting; no message comes this way. */
  rd_kafka_message_t *event = rd_kafka_consumer_poll(consumer, 0);
  if (event) rd_kafka_message_destroy(event);
  return rd_kafka_consume_batch_queue(messages, 10, batch, BATCH);
}
