/* A network sandbox: holds a network namespace for one instance, and lends the machine's proxy a
 * socket in it.
 *
 *   sandbox NAME                      only holds the namespace
 *   sandbox NAME PORT DIRECTORY       also listens on 127.0.0.1:PORT and hands that listening socket
 *                                     to whoever serves DIRECTORY/proxy, again when it restarts
 *
 * The socket travels with one message, "myxo-sandbox/1 NAME\n". The connection it came by stays open
 * for as long as both live: its end tells the proxy that the sandbox is gone, and the sandbox that
 * the proxy is. Connections that nobody accepts meanwhile wait in the socket's backlog.
 *
 * It is the first and only process of a container without capabilities, on a read-only root; it
 * needs neither. It never reads what an instance sends.
 */

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 1024
#define LONGEST_NAME 64
#define LOOK_AGAIN_MS 2000 /* in case that the directory cannot be watched */
#define STEP_MS 20         /* a server's socket is there a moment before it listens */
#define STEPS 50

static void leave(int signal_number) {
  (void)signal_number;
  _exit(0);
}

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static int listen_on(int port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  int on = 1;
  if (sock < 0 || setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
      bind(sock, (struct sockaddr *)&address, sizeof address) < 0 || listen(sock, BACKLOG) < 0)
    fail("the sandbox cannot listen for the proxy");
  return sock;
}

/* Returns a connection to the proxy, or -1. */
static int dial(const char *directory) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  int length = snprintf(address.sun_path, sizeof address.sun_path, "%s/proxy", directory);
  if (length < 0 || (size_t)length >= sizeof address.sun_path) return -1;
  int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (sock >= 0 && connect(sock, (struct sockaddr *)&address, sizeof address) == 0) return sock;
  if (sock >= 0) close(sock);
  return -1;
}

static int hand_over(int proxy, int listening, const char *name) {
  char text[LONGEST_NAME + 32];
  int length = snprintf(text, sizeof text, "myxo-sandbox/1 %s\n", name);
  struct iovec part = {.iov_base = text, .iov_len = length};
  union {
    char bytes[CMSG_SPACE(sizeof(int))];
    struct cmsghdr aligned;
  } control = {0};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  message.msg_control = control.bytes;
  message.msg_controllen = sizeof control.bytes;
  struct cmsghdr *right = CMSG_FIRSTHDR(&message);
  right->cmsg_level = SOL_SOCKET;
  right->cmsg_type = SCM_RIGHTS;
  right->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(right), &listening, sizeof(int));
  return sendmsg(proxy, &message, MSG_NOSIGNAL) == length;
}

/* Returns when the other end has closed; what it says is of no interest. */
static void wait_for_end(int proxy) {
  char ignored[256];
  ssize_t got;
  do got = read(proxy, ignored, sizeof ignored);
  while (got > 0 || (got < 0 && errno == EINTR));
}

/* Returns when something has changed in the watched directory, or a while later. */
static void wait_for_change(int watch) {
  char ignored[4096];
  struct pollfd change = {.fd = watch, .events = POLLIN};
  if (poll(&change, watch >= 0, LOOK_AGAIN_MS) > 0)
    while (read(watch, ignored, sizeof ignored) > 0) {
    }
}

static void serve(const char *name, int port, const char *directory) {
  int listening = listen_on(port);
  int watch = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
  if (watch >= 0 && inotify_add_watch(watch, directory, IN_CREATE | IN_MOVED_TO) < 0) {
    close(watch);
    watch = -1;
  }
  for (;;) {
    int proxy = -1;
    for (int step = 0; proxy < 0 && step < STEPS; step++) {
      proxy = dial(directory);
      if (proxy < 0 && errno == ENOENT) break;
      if (proxy < 0) poll(NULL, 0, STEP_MS);
    }
    if (proxy >= 0) {
      if (hand_over(proxy, listening, name)) wait_for_end(proxy);
      close(proxy);
      poll(NULL, 0, STEP_MS);
    } else {
      wait_for_change(watch);
    }
  }
}

int main(int count, char **arguments) {
  signal(SIGTERM, leave);
  signal(SIGINT, leave);
  if (count == 4 && strlen(arguments[1]) <= LONGEST_NAME)
    serve(arguments[1], atoi(arguments[2]), arguments[3]);
  if (count != 2) {
    fputs("usage: sandbox NAME [PORT DIRECTORY]\n", stderr);
    return 2;
  }
  for (;;) pause();
}
