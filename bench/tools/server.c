/* The HTTP server of the benchmarks: one thread, kept connections, GET alone. It prints its address.
 *
 *   /document   a document of 200 bytes, at once
 *   /hang       nothing, ever
 *   /together   the document, when 1,000 requests of this path wait */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define TOGETHER 1000
#define HEAD_MAX 4096
#define SOCKETS 65536

static char answer[512];
static size_t answer_size;
static struct { char head[HEAD_MAX]; size_t size; } *sockets[SOCKETS];
static int waiting[TOGETHER], waits;

static void die(const char *what) {
  perror(what);
  exit(1);
}

static void forget(int socket) {
  for (int i = 0; i < waits; i++)
    if (waiting[i] == socket) waiting[i--] = waiting[--waits];
  free(sockets[socket]);
  sockets[socket] = NULL;
  close(socket);
}

/* The answer fits into the socket's buffer: a client has one request under way. */
static void send_answer(int socket) {
  if (send(socket, answer, answer_size, MSG_NOSIGNAL) != (ssize_t)answer_size) forget(socket);
}

static void serve(int socket, const char *head) {
  if (!strncmp(head, "GET /hang ", 10)) return;
  if (strncmp(head, "GET /together ", 14)) return send_answer(socket);
  waiting[waits++] = socket;
  if (waits < TOGETHER) return;
  int all[TOGETHER];
  memcpy(all, waiting, sizeof all);
  waits = 0;
  for (int i = 0; i < TOGETHER; i++) send_answer(all[i]);
}

static void take(int socket) {
  char *head = sockets[socket]->head;
  ssize_t got = recv(socket, head + sockets[socket]->size, HEAD_MAX - 1 - sockets[socket]->size, MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got <= 0) return forget(socket);
  sockets[socket]->size += got;
  head[sockets[socket]->size] = 0;
  if (strstr(head, "\r\n\r\n")) {
    sockets[socket]->size = 0;
    serve(socket, head);
  } else if (sockets[socket]->size == HEAD_MAX - 1) {
    forget(socket);
  }
}

int main(void) {
  char body[201];
  int length = snprintf(body, sizeof body, "{\"name\":\"somebody\",\"country\":\"PT\",\"rest\":\"");
  memset(body + length, 'x', 200 - length);
  memcpy(body + 198, "\"}", 2);
  answer_size = snprintf(answer, sizeof answer,
                         "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 200\r\n\r\n%.200s", body);
  int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1, loop = epoll_create1(0);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof address;
  if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 4096)) die("listen");
  if (getsockname(listener, (struct sockaddr *)&address, &size)) die("getsockname");
  struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[256];
  if (epoll_ctl(loop, EPOLL_CTL_ADD, listener, &event)) die("epoll_ctl");
  printf("http://127.0.0.1:%d\n", ntohs(address.sin_port));
  fflush(stdout);
  for (;;) {
    int count = epoll_wait(loop, events, 256, -1);
    for (int i = 0; i < count; i++) {
      int socket = events[i].data.fd;
      if (socket != listener) {
        if (sockets[socket]) take(socket);
        continue;
      }
      int client = accept(listener, NULL, NULL);
      if (client < 0) continue;
      if (client >= SOCKETS || !(sockets[client] = calloc(1, sizeof *sockets[client]))) {
        close(client);
        continue;
      }
      setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
      event.data.fd = client;
      if (epoll_ctl(loop, EPOLL_CTL_ADD, client, &event)) die("epoll_ctl");
    }
  }
}
