/* A group consumer in C that polls on one thread and handles on another, as a program does whose handlers may take long:
 * what a message pays for passing a thread more. Percentiles of the time from produce to handling. */
#include <pthread.h>
#include <sched.h>
#include "../../tools/latency.h"

enum { ROOM = 4096 };

static struct {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  rd_kafka_message_t *messages[ROOM];
  long long put, taken;
  int sleeps;
} ring = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void hand_over(rd_kafka_message_t *message) {
  for (;;) {
    pthread_mutex_lock(&ring.lock);
    int room = ring.put - ring.taken < ROOM, wake = room && ring.sleeps;
    if (room) ring.messages[ring.put++ % ROOM] = message;
    pthread_mutex_unlock(&ring.lock);
    if (wake) pthread_cond_signal(&ring.changed);
    if (room) return;
    sched_yield();
  }
}

static rd_kafka_message_t *next(void) {
  pthread_mutex_lock(&ring.lock);
  while (ring.taken == ring.put) {
    ring.sleeps = 1;
    pthread_cond_wait(&ring.changed, &ring.lock);
    ring.sleeps = 0;
  }
  rd_kafka_message_t *message = ring.messages[ring.taken++ % ROOM];
  pthread_mutex_unlock(&ring.lock);
  return message;
}

static void *handle(void *total) {
  struct latency all = latency_of(*(long long *)total);
  while (all.count < *(long long *)total) {
    rd_kafka_message_t *message = next();
    latency_add(&all, message);
    rd_kafka_message_destroy(message);
  }
  latency_tell(&all);
  fflush(stdout);
  /* The group is new each time: leaving it in order is nothing to measure. */
  _Exit(0);
}

int main(int count, char **arguments) {
  if (count != 6) {
    fprintf(stderr, "usage: consumer BROKER TOPIC GROUP RECORDS TASK\n");
    return 2;
  }
  rd_kafka_t *consumer = join(arguments[1], arguments[2], arguments[3], 0);
  long long total = atoll(arguments[4]);
  pthread_t handler;
  if (pthread_create(&handler, NULL, handle, &total)) {
    perror("pthread_create");
    return 1;
  }
  for (;;) {
    rd_kafka_message_t *message = rd_kafka_consumer_poll(consumer, 100);
    if (message) hand_over(message);
  }
}
