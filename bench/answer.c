// Answers every HTTP/1.1 request with 1 KiB and keeps the connection. Usage: answer [PORT]
//
// The fastest backend that is still a server: one thread, one epoll, an answer made beforehand. It
// is what is behind every proxy that the benchmarks compare, so its own cost is the same for all.
// Requests have no body; the port comes from SERVICE_PORT if it is not given. The field Host-Name
// says where it runs.

#define _GNU_SOURCE
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BODY = 1024, CONNECTIONS = 4096, EVENTS = 64, READ = 16 * 1024 };

static const char END[] = "\r\n\r\n";
static char reply[BODY + 256];
static size_t reply_size;
static unsigned char matched[CONNECTIONS];  // bytes of END seen last, by descriptor

static void make_reply(void) {
    char host[65] = "";
    gethostname(host, sizeof host - 1);
    int head = snprintf(reply, sizeof reply,
                        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nHost-Name: %s\r\n"
                        "Content-Length: %d\r\n\r\n",
                        host, BODY);
    memset(reply + head, 'x', BODY);
    reply_size = (size_t)head + BODY;
}

// Sends an answer for each end of a request head in what can be read now; returns 0 at the end.
static int serve(int connection) {
    char data[READ];
    ssize_t got = recv(connection, data, sizeof data, 0);
    if (got <= 0) return 0;
    unsigned char state = matched[connection];
    for (ssize_t i = 0; i < got; i++) {
        state = data[i] == END[state] ? state + 1 : data[i] == END[0];
        if (state < 4) continue;
        state = 0;
        if (send(connection, reply, reply_size, MSG_NOSIGNAL) != (ssize_t)reply_size) return 0;
    }
    matched[connection] = state;
    return 1;
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
    make_reply();
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 ||
        listen(listener, 1024) < 0) {
        perror("answer: cannot listen");
        return 1;
    }
    int poll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[EVENTS];
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int ready = epoll_wait(poll, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd != listener) {
                if (!serve(fd)) close(fd);
                continue;
            }
            int connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
            if (connection < 0) continue;
            if (connection >= CONNECTIONS) {
                close(connection);
                continue;
            }
            matched[connection] = 0;
            setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
            event.events = EPOLLIN;
            event.data.fd = connection;
            epoll_ctl(poll, EPOLL_CTL_ADD, connection, &event);
        }
    }
}
