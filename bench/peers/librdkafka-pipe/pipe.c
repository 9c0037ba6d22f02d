/* A pipe in C over librdkafka, as fast as its API allows: it takes messages by the batch call, produces each to the topic
 * of BENCH_OUT by the batch call of the producer, and commits what is acknowledged. A second thread takes the delivery
 * reports and commits. From the first message to the acknowledgement of the RECORDS-th, in milliseconds.
 * The task is `emit` (idempotent), or `emit-plain` (not idempotent, one request in flight). For `send` and `send-100` one
 * message, or 100, are under way at once, and the next one begins when one is acknowledged. */
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>
#include "../../tools/group.h"

/* Messages without an acknowledgement: less than two batches, else an idempotent producer polls busily. */
#define OPEN_MAX 8192
/* Reports that one look at an event takes. */
#define REPORTS 1000
#define COMMIT_EVERY_NS 100000000LL

static rd_kafka_t *consumer, *producer;
static const char *source;
static long long total;
/* Of the one partition: reports come in the order of its messages. */
static _Atomic long long acknowledged, position;
/* The offset behind each message without an acknowledgement, in a ring. */
static _Atomic long long behind[OPEN_MAX];

static rd_kafka_t *make_producer(const char *broker, int idempotent, const char *linger) {
  char why[512];
  rd_kafka_conf_t *conf = rd_kafka_conf_new();
  set(conf, "bootstrap.servers", broker);
  set(conf, "acks", "all");
  set(conf, "linger.ms", linger);
  set(conf, "partitioner", "murmur2_random");
  set(conf, "enable.idempotence", idempotent ? "true" : "false");
  if (!idempotent) set(conf, "max.in.flight.requests.per.connection", "1");
  rd_kafka_conf_set_events(conf, RD_KAFKA_EVENT_DR | RD_KAFKA_EVENT_ERROR);
  rd_kafka_t *made = rd_kafka_new(RD_KAFKA_PRODUCER, conf, why, sizeof why);
  if (!made) {
    fprintf(stderr, "%s\n", why);
    exit(1);
  }
  return made;
}

static void commit(void) {
  rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
  rd_kafka_topic_partition_list_add(list, source, 0)->offset = atomic_load(&position);
  rd_kafka_commit(consumer, list, 1);
  rd_kafka_topic_partition_list_destroy(list);
}

/* The reports of an event, all of which have to be acknowledgements. Returns how many; 0 behind the last. */
static size_t acknowledgements(rd_kafka_event_t *event) {
  const rd_kafka_message_t *reports[REPORTS];
  size_t taken = rd_kafka_event_message_array(event, reports, REPORTS);
  for (size_t i = 0; i < taken; i++)
    if (reports[i]->err) {
      fprintf(stderr, "not acknowledged: %s\n", rd_kafka_err2str(reports[i]->err));
      exit(1);
    }
  return taken;
}

static void *take_reports(void *nothing) {
  (void)nothing;
  rd_kafka_queue_t *queue = rd_kafka_queue_get_main(producer);
  long long count = 0, committed_at = now_ns(CLOCK_MONOTONIC);
  while (count < total) {
    rd_kafka_event_t *event = rd_kafka_queue_poll(queue, 100);
    size_t taken;
    while (event && (taken = acknowledgements(event)) > 0) {
      count += taken;
      atomic_store(&position, atomic_load(&behind[(count - 1) % OPEN_MAX]));
      atomic_store(&acknowledged, count);
    }
    if (event) rd_kafka_event_destroy(event);
    long long now = now_ns(CLOCK_MONOTONIC);
    if (count && now - committed_at >= COMMIT_EVERY_NS) {
      commit();
      committed_at = now;
    }
  }
  commit();
  return NULL;
}

/* Produces these messages; those that the producer has no room for follow after a pause. */
static void produce(rd_kafka_topic_t *topic, rd_kafka_message_t *all, int count) {
  for (int done = 0; done < count;) {
    int taken = rd_kafka_produce_batch(topic, RD_KAFKA_PARTITION_UA, RD_KAFKA_MSG_F_COPY, all + done, count - done);
    done += taken;
    if (done < count) usleep(500);
  }
}

/* Counts the reports that are there. Where there are none, waits for the first. */
static long long take_some(rd_kafka_queue_t *queue) {
  long long count = 0;
  rd_kafka_event_t *event = rd_kafka_queue_poll(queue, 100);
  size_t taken;
  while (event && (taken = acknowledgements(event)) > 0) count += taken;
  if (event) rd_kafka_event_destroy(event);
  return count;
}

/* So many lanes, each of which sends a message and waits for its acknowledgement. Returns the first message's time. */
static long long send_on(rd_kafka_topic_t *topic, long long lanes) {
  rd_kafka_queue_t *queue = rd_kafka_queue_get_main(producer);
  rd_kafka_message_t *batch[BATCH];
  long long sent = 0, done = 0, first = 0, committed_at = now_ns(CLOCK_MONOTONIC);
  while (done < total) {
    ssize_t taken = sent < total ? take(consumer, batch) : 0;
    if (taken > 0 && sent == 0) first = now_ns(CLOCK_MONOTONIC);
    for (ssize_t i = 0; i < taken; i++) {
      if (!batch[i]->err && sent < total) {
        while (sent - done >= lanes) done += take_some(queue);
        if (rd_kafka_produce(topic, RD_KAFKA_PARTITION_UA, RD_KAFKA_MSG_F_COPY, batch[i]->payload, batch[i]->len,
                             batch[i]->key, batch[i]->key_len, NULL)) {
          fprintf(stderr, "not sent: %s\n", rd_kafka_err2str(rd_kafka_last_error()));
          exit(1);
        }
        atomic_store(&behind[sent++ % OPEN_MAX], batch[i]->offset + 1);
      }
      rd_kafka_message_destroy(batch[i]);
    }
    while (sent == total && done < total) done += take_some(queue);
    if (done && now_ns(CLOCK_MONOTONIC) - committed_at >= COMMIT_EVERY_NS) {
      atomic_store(&position, atomic_load(&behind[(done - 1) % OPEN_MAX]));
      commit();
      committed_at = now_ns(CLOCK_MONOTONIC);
    }
  }
  return first;
}

/* Produces as fast as the broker acknowledges. Returns the first message's time. */
static long long pipe_on(rd_kafka_topic_t *topic) {
  pthread_t thread;
  pthread_create(&thread, NULL, take_reports, NULL);
  rd_kafka_message_t *batch[BATCH], records[BATCH];
  long long sent = 0, first = 0;
  while (sent < total) {
    long long open = sent - atomic_load(&acknowledged);
    if (open + BATCH > OPEN_MAX) {
      usleep(200);
      continue;
    }
    ssize_t taken = take(consumer, batch);
    if (taken > 0 && sent == 0) first = now_ns(CLOCK_MONOTONIC);
    int used = 0;
    for (ssize_t i = 0; i < taken && sent < total; i++) {
      if (batch[i]->err) continue;
      records[used] = (rd_kafka_message_t){
          .payload = batch[i]->payload, .len = batch[i]->len, .key = batch[i]->key, .key_len = batch[i]->key_len};
      atomic_store(&behind[sent % OPEN_MAX], batch[i]->offset + 1);
      used++, sent++;
    }
    produce(topic, records, used);
    for (ssize_t i = 0; i < taken; i++) rd_kafka_message_destroy(batch[i]);
  }
  pthread_join(thread, NULL);
  return first;
}

int main(int count, char **arguments) {
  if (count != 6 || !getenv("BENCH_OUT")) {
    fprintf(stderr, "usage: BENCH_OUT=TOPIC pipe BROKER TOPIC GROUP RECORDS emit|emit-plain|send|send-100\n");
    return 2;
  }
  const char *task = arguments[5];
  long long lanes = !strcmp(task, "send") ? 1 : !strcmp(task, "send-100") ? 100 : 0;
  source = arguments[2];
  total = atoll(arguments[4]);
  producer = make_producer(arguments[1], strcmp(task, "emit-plain") != 0, lanes ? "0" : "5");
  rd_kafka_topic_t *topic = rd_kafka_topic_new(producer, getenv("BENCH_OUT"), NULL);
  consumer = join(arguments[1], source, arguments[3], 1);
  long long first = lanes ? send_on(topic, lanes) : pipe_on(topic);
  printf("%lld %lld\n", total, (now_ns(CLOCK_MONOTONIC) - first) / 1000000 + 1);
  fflush(stdout);
  /* The group is new each time: leaving it in order is nothing to measure. */
  _Exit(0);
}
