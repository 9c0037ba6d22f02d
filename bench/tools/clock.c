/* A Lua module for the handlers of the benchmarks: `clock()` is the time in ns, which Moontide itself tells in ms. */
#include <time.h>
#include <lua.h>

static int now(lua_State *state) {
  struct timespec time;
  clock_gettime(CLOCK_REALTIME, &time);
  lua_pushinteger(state, time.tv_sec * 1000000000LL + time.tv_nsec);
  return 1;
}

int luaopen_clock(lua_State *state) {
  lua_pushcfunction(state, now);
  return 1;
}
