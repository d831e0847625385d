// Answers every HTTP/1.1 request after a delay, and counts. Usage: delayed PORT FOLDER SECONDS
//
// A thread for each connection, so that a request waits for nobody else's delay. FOLDER/PORT holds
// three numbers that whoever maps the file shares with this program: how many requests it has taken
// (64-bit integer), how long each takes in seconds (double), at first SECONDS, and its process id
// (64-bit integer).

#define _GNU_SOURCE
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { READ = 8 * 1024, STACK = 64 * 1024 };

static const char REPLY[] = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n";

static struct shared {
    uint64_t count;
    double delay_s;
    int64_t pid;
} *shared;

static void *serve(void *argument) {
    int connection = (int)(intptr_t)argument, state = 0;
    static const char END[] = "\r\n\r\n";
    char data[READ];
    ssize_t got;
    while ((got = recv(connection, data, sizeof data, 0)) > 0) {
        for (ssize_t i = 0; i < got; i++) {
            state = data[i] == END[state] ? state + 1 : data[i] == END[0];
            if (state < 4) continue;
            state = 0;
            __atomic_add_fetch(&shared->count, 1, __ATOMIC_RELAXED);
            double delay_s = shared->delay_s;
            struct timespec pause = {(time_t)delay_s, (long)((delay_s - (time_t)delay_s) * 1e9)};
            nanosleep(&pause, NULL);
            if (send(connection, REPLY, sizeof REPLY - 1, MSG_NOSIGNAL) < 0) break;
        }
    }
    close(connection);
    return NULL;
}

static struct shared *opened(const char *folder, int port, double delay_s) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%d", folder, port);
    int file = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (file < 0 || ftruncate(file, sizeof *shared) < 0) return NULL;
    void *mapped = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (mapped == MAP_FAILED) return NULL;
    struct shared *made = mapped;
    made->delay_s = delay_s;
    made->pid = getpid();
    return made;
}

int main(int count, char **arguments) {
    if (count != 4) return 2;
    int port = atoi(arguments[1]);
    signal(SIGTERM, _exit);
    shared = opened(arguments[2], port, atof(arguments[3]));
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (shared == NULL || bind(listener, (struct sockaddr *)&address, sizeof address) < 0 ||
        listen(listener, 1024) < 0) {
        perror("delayed: cannot listen");
        return 1;
    }
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    for (;;) {
        int connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (connection < 0) continue;
        setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        pthread_t thread;
        if (pthread_create(&thread, &attributes, serve, (void *)(intptr_t)connection)) {
            close(connection);
        }
    }
}
