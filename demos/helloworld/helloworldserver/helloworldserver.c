// Answers every HTTP request with "Hello, world". Usage: helloworldserver PORT
//
// It is written in C so that one small static file is the whole service: it runs by itself, as a
// process that Myxo starts, and in any container image that has a shell.

#define _GNU_SOURCE
#include <errno.h>
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

enum { MAX_HEAD = 16 * 1024 };

static const char BODY[] = "Hello, world\n";

static void send_all(int connection, const char *data, size_t size) {
    while (size > 0) {
        ssize_t sent = send(connection, data, size, MSG_NOSIGNAL);
        if (sent < 0) return;
        data += sent;
        size -= (size_t)sent;
    }
}

static void answer(int connection, int head_only, int keep_alive) {
    char reply[256];
    int size = snprintf(reply, sizeof reply,
                        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\n%s\r\n%s",
                        sizeof BODY - 1, keep_alive ? "" : "Connection: close\r\n",
                        head_only ? "" : BODY);
    send_all(connection, reply, (size_t)size);
}

// Serves requests one after the other until the client closes. A request with a body is answered
// and the connection closed, because the body is of no interest here.
static void *serve(void *argument) {
    int connection = (int)(intptr_t)argument;
    char head[MAX_HEAD + 1];
    size_t used = 0;
    for (;;) {
        head[used] = '\0';
        char *end = strstr(head, "\r\n\r\n");
        if (end == NULL) {
            if (used == MAX_HEAD) break;
            ssize_t got = recv(connection, head + used, MAX_HEAD - used, 0);
            if (got <= 0) break;
            used += (size_t)got;
            continue;
        }
        size_t size = (size_t)(end - head) + 4;
        end[2] = '\0';
        int keep_alive = strcasestr(head, "\r\nContent-Length:") == NULL &&
                         strcasestr(head, "\r\nTransfer-Encoding:") == NULL &&
                         strcasestr(head, "\r\nConnection: close") == NULL &&
                         strstr(head, " HTTP/1.1\r\n") != NULL;
        answer(connection, strncmp(head, "HEAD ", 5) == 0, keep_alive);
        if (!keep_alive) {
            // Unread bytes would turn the close into a reset that takes the answer with it.
            shutdown(connection, SHUT_WR);
            while (recv(connection, head, MAX_HEAD, 0) > 0) {}
            break;
        }
        used -= size;
        memmove(head, head + size, used);
    }
    close(connection);
    return NULL;
}

static int listen_on(const char *text) {
    char *rest;
    long port = strtol(text, &rest, 10);
    if (*text == '\0' || *rest != '\0' || port < 1 || port > 65535) {
        fprintf(stderr, "helloworldserver: %s is not a port from 1 to 65535\n", text);
        exit(2);
    }
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 ||
        listen(listener, 1024) < 0) {
        fprintf(stderr, "helloworldserver: port %ld: %s\n", port, strerror(errno));
        exit(1);
    }
    return listener;
}

static void stop(int number) {
    (void)number;
    _exit(0);
}

int main(int count, char **arguments) {
    if (count != 2) {
        fprintf(stderr, "usage: helloworldserver PORT\n");
        return 2;
    }
    // As the first process of a container it would not be ended by these without a handler.
    signal(SIGTERM, stop);
    signal(SIGINT, stop);
    int listener = listen_on(arguments[1]);
    pthread_attr_t detached;
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&detached, 128 * 1024);
    for (;;) {
        int connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (connection < 0) continue;
        int on = 1;
        setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        pthread_t thread;
        if (pthread_create(&thread, &detached, serve, (void *)(intptr_t)connection) != 0)
            close(connection);
    }
}
