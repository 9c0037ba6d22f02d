/* The least that a program in C can do to hand each message to a Lua function: librdkafka's batch call, the table that
 * Moontide's handlers get, a protected call. From the first message to the RECORDS-th, in milliseconds; commits are
 * automatic. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "lauxlib.h"
#include "lualib.h"
#include "rdkafka.h"

#define BATCH 1000

static rd_kafka_queue_t *messages;
static const char *const names[] = {"topic", "partition", "offset", "key", "value", "timestamp", "headers"};
enum { TOPIC = 1, PARTITION, OFFSET, KEY, VALUE, TIMESTAMP, HEADERS };

static const char handler[] =
    "collectgarbage('incremental', 400)\n"
    "local count, bytes = 0, 0\n"
    "return function(message)\n"
    "  count = count + 1\n"
    "  bytes = bytes + #message.value\n"
    "end";

static long long now_ns(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
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
  for (int i = 0; i < list->cnt; i++) {
    rd_kafka_queue_t *queue = rd_kafka_queue_get_partition(consumer, list->elems[i].topic, list->elems[i].partition);
    rd_kafka_queue_forward(queue, messages);
    rd_kafka_queue_destroy(queue);
  }
  rd_kafka_assign(consumer, list);
}

/* Headers from name to value; one that repeats is not told apart here. */
static void push_headers(lua_State *lua, rd_kafka_message_t *message) {
  rd_kafka_headers_t *headers;
  const char *name;
  const void *value;
  size_t size;
  lua_createtable(lua, 0, 0);
  if (rd_kafka_message_headers(message, &headers)) return;
  for (size_t i = 0; !rd_kafka_header_get_all(headers, i, &name, &value, &size); i++) {
    lua_pushlstring(lua, value, size);
    lua_setfield(lua, -2, name);
  }
}

/* One message: the upvalues are the handler, the topic's name and the names of the fields. */
static int handle(lua_State *lua) {
  rd_kafka_message_t *message = lua_touserdata(lua, 1);
  int topic = lua_upvalueindex(2), name = topic;
  lua_pushvalue(lua, lua_upvalueindex(1));
  lua_createtable(lua, 0, HEADERS);
  lua_pushvalue(lua, name - TOPIC);
  lua_pushvalue(lua, topic);
  lua_rawset(lua, -3);
  lua_pushvalue(lua, name - PARTITION);
  lua_pushinteger(lua, message->partition);
  lua_rawset(lua, -3);
  lua_pushvalue(lua, name - OFFSET);
  lua_pushinteger(lua, message->offset);
  lua_rawset(lua, -3);
  if (message->key) {
    lua_pushvalue(lua, name - KEY);
    lua_pushlstring(lua, message->key, message->key_len);
    lua_rawset(lua, -3);
  }
  if (message->payload) {
    lua_pushvalue(lua, name - VALUE);
    lua_pushlstring(lua, message->payload, message->len);
    lua_rawset(lua, -3);
  }
  lua_pushvalue(lua, name - TIMESTAMP);
  lua_pushinteger(lua, rd_kafka_message_timestamp(message, NULL));
  lua_rawset(lua, -3);
  lua_pushvalue(lua, name - HEADERS);
  push_headers(lua, message);
  lua_rawset(lua, -3);
  lua_call(lua, 1, 0);
  return 0;
}

static lua_State *start(const char *topic) {
  lua_State *lua = luaL_newstate();
  luaL_openlibs(lua);
  if (luaL_dostring(lua, handler)) {
    fprintf(stderr, "%s\n", lua_tostring(lua, -1));
    exit(1);
  }
  lua_pushstring(lua, topic);
  for (size_t i = 0; i < HEADERS; i++) lua_pushstring(lua, names[i]);
  lua_pushcclosure(lua, handle, 2 + HEADERS);
  return lua;
}

int main(int count, char **arguments) {
  if (count != 6) {
    fprintf(stderr, "usage: consumer BROKER TOPIC GROUP RECORDS TASK\n");
    return 2;
  }
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
  messages = rd_kafka_queue_new(consumer);
  rd_kafka_topic_partition_list_t *topics = rd_kafka_topic_partition_list_new(1);
  rd_kafka_topic_partition_list_add(topics, arguments[2], RD_KAFKA_PARTITION_UA);
  rd_kafka_subscribe(consumer, topics);
  long long total = atoll(arguments[4]), handled = 0, first = 0;
  lua_State *lua = start(arguments[2]);
  rd_kafka_message_t *batch[BATCH];
  while (handled < total) {
    /* Rebalances and errors, without waiting; no message comes this way. */
    rd_kafka_message_t *event = rd_kafka_consumer_poll(consumer, 0);
    if (event) rd_kafka_message_destroy(event);
    ssize_t taken = rd_kafka_consume_batch_queue(messages, 10, batch, BATCH);
    if (taken > 0 && handled == 0) first = now_ns();
    for (ssize_t i = 0; i < taken; i++) {
      if (!batch[i]->err) {
        lua_pushvalue(lua, -1);
        lua_pushlightuserdata(lua, batch[i]);
        if (lua_pcall(lua, 1, 0, 0)) {
          fprintf(stderr, "%s\n", lua_tostring(lua, -1));
          return 1;
        }
        handled++;
      }
      rd_kafka_message_destroy(batch[i]);
    }
  }
  printf("%lld %lld\n", handled, (now_ns() - first) / 1000000 + 1);
  fflush(stdout);
  /* The group is new each time: leaving it in order is nothing to measure. */
  _Exit(0);
}
