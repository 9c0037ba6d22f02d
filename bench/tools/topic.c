/* Makes, fills and deletes the benchmarks' topics.
 *
 *   topic create BROKER TOPIC PARTITIONS
 *   topic fill BROKER TOPIC PARTITIONS RECORDS SIZE KEYS CODEC KIND   as fast as it can
 *   topic pace BROKER TOPIC PARTITIONS RECORDS SIZE RATE WARM         RATE messages a second
 *   topic count BROKER TOPIC PARTITIONS                              how many records it has, by its offsets
 *   topic committed BROKER TOPIC PARTITIONS                          how many of them readers of committed records see
 *   topic delete BROKER TOPIC
 *
 * Every partition gets the same number of messages: message i goes to partition i % PARTITIONS, or with KEYS > 0, where
 * its key is i % KEYS, to (i % KEYS) % PARTITIONS. KIND `random` is bytes that do not compress, `json` an object.
 * `pace` begins each value with the time of its sending in ns, or for the first WARM messages with zero. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "rdkafka.h"

static long failed;

static void die(const char *what, const char *why) {
  fprintf(stderr, "%s: %s\n", what, why);
  exit(1);
}

static void set(rd_kafka_conf_t *conf, const char *name, const char *value) {
  char why[512];
  if (rd_kafka_conf_set(conf, name, value, why, sizeof why) != RD_KAFKA_CONF_OK) die(name, why);
}

static void delivered(rd_kafka_t *producer, const rd_kafka_message_t *message, void *opaque) {
  (void)producer, (void)opaque;
  if (message->err && !failed++) fprintf(stderr, "not delivered: %s\n", rd_kafka_err2str(message->err));
}

static rd_kafka_t *producer(const char *broker, const char *codec, const char *linger) {
  char why[512];
  rd_kafka_conf_t *conf = rd_kafka_conf_new();
  set(conf, "bootstrap.servers", broker);
  set(conf, "compression.codec", codec);
  set(conf, "linger.ms", linger);
  set(conf, "batch.size", "100000");
  set(conf, "message.max.bytes", "2000000");
  rd_kafka_conf_set_dr_msg_cb(conf, delivered);
  rd_kafka_t *made = rd_kafka_new(RD_KAFKA_PRODUCER, conf, why, sizeof why);
  if (!made) die("producer", why);
  return made;
}

static void administer(const char *broker, const char *topic, int partitions) {
  char why[512];
  rd_kafka_t *client = producer(broker, "none", "0");
  rd_kafka_queue_t *answers = rd_kafka_queue_new(client);
  const rd_kafka_topic_result_t **results;
  size_t count;
  if (partitions > 0) {
    rd_kafka_NewTopic_t *wanted = rd_kafka_NewTopic_new(topic, partitions, 1, why, sizeof why);
    if (!wanted) die(topic, why);
    rd_kafka_CreateTopics(client, &wanted, 1, NULL, answers);
    rd_kafka_event_t *event = rd_kafka_queue_poll(answers, 60000);
    if (!event || rd_kafka_event_error(event)) die(topic, "no answer to its creation");
    results = rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(event), &count);
  } else {
    rd_kafka_DeleteTopic_t *unwanted = rd_kafka_DeleteTopic_new(topic);
    rd_kafka_DeleteTopics(client, &unwanted, 1, NULL, answers);
    rd_kafka_event_t *event = rd_kafka_queue_poll(answers, 60000);
    if (!event || rd_kafka_event_error(event)) die(topic, "no answer to its deletion");
    results = rd_kafka_DeleteTopics_result_topics(rd_kafka_event_DeleteTopics_result(event), &count);
  }
  rd_kafka_resp_err_t error = rd_kafka_topic_result_error(results[0]);
  if (error) die(topic, rd_kafka_err2str(error));
}

static long long now_ns(clockid_t clock) {
  struct timespec time;
  clock_gettime(clock, &time);
  return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void produce(rd_kafka_t *producer, rd_kafka_topic_t *topic, int partition, char *value, size_t size, char *key) {
  while (rd_kafka_produce(topic, partition, RD_KAFKA_MSG_F_COPY, value, size, key, key ? strlen(key) : 0, NULL))
    rd_kafka_poll(producer, 1);
}

/* About SIZE bytes; a real object has more fields than a handler reads. */
static size_t json(char *value, size_t size, long number) {
  int length = snprintf(value, size + 1,
      "{\"id\":%ld,\"customer\":\"customer-%ld\",\"amount\":%ld.%02ld,\"currency\":\"EUR\",\"items\":[{\"sku\":\"flute-%ld\","
      "\"count\":%ld}],\"paid\":%s,\"note\":\"",
      number, number * 7919 % 10007, number % 900 + 10, number % 100, number % 97, number % 5 + 1,
      number % 3 ? "true" : "false");
  if (length + 2 > (int)size) die("json", "the size is too small");
  static const char words[] = "left at the door of the old house by the sea ";
  for (size_t i = length; i < size - 2; i++) value[i] = words[i % (sizeof words - 1)];
  memcpy(value + size - 2, "\"}", 2);
  return size;
}

static void fill(char **a) {
  int partitions = atoi(a[3]);
  long records = atol(a[4]), size = atol(a[5]), keys = atol(a[6]);
  rd_kafka_t *client = producer(a[1], a[7], "20");
  rd_kafka_topic_t *topic = rd_kafka_topic_new(client, a[2], NULL);
  char *value = malloc(size + 1), key[32];
  unsigned long long state = 88172645463325252ULL;
  for (long i = 0; i < records; i++) {
    if (!strcmp(a[8], "json")) json(value, size, i);
    else
      for (long at = 0; at < size; at++) {
        if (at % 8 == 0) state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        value[at] = state >> (at % 8 * 8);
      }
    long number = keys ? i % keys : i;
    snprintf(key, sizeof key, "key-%ld", number);
    produce(client, topic, number % partitions, value, size, keys ? key : NULL);
    if (i % 1000 == 0) rd_kafka_poll(client, 0);
  }
  rd_kafka_flush(client, 600000);
}

static void pace(char **a) {
  int partitions = atoi(a[3]);
  long records = atol(a[4]), size = atol(a[5]), rate = atol(a[6]), warm = atol(a[7]);
  rd_kafka_t *client = producer(a[1], "none", "0");
  rd_kafka_topic_t *topic = rd_kafka_topic_new(client, a[2], NULL);
  char *value = calloc(1, size);
  long long began = now_ns(CLOCK_MONOTONIC);
  for (long i = 0; i < records; i++) {
    long long due = began + i * 1000000000LL / rate;
    while (now_ns(CLOCK_MONOTONIC) < due) {
      rd_kafka_poll(client, 0);
      long long left = due - now_ns(CLOCK_MONOTONIC);
      struct timespec pause = {0, left > 0 ? (left < 500000 ? left : 500000) : 0};
      nanosleep(&pause, NULL);
    }
    long long sent = i < warm ? 0 : now_ns(CLOCK_REALTIME);
    memcpy(value, &sent, sizeof sent);
    produce(client, topic, i % partitions, value, size, NULL);
  }
  rd_kafka_flush(client, 600000);
}

static void tell_count(char **a) {
  rd_kafka_t *client = producer(a[1], "none", "0");
  int64_t all = 0, low, high;
  for (int partition = 0; partition < atoi(a[3]); partition++) {
    rd_kafka_resp_err_t error = rd_kafka_query_watermark_offsets(client, a[2], partition, &low, &high, 10000);
    if (error) die(a[2], rd_kafka_err2str(error));
    all += high - low;
  }
  printf("%lld\n", (long long)all);
}

static void tell_committed(char **a) {
  char why[512];
  int open = atoi(a[3]);
  rd_kafka_conf_t *conf = rd_kafka_conf_new();
  set(conf, "bootstrap.servers", a[1]);
  set(conf, "group.id", "bench-committed");
  set(conf, "isolation.level", "read_committed");
  set(conf, "enable.auto.commit", "false");
  set(conf, "enable.partition.eof", "true");
  rd_kafka_t *client = rd_kafka_new(RD_KAFKA_CONSUMER, conf, why, sizeof why);
  if (!client) die("consumer", why);
  rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(open);
  for (int partition = 0; partition < open; partition++)
    rd_kafka_topic_partition_list_add(list, a[2], partition)->offset = RD_KAFKA_OFFSET_BEGINNING;
  rd_kafka_assign(client, list);
  long records = 0;
  for (int silent = 0; open > 0;) {
    rd_kafka_message_t *message = rd_kafka_consumer_poll(client, 1000);
    silent = message ? 0 : silent + 1;
    if (silent > 60) die(a[2], "its end does not come");
    if (!message) continue;
    if (!message->err) records++;
    else if (message->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) open--;
    rd_kafka_message_destroy(message);
  }
  printf("%ld\n", records);
}

int main(int count, char **arguments) {
  const char *what = count > 1 ? arguments[1] : "";
  if (!strcmp(what, "create") && count == 5) administer(arguments[2], arguments[3], atoi(arguments[4]));
  else if (!strcmp(what, "delete") && count == 4) administer(arguments[2], arguments[3], 0);
  else if (!strcmp(what, "count") && count == 5) tell_count(arguments + 1);
  else if (!strcmp(what, "committed") && count == 5) tell_committed(arguments + 1);
  else if (!strcmp(what, "fill") && count == 10) fill(arguments + 1);
  else if (!strcmp(what, "pace") && count == 9) pace(arguments + 1);
  else die("usage", "topic create|fill|pace|count|committed|delete …, see the source");
  return failed != 0;
}
