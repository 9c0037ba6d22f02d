/* The least that a program in C can do to hand each message to a Lua function: librdkafka's batch call, the table that
 * Moontide's handlers get, a protected call. From the first message to the RECORDS-th, in milliseconds; commits are
 * automatic. TASK: `read`, or `json`, where the function decodes the value and reads three fields. */
#include <string.h>
#include "lauxlib.h"
#include "lualib.h"
#include "../../tools/group.h"
#include "json.h"

static const char *const names[] = {"topic", "partition", "offset", "key", "value", "timestamp", "headers"};
enum { TOPIC = 1, PARTITION, OFFSET, KEY, VALUE, TIMESTAMP, HEADERS };

static const char read_value[] =
    "collectgarbage('incremental', 400)\n"
    "local count, bytes = 0, 0\n"
    "return function(message)\n"
    "  count = count + 1\n"
    "  bytes = bytes + #message.value\n"
    "end";

static const char decode_value[] =
    "collectgarbage('incremental', 400)\n"
    "local decode, count = decode, 0\n"
    "return function(message)\n"
    "  local order = decode(message.value)\n"
    "  if not (order.id and order.customer and order.amount) then error('no order') end\n"
    "  count = count + 1\n"
    "end";

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
  int topic = lua_upvalueindex(2);
  lua_pushvalue(lua, lua_upvalueindex(1));
  lua_createtable(lua, 0, HEADERS);
  lua_pushvalue(lua, topic - TOPIC);
  lua_pushvalue(lua, topic);
  lua_rawset(lua, -3);
  lua_pushvalue(lua, topic - PARTITION);
  lua_pushinteger(lua, message->partition);
  lua_rawset(lua, -3);
  lua_pushvalue(lua, topic - OFFSET);
  lua_pushinteger(lua, message->offset);
  lua_rawset(lua, -3);
  if (message->key) {
    lua_pushvalue(lua, topic - KEY);
    lua_pushlstring(lua, message->key, message->key_len);
    lua_rawset(lua, -3);
  }
  if (message->payload) {
    lua_pushvalue(lua, topic - VALUE);
    lua_pushlstring(lua, message->payload, message->len);
    lua_rawset(lua, -3);
  }
  lua_pushvalue(lua, topic - TIMESTAMP);
  lua_pushinteger(lua, rd_kafka_message_timestamp(message, NULL));
  lua_rawset(lua, -3);
  lua_pushvalue(lua, topic - HEADERS);
  push_headers(lua, message);
  lua_rawset(lua, -3);
  lua_call(lua, 1, 0);
  return 0;
}

static lua_State *start(const char *topic, const char *handler) {
  lua_State *lua = luaL_newstate();
  luaL_openlibs(lua);
  lua_register(lua, "decode", decode);
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
  rd_kafka_t *consumer = join(arguments[1], arguments[2], arguments[3], 1);
  long long total = atoll(arguments[4]), handled = 0, first = 0;
  lua_State *lua = start(arguments[2], strcmp(arguments[5], "json") ? read_value : decode_value);
  rd_kafka_message_t *batch[BATCH];
  while (handled < total) {
    ssize_t taken = take(consumer, batch);
    if (taken > 0 && handled == 0) first = now_ns(CLOCK_MONOTONIC);
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
  printf("%lld %lld\n", handled, (now_ns(CLOCK_MONOTONIC) - first) / 1000000 + 1);
  fflush(stdout);
  /* The group is new each time: leaving it in order is nothing to measure. */
  _Exit(0);
}
