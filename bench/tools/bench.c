/* A Lua module for the handlers of the benchmarks: `now()` is the time in ns, which Moontide itself tells in ms, and
 * `count()` counts for the whole process, over reloads and VMs; it returns the number and when the first was counted. */
#include <stdatomic.h>
#include <time.h>
#include <lua.h>
#include <lauxlib.h>

static atomic_llong counted, began;

static long long now_ns(void) {
  struct timespec time;
  clock_gettime(CLOCK_REALTIME, &time);
  return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static int now(lua_State *state) {
  lua_pushinteger(state, now_ns());
  return 1;
}

static int count(lua_State *state) {
  long long number = atomic_fetch_add(&counted, 1) + 1;
  if (number == 1) atomic_store(&began, now_ns());
  lua_pushinteger(state, number);
  lua_pushinteger(state, atomic_load(&began));
  return 2;
}

static const luaL_Reg functions[] = {{"now", now}, {"count", count}, {NULL, NULL}};

int luaopen_bench(lua_State *state) {
  luaL_newlib(state, functions);
  return 1;
}
