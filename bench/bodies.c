// Serves bodies of any size over HTTP/1.1 and keeps the connection. Usage: bodies [PORT]
//
// GET /.../N is answered by N bytes; what a request sends is read to its end before it is answered.
// Below /silent/ the connection is reset instead of an answer, and below /cut/ after half of one.
// One thread a connection with blocking calls: as fast as one connection can be, so that what is
// measured is the hop before it. The port comes from SERVICE_PORT if it is not given.

#define _GNU_SOURCE
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { HEAD = 16 * 1024, BLOCK = 256 * 1024 };

static char zeros[BLOCK];

static int send_all(int connection, const char *data, size_t size, int more) {
    while (size > 0) {
        ssize_t sent = send(connection, data, size, MSG_NOSIGNAL | more);
        if (sent <= 0) return 0;
        data += sent;
        size -= (size_t)sent;
    }
    return 1;
}

static void reset(int connection) {
    struct linger none = {.l_onoff = 1, .l_linger = 0};
    setsockopt(connection, SOL_SOCKET, SO_LINGER, &none, sizeof none);
}

// Answers with `sent` of the `size` bytes that it announces.
static int answer(int connection, unsigned long long size, unsigned long long sent) {
    char head[128];
    int length = snprintf(head, sizeof head,
                          "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"
                          "Content-Length: %llu\r\n\r\n", size);
    if (!send_all(connection, head, (size_t)length, sent > 0 ? MSG_MORE : 0)) return 0;
    for (unsigned long long left = sent; left > 0;) {
        size_t now = left < BLOCK ? (size_t)left : BLOCK;
        if (!send_all(connection, zeros, now, 0)) return 0;
        left -= now;
    }
    return sent == size;
}

// Reads the rest of a body, of which `here` bytes came with the head.
static int swallow(int connection, unsigned long long size, size_t here) {
    static __thread char data[BLOCK];
    size -= here < size ? here : size;
    while (size > 0) {
        ssize_t got = recv(connection, data, size < BLOCK ? (size_t)size : BLOCK, 0);
        if (got <= 0) return 0;
        size -= (unsigned long long)got;
    }
    return 1;
}

static void *serve(void *argument) {
    int connection = (int)(intptr_t)argument;
    char head[HEAD + 1];
    size_t held = 0;
    for (;;) {
        ssize_t got = recv(connection, head + held, HEAD - held, 0);
        if (got <= 0) break;
        held += (size_t)got;
        head[held] = 0;
        char *end = strstr(head, "\r\n\r\n");
        if (end == NULL) continue;
        *end = 0;
        size_t used = (size_t)(end + 4 - head);
        char *length = strcasestr(head, "\r\ncontent-length:"), *space = strchr(head, ' ');
        if (length != NULL &&
            !swallow(connection, strtoull(length + 17, NULL, 10), held - used)) break;
        char *path_end = space == NULL ? NULL : strchr(space + 1, ' ');
        if (path_end == NULL) break;
        *path_end = 0;
        char *slash = strrchr(space, '/');
        unsigned long long size = slash == NULL ? 0 : strtoull(slash + 1, NULL, 10);
        int silent = strstr(space, "/silent/") != NULL, cut = strstr(space, "/cut/") != NULL;
        if (silent || cut) reset(connection);
        if (silent || !answer(connection, size, cut ? size / 2 : size)) break;
        held = 0;
    }
    close(connection);
    return NULL;
}

static void stop(int number) {
    (void)number;
    _exit(0);
}

int main(int count, char **arguments) {
    const char *text = count > 1 ? arguments[1] : getenv("SERVICE_PORT");
    int port = text == NULL ? 8080 : atoi(text);
    signal(SIGTERM, stop);
    signal(SIGINT, stop);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 ||
        listen(listener, 1024) < 0) {
        perror("bodies: cannot listen");
        return 1;
    }
    for (;;) {
        int connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (connection < 0) continue;
        setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        pthread_t thread;
        if (pthread_create(&thread, NULL, serve, (void *)(intptr_t)connection) == 0) {
            pthread_detach(thread);
        } else {
            close(connection);
        }
    }
}
