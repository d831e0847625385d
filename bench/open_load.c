// Sends HTTP/1.1 GETs at a fixed rate, whatever the answers do. Usage:
//
//   open_load HOST PORT PATH RATE SECONDS CONNECTIONS
//
// Request i is due at i / RATE seconds. It goes out then on a connection that is free, or as soon as
// one is, and its latency counts from when it was due: a server that stalls is charged for everybody
// who would have asked meanwhile (no coordinated omission). Printed for each request, as three
// doubles in this machine's order: when it was due, its latency, both in seconds, and the answer's
// status, 0 where none came. A connection that ends is replaced, the request on it has failed. One
// that the answer says will be closed is closed here, and opened again for the next request on it.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HEAD = 16 * 1024, CONNECTIONS = 1024 };

static const double PATIENCE_S = 10.0;  // for the last answers

struct connection {
    double due;
    size_t held;      // bytes of the answer so far
    size_t awaited;   // bytes that the answer has; 0 while its head is not whole
    int busy, status;
    int closes;       // after this answer, by its own word
    char head[HEAD + 1];
};

static struct connection connections[CONNECTIONS];
static struct pollfd polled[CONNECTIONS];
static struct sockaddr_in server;
static char message[HEAD];
static size_t message_size;

static double now_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void record(double due, double latency, double status) {
    double entry[3] = {due, latency, status};
    fwrite(entry, sizeof entry, 1, stdout);
}

static int opened(void) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    if (fd >= 0 && connect(fd, (struct sockaddr *)&server, sizeof server) == 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        return fd;
    }
    if (fd >= 0) close(fd);
    return -1;
}

static void failed(int i, double began) {
    struct connection *it = &connections[i];
    if (it->busy) record(it->due - began, now_s() - it->due, 0);
    it->busy = 0;
    if (polled[i].fd >= 0) close(polled[i].fd);
    polled[i].fd = -1;
}

static int send_request(int i, double due) {
    struct connection *it = &connections[i];
    if (polled[i].fd < 0) polled[i].fd = opened();
    it->due = due;
    it->held = it->awaited = 0;
    it->busy = 1;
    return polled[i].fd >= 0 &&
           send(polled[i].fd, message, message_size, MSG_NOSIGNAL) == (ssize_t)message_size;
}

// Takes in what came; returns 0 if the connection is of no more use.
static int receive(int i, double began) {
    struct connection *it = &connections[i];
    static char rest[256 * 1024];
    char *to = it->awaited ? rest : it->head + it->held;
    size_t room = it->awaited ? sizeof rest : HEAD - it->held;
    ssize_t got = recv(polled[i].fd, to, room, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN) return 1;
    if (got <= 0 || !it->busy) return 0;
    it->held += (size_t)got;
    if (!it->awaited) {
        it->head[it->held] = 0;
        char *end = strstr(it->head, "\r\n\r\n");
        if (end == NULL) return it->held < HEAD;
        char *length = strcasestr(it->head, "\r\ncontent-length:");
        if (length == NULL || length > end) return 0;
        char *closing = strcasestr(it->head, "\r\nconnection: close\r\n");
        it->closes = closing != NULL && closing < end;
        it->status = atoi(it->head + 9);
        it->awaited = (size_t)(end + 4 - it->head) + strtoull(length + 17, NULL, 10);
    }
    if (it->held < it->awaited) return 1;
    record(it->due - began, now_s() - it->due, it->held == it->awaited ? it->status : 0);
    it->busy = 0;
    return it->held == it->awaited && !it->closes;
}

int main(int count, char **arguments) {
    if (count != 7) {
        fputs("usage: open_load HOST PORT PATH RATE SECONDS CONNECTIONS\n", stderr);
        return 2;
    }
    double rate = atof(arguments[4]), seconds = atof(arguments[5]);
    int number = atoi(arguments[6]);
    if (number < 1 || number > CONNECTIONS) return 2;
    server.sin_family = AF_INET;
    server.sin_port = htons((uint16_t)atoi(arguments[2]));
    if (inet_pton(AF_INET, arguments[1], &server.sin_addr) != 1) return 2;
    message_size = (size_t)snprintf(message, sizeof message,
                                    "GET %s HTTP/1.1\r\nHost: %s:%s\r\n\r\n",
                                    arguments[3], arguments[1], arguments[2]);
    if (message_size >= sizeof message) return 2;
    prctl(PR_SET_TIMERSLACK, 1);  // else each wait may take 50 microseconds longer
    for (int i = 0; i < number; i++) {
        polled[i].events = POLLIN;
        polled[i].fd = opened();
    }
    long total = (long)(rate * seconds), sent = 0, done = 0;
    double began = now_s(), end = began + seconds + PATIENCE_S;
    int next = 0;
    while (done < total && now_s() < end) {
        for (int tried = 0; sent < total && tried < number; tried++) {
            double due = began + (double)sent / rate;
            if (due > now_s()) break;
            int i = next;
            next = (next + 1) % number;
            if (connections[i].busy) continue;
            sent++;
            tried = 0;
            if (!send_request(i, due)) {
                failed(i, began);
                done++;
            }
        }
        double wait = sent < total ? began + (double)sent / rate - now_s() : 0.01;
        if (wait <= 0) wait = 0.0001;  // all are busy
        struct timespec timeout = {(time_t)wait, (long)((wait - (double)(time_t)wait) * 1e9)};
        if (ppoll(polled, (nfds_t)number, &timeout, NULL) <= 0) continue;
        for (int i = 0; i < number; i++) {
            if (polled[i].fd < 0 || !polled[i].revents) continue;
            int was_busy = connections[i].busy;
            if (!receive(i, began)) failed(i, began);
            done += was_busy && !connections[i].busy;
        }
    }
    for (int i = 0; i < number; i++) {
        if (connections[i].busy) failed(i, began);
    }
    for (; sent < total; sent++) record((double)sent / rate, PATIENCE_S, 0);
    return 0;
}
