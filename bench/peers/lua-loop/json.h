/* The least that C can do to turn JSON into Lua values: between bytes and Lua's API, with nothing in between. Tables are
 * made as large as the last one of their level was. Escapes are passed on as they are, UTF-8 is not looked at, and a
 * number is what strtod says it is: a decoder that does more takes longer. */
#pragma once
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "lauxlib.h"

enum { LEVELS = 64 };

typedef struct {
  lua_State *lua;
  const char *at;
} text_t;

static int sizes[LEVELS];

static inline char next_of(text_t *text) {
  while (*text->at == ' ' || *text->at == '\n' || *text->at == '\t' || *text->at == '\r') text->at++;
  return *text->at;
}

static void wanted(text_t *text, char byte) {
  if (next_of(text) != byte) luaL_error(text->lua, "expected `%c`, not `%c`", byte, *text->at);
  text->at++;
}

static void push_string(text_t *text) {
  const char *start = ++text->at;
  while (*text->at != '"') {
    if ((unsigned char)*text->at < ' ') luaL_error(text->lua, "a string does not end");
    text->at += text->at[0] == '\\' && text->at[1] ? 2 : 1;
  }
  lua_pushlstring(text->lua, start, text->at++ - start);
}

static void push_number(text_t *text) {
  const char *at = text->at + (*text->at == '-');
  uint64_t number = 0;
  int digits = 0;
  for (; *at >= '0' && *at <= '9'; at++, digits++) number = number * 10 + (*at - '0');
  if (!digits) luaL_error(text->lua, "expected a value, not `%c`", *at);
  if (digits > 18 || *at == '.' || *at == 'e' || *at == 'E') {
    char *end;
    lua_pushnumber(text->lua, strtod(text->at, &end));
    at = end;
  } else {
    lua_pushinteger(text->lua, *text->at == '-' ? -(int64_t)number : (int64_t)number);
  }
  text->at = at;
}

static void push_word(text_t *text, const char *word) {
  size_t length = strlen(word);
  if (strncmp(text->at, word, length)) luaL_error(text->lua, "expected `%s`", word);
  text->at += length;
}

static void push_value(text_t *text, int level) {
  lua_State *lua = text->lua;
  int count = 0;
  if (level == LEVELS || !lua_checkstack(lua, 4)) luaL_error(lua, "too many levels");
  switch (next_of(text)) {
    case '"':
      push_string(text);
      return;
    case '{':
      text->at++;
      lua_createtable(lua, 0, sizes[level]);
      if (next_of(text) == '}') break;
      for (;; text->at++) {
        if (next_of(text) != '"') luaL_error(lua, "expected a key");
        push_string(text);
        wanted(text, ':');
        push_value(text, level + 1);
        lua_rawset(lua, -3);
        count++;
        if (next_of(text) != ',') break;
      }
      wanted(text, '}');
      sizes[level] = count;
      return;
    case '[':
      text->at++;
      lua_createtable(lua, sizes[level], 0);
      if (next_of(text) == ']') break;
      for (;; text->at++) {
        push_value(text, level + 1);
        lua_rawseti(lua, -2, ++count);
        if (next_of(text) != ',') break;
      }
      wanted(text, ']');
      sizes[level] = count;
      return;
    case 't':
      push_word(text, "true");
      lua_pushboolean(lua, 1);
      return;
    case 'f':
      push_word(text, "false");
      lua_pushboolean(lua, 0);
      return;
    case 'n':
      push_word(text, "null");
      lua_pushlightuserdata(lua, NULL);
      return;
    default:
      push_number(text);
      return;
  }
  text->at++;
}

/* decode(text): Lua's strings end with a zero, so the end is found without being looked for. */
static int decode(lua_State *lua) {
  text_t text = {lua, luaL_checkstring(lua, 1)};
  push_value(&text, 0);
  if (next_of(&text)) luaL_error(lua, "something follows the value");
  return 1;
}
