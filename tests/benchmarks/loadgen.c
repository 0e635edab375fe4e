/* The benchmarks' load generator: one thread, epoll, one JSON object on standard output.

     loadgen echo PORT CLIENTS BYTES SECONDS WARMUP      round trips; each client keeps one message under way
     loadgen paced PORT CLIENTS BYTES RATE SECONDS WARMUP
                                                         messages of all clients together at so many a second, whether or not
                                                         the answers keep up; latencies from when each message was due
     loadgen command PORT CLIENTS BYTES SECONDS WARMUP   the same with clients of HiSock and the command "echo"
     loadgen fanout PORT CLIENTS BYTES SECONDS           one client sends the command "all", which all have to receive
     loadgen socketio PORT CLIENTS BYTES SECONDS         the same with clients of Socket.IO and the event "all"
     loadgen rate PORT BYTES SECONDS                     connect, one round trip, close: one after the other
     loadgen bulk PORT BLOCK TOTAL SECONDS               push TOTAL bytes, wait for the one byte that says they arrived
     loadgen serve                                       an echo server: prints its port, ends with its standard input

   BYTES of a command are those of its content; header and name come on top, and the server sends the very same back.
   Everything is bounded in time and count, and only the loopback interface is ever used. loadgen.py has the same command
   line and the same output, for machines without a C compiler or without epoll; it is too slow to tell fast servers apart.
   Exit status: 0 measured, 1 could not measure (the reason is on standard error), 2 wrong arguments. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define CONNECT_SECONDS 5.0       /* how long a connection is tried again */
#define ANSWER_SECONDS 5          /* how long a blocking call waits for the server */
#define JOIN_SECONDS 40           /* in which all clients have to have their first answer, or to be welcomed by HiSock */
#define ANSWERS_SECONDS 3.0       /* that the last messages of `paced` have to be answered in */
#define QUIET_SECONDS 0.3         /* without a byte, after which nobody is told of those who joined any more */
#define GRACE_SECONDS 30          /* past the asked for duration, after which an alarm ends the process */
#define SERVE_SECONDS 3600        /* the longest life of `serve` */
#define MAX_SAMPLES (8u << 20)    /* latencies kept; a run that fills them ends there */
#define MAX_CYCLES 25000          /* of `rate`: each leaves a port in TIME_WAIT, and those run out */
#define HEADER 16                 /* bytes of a header of HiSock: the length in decimal, padded with blanks */
#define LETTERS 26                /* clients send different letters, so that answers to somebody else are noticed */
#define CHUNK (256 * 1024)
#define EVENTS 256
#define TIMER UINT64_MAX          /* among the events, where clients have their index */

struct client {
    int fd; /* -1 once it is given up */
    char letter;
    int waits_to_write;
    size_t sent, received;
    double started;
    long answered;
};

static struct {
    float *microseconds;
    size_t count;
    long errors;
} result;

static char chunk[CHUNK];

static void fail(int status, const char *format, ...) {
    va_list values;
    va_start(values, format);
    fputs("loadgen: ", stderr);
    vfprintf(stderr, format, values);
    fputc('\n', stderr);
    va_end(values);
    exit(status);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void nap(double seconds) {
    struct timespec t = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&t, NULL);
}

static void *allocate(size_t count, size_t size) {
    void *memory = calloc(count, size);
    if (memory == NULL) fail(1, "out of memory");
    return memory;
}

/* Arguments. */

static long whole(const char *name, const char *text, long least, long most) {
    char *end;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (errno || *text == '\0' || *end != '\0' || value < least || value > most)
        fail(2, "%s is a whole number from %ld to %ld, not '%s'", name, least, most, text);
    return value;
}

static double seconds_of(const char *name, const char *text) {
    char *end;
    double value = strtod(text, &end);
    if (*text == '\0' || *end != '\0' || !(value >= 0 && value <= 3600))
        fail(2, "%s is a number of seconds from 0 to 3600, not '%s'", name, text);
    return value;
}

/* Samples. */

static void keep_sample(double seconds) {
    if (result.count < MAX_SAMPLES) result.microseconds[result.count++] = (float)(seconds * 1e6);
}

static int compare(const void *left, const void *right) {
    float a = *(const float *)left, b = *(const float *)right;
    return (a > b) - (a < b);
}

static double percentile(double fraction) {
    if (result.count == 0) return -1;
    return result.microseconds[(size_t)((double)(result.count - 1) * fraction)];
}

static void print_samples(double seconds) {
    qsort(result.microseconds, result.count, sizeof(float), compare);
    printf("\"seconds\": %.4f, \"count\": %zu, \"per_second\": %.2f, ", seconds, result.count,
           (double)result.count / seconds);
    printf("\"p50_us\": %.1f, \"p99_us\": %.1f, \"errors\": %ld}\n", percentile(.5), percentile(.99), result.errors);
}

/* Connections. */

static void set_timeouts(int fd) {
    struct timeval limit = {ANSWER_SECONDS, 0};
    int one = 1;
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit); /* bounds connect() as well */
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static int try_connect(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) fail(1, "socket: %s", strerror(errno));
    set_timeouts(fd);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0) return fd;
    int reason = errno;
    close(fd);
    errno = reason;
    return -1;
}

/* The server may still be about to listen, or its backlog be full: try until it is certain that it will not work. */
static int connect_to(int port) {
    double deadline = now() + CONNECT_SECONDS;
    for (;;) {
        int fd = try_connect(port);
        if (fd >= 0) return fd;
        if (now() > deadline) fail(1, "connect to port %d: %s", port, strerror(errno));
        nap(0.02);
    }
}

/* echo: round trips of many clients. */

static struct {
    int epoll;
    size_t size, request_size; /* of a message that comes, of one that is sent */
    char *letters[LETTERS];    /* a whole message of each letter, as it comes */
    char *requests[LETTERS];   /* and as it is sent */
    struct client *clients;
    long count, alive;
    void (*read)(struct client *);     /* what is done with what arrives */
    void (*complete)(struct client *); /* and once it is a whole message */
} echo;

static void watch(struct client *client, int operation, long index) {
    struct epoll_event event = {.events = EPOLLIN | (client->waits_to_write ? EPOLLOUT : 0)};
    event.data.u64 = (uint64_t)index;
    if (epoll_ctl(echo.epoll, operation, client->fd, &event)) fail(1, "epoll_ctl: %s", strerror(errno));
}

static void give_up(struct client *client) {
    close(client->fd); /* leaves the epoll set with that */
    client->fd = -1;
    result.errors++;
    echo.alive--;
}

static void send_rest(struct client *client) {
    const char *message = echo.requests[client->letter - 'a'];
    while (client->sent < echo.request_size) {
        size_t left = echo.request_size - client->sent;
        ssize_t n = send(client->fd, message + client->sent, left, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) break;
        if (n < 0) {
            give_up(client);
            return;
        }
        client->sent += (size_t)n;
    }
    int waits = client->sent < echo.request_size;
    if (waits != client->waits_to_write) {
        client->waits_to_write = waits;
        watch(client, EPOLL_CTL_MOD, client - echo.clients);
    }
}

static void start_message(struct client *client) {
    client->sent = client->received = 0;
    client->started = now();
    send_rest(client);
}

static void receive_some(struct client *client) {
    ssize_t n = recv(client->fd, chunk, sizeof chunk, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    const char *expected = echo.letters[client->letter - 'a'] + client->received;
    size_t most = client->sent < echo.size ? client->sent : echo.size;
    if (n <= 0 || client->received + (size_t)n > most || memcmp(chunk, expected, (size_t)n)) {
        give_up(client); /* closed, more than was sent, or not theirs */
        return;
    }
    client->received += (size_t)n;
    if (client->received == echo.size) echo.complete(client);
}

static void round_trip_complete(struct client *client) {
    keep_sample(now() - client->started);
    client->answered++;
    start_message(client);
}

static void serve_events(void) {
    struct epoll_event events[EVENTS];
    int count = epoll_wait(echo.epoll, events, EVENTS, 50);
    for (int i = 0; i < count; i++) {
        if (events[i].data.u64 == TIMER) continue; /* it has ended the wait, which is all it is for */
        struct client *client = &echo.clients[events[i].data.u64];
        if (client->fd >= 0 && events[i].events & EPOLLOUT) send_rest(client);
        if (client->fd >= 0 && events[i].events & ~(uint32_t)EPOLLOUT) echo.read(client);
    }
}

static void run_until(double deadline) {
    while (now() < deadline && echo.alive > 0 && result.count < MAX_SAMPLES) serve_events();
}

/* A message of each letter: `size` times the letter or, with a command, that as its content. */
static void prepare_messages(const char *command, size_t size) {
    char prefix[HEADER + 64] = "";
    if (command != NULL) {
        int named = snprintf(NULL, 0, "$CMD$%s$MSG$", command);
        snprintf(prefix, sizeof prefix, "%-*zu$CMD$%s$MSG$", HEADER, (size_t)named + size, command);
    }
    echo.size = strlen(prefix) + size;
    for (int i = 0; i < LETTERS; i++) {
        echo.letters[i] = allocate(echo.size, 1);
        memcpy(echo.letters[i], prefix, strlen(prefix));
        memset(echo.letters[i] + strlen(prefix), 'a' + i, size);
        echo.requests[i] = echo.letters[i];
    }
    echo.request_size = echo.size;
}

static void connect_client(int port, long i) {
    echo.clients[i].fd = connect_to(port);
    echo.clients[i].letter = (char)('a' + i % LETTERS);
    watch(&echo.clients[i], EPOLL_CTL_ADD, i);
}

static void prepare_clients(long count) {
    echo.epoll = epoll_create1(EPOLL_CLOEXEC);
    echo.clients = allocate((size_t)count, sizeof(struct client));
    echo.count = echo.alive = count;
}

static int round_trip(int fd, const char *message, size_t size) {
    if (send(fd, message, size, MSG_NOSIGNAL) != (ssize_t)size) return 0;
    for (size_t received = 0; received < size;) {
        size_t left = size - received;
        ssize_t n = recv(fd, chunk, left < CHUNK ? left : CHUNK, 0);
        if (n <= 0 || memcmp(chunk, message + received, (size_t)n)) return 0;
        received += (size_t)n;
    }
    return 1;
}

/* One after the other, each with a round trip: the server has accepted everybody then, and made what it makes for each. */
static void connect_clients(int port) {
    double deadline = now() + JOIN_SECONDS;
    for (long i = 0; i < echo.count; i++) {
        connect_client(port, i);
        if (!round_trip(echo.clients[i].fd, echo.letters[i % LETTERS], echo.size)) give_up(&echo.clients[i]);
        if (now() > deadline) fail(1, "%ld of %ld clients had a first answer in time", i, echo.count);
    }
}

static void forget_warmup(void) {
    result.count = 0;
    for (long i = 0; i < echo.count; i++) echo.clients[i].answered = 0;
}

static long served(void) {
    long count = 0;
    for (long i = 0; i < echo.count; i++) count += echo.clients[i].answered > 0;
    return count;
}

static void measure_round_trips(const char *mode, const char *size, double seconds, double warmup) {
    echo.read = receive_some;
    echo.complete = round_trip_complete;
    for (long i = 0; i < echo.count; i++)
        if (echo.clients[i].fd >= 0) start_message(&echo.clients[i]);
    run_until(now() + warmup);
    forget_warmup();
    double start = now();
    run_until(start + seconds);
    double elapsed = now() - start;
    printf("{\"mode\": \"%s\", \"clients\": %ld, \"bytes\": %s, \"served\": %ld, ", mode, echo.count, size, served());
    print_samples(elapsed);
}

static void run_echo(char **arguments) {
    int port = (int)whole("PORT", arguments[0], 1, 65535);
    long count = whole("CLIENTS", arguments[1], 1, 10000), size = whole("BYTES", arguments[2], 1, 16 << 20);
    double seconds = seconds_of("SECONDS", arguments[3]), warmup = seconds_of("WARMUP", arguments[4]);
    alarm((unsigned)(seconds + warmup) + JOIN_SECONDS + GRACE_SECONDS);
    prepare_messages(NULL, (size_t)size);
    prepare_clients(count);
    connect_clients(port);
    measure_round_trips("echo", arguments[2], seconds, warmup);
}

/* paced: message n of all is due at n / rate and of client n % clients. One that waits for an answer sends it as soon as it
   has that, but it was due when it was due: what is slow for a while is seen in all the messages that waited for it. */

static struct {
    int timer;
    double start, interval; /* seconds between two messages, whoever's they are */
    double counted;         /* those due earlier were the warm-up */
    long next;              /* the message that is due next */
    long *begun, *due;      /* of each client: how many it began to send, and how many should have been */
} paced;

static double due_time(long number) {
    return paced.start + (double)number * paced.interval;
}

static void begin_paced(struct client *client) {
    long index = client - echo.clients;
    start_message(client);
    client->started = due_time(paced.begun[index]++ * echo.count + index);
}

static void keep_paced(double due) {
    if (due >= paced.counted) keep_sample(now() - due);
}

static void paced_complete(struct client *client) {
    long index = client - echo.clients;
    keep_paced(client->started);
    client->answered++;
    if (paced.begun[index] < paced.due[index]) begin_paced(client);
}

static void begin_due(double end) {
    for (; due_time(paced.next) <= now() && due_time(paced.next) < end; paced.next++) {
        long index = paced.next % echo.count;
        struct client *client = &echo.clients[index];
        int idle = client->answered == paced.begun[index];
        paced.due[index]++;
        if (idle && client->fd >= 0) begin_paced(client);
    }
}

static void wake_at(double time) {
    struct itimerspec at = {.it_value = {(time_t)time, (long)((time - (double)(time_t)time) * 1e9)}};
    if (timerfd_settime(paced.timer, TFD_TIMER_ABSTIME, &at, NULL)) fail(1, "timerfd_settime: %s", strerror(errno));
}

static void prepare_pace(double rate, double warmup) {
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = TIMER}; /* ET: it need not be read */
    paced.timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    if (paced.timer < 0 || epoll_ctl(echo.epoll, EPOLL_CTL_ADD, paced.timer, &event))
        fail(1, "timerfd: %s", strerror(errno));
    paced.begun = allocate((size_t)echo.count, sizeof(long));
    paced.due = allocate((size_t)echo.count, sizeof(long));
    paced.interval = 1 / rate;
    paced.start = now();
    paced.counted = paced.start + warmup;
}

/* What has no answer at the end counts with the time that it has waited: leaving it out would make slow servers fast. */
static long keep_unanswered(void) {
    long count = 0;
    for (long i = 0; i < echo.count; i++)
        for (long n = echo.clients[i].answered; n < paced.due[i]; n++, count++) keep_paced(due_time(n * echo.count + i));
    return count;
}

static int any_unanswered(void) {
    for (long i = 0; i < echo.count; i++)
        if (echo.clients[i].fd >= 0 && echo.clients[i].answered < paced.due[i]) return 1;
    return 0;
}

static void keep_pace(double rate, double seconds, double warmup) {
    prepare_pace(rate, warmup);
    double end = paced.counted + seconds;
    while (now() < end && echo.alive > 0) {
        begin_due(end);
        wake_at(due_time(paced.next));
        serve_events();
    }
    while (any_unanswered() && now() < end + ANSWERS_SECONDS) serve_events();
}

static void run_paced(char **arguments) {
    int port = (int)whole("PORT", arguments[0], 1, 65535);
    long count = whole("CLIENTS", arguments[1], 1, 10000), size = whole("BYTES", arguments[2], 1, 16 << 20);
    double rate = (double)whole("RATE", arguments[3], 1, 1000000);
    double seconds = seconds_of("SECONDS", arguments[4]), warmup = seconds_of("WARMUP", arguments[5]);
    alarm((unsigned)(seconds + warmup) + JOIN_SECONDS + GRACE_SECONDS);
    prepare_messages(NULL, (size_t)size);
    prepare_clients(count);
    connect_clients(port);
    echo.read = receive_some;
    echo.complete = paced_complete;
    keep_pace(rate, seconds, warmup);
    long unanswered = keep_unanswered();
    printf("{\"mode\": \"paced\", \"clients\": %ld, \"bytes\": %ld, \"served\": %ld, ", count, size, served());
    printf("\"unanswered\": %ld, ", unanswered);
    print_samples(seconds);
}

/* command and fanout: clients of HiSock. All are told of each that joins, which is read and dropped before anything is
   measured. */

static double last_arrival;

static void discard_some(struct client *client) {
    ssize_t n = recv(client->fd, chunk, sizeof chunk, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) fail(1, "the server closed the connection of client %ld while they joined", client - echo.clients + 1);
    client->received += (size_t)n;
    last_arrival = now();
}

static void say_hello(struct client *client) {
    static const char hello[] = "$CLTHELLO${\"name\": null, \"group\": null}";
    char message[HEADER + sizeof hello];
    int size = snprintf(message, sizeof message, "%-*zu%s", HEADER, sizeof hello - 1, hello);
    if (send(client->fd, message, (size_t)size, MSG_NOSIGNAL) != size) fail(1, "send: %s", strerror(errno));
}

/* One after the other: each is told of itself, too, and with that the server has it. */
static void join_clients(int port) {
    double deadline = now() + JOIN_SECONDS;
    echo.read = discard_some;
    for (long i = 0; i < echo.count; i++) {
        connect_client(port, i);
        say_hello(&echo.clients[i]);
        while (echo.clients[i].received == 0) {
            serve_events();
            if (now() > deadline) fail(1, "%ld of %ld clients were welcomed in time", i, echo.count);
        }
    }
    while (now() < last_arrival + QUIET_SECONDS) {
        serve_events();
        if (now() > deadline) fail(1, "the server never stopped telling who joined");
    }
}

static void run_command(char **arguments) {
    int port = (int)whole("PORT", arguments[0], 1, 65535);
    long count = whole("CLIENTS", arguments[1], 1, 10000), size = whole("BYTES", arguments[2], 1, 16 << 20);
    double seconds = seconds_of("SECONDS", arguments[3]), warmup = seconds_of("WARMUP", arguments[4]);
    alarm((unsigned)(seconds + warmup) + JOIN_SECONDS + GRACE_SECONDS);
    prepare_messages("echo", (size_t)size);
    prepare_clients(count);
    join_clients(port);
    measure_round_trips("command", arguments[2], seconds, warmup);
}

static struct {
    long missing; /* clients that have not received it yet */
    double started;
    size_t number;
} fanout;

/* Another letter each time, so that one which comes late or twice is noticed. */
static void start_round(void) {
    char letter = (char)('a' + fanout.number++ % LETTERS);
    for (long i = 0; i < echo.count; i++) {
        echo.clients[i].letter = letter;
        echo.clients[i].received = 0;
        echo.clients[i].sent = echo.size; /* by the first, which is the only one to send */
    }
    fanout.missing = echo.count;
    fanout.started = now();
    start_message(&echo.clients[0]);
}

static void delivery_complete(struct client *client) {
    client->answered++;
    if (--fanout.missing) return;
    keep_sample(now() - fanout.started);
    start_round();
}

static void measure_fanout(const char *mode, const char *size, double seconds) {
    echo.read = receive_some;
    echo.complete = delivery_complete;
    double start = now();
    start_round();
    run_until(start + seconds);
    double elapsed = now() - start;
    printf("{\"mode\": \"%s\", \"clients\": %ld, \"bytes\": %s, \"served\": %ld, ", mode, echo.count, size, served());
    printf("\"deliveries_per_second\": %.2f, ", (double)result.count * (double)echo.count / elapsed);
    print_samples(elapsed);
}

static void run_fanout(char **arguments) {
    int port = (int)whole("PORT", arguments[0], 1, 65535);
    long count = whole("CLIENTS", arguments[1], 1, 10000), size = whole("BYTES", arguments[2], 1, 16 << 20);
    double seconds = seconds_of("SECONDS", arguments[3]);
    alarm((unsigned)seconds + JOIN_SECONDS + GRACE_SECONDS);
    prepare_messages("all", (size_t)size);
    prepare_clients(count);
    join_clients(port);
    measure_fanout("fanout", arguments[2], seconds);
}

/* socketio: fanout over WebSocket. An event is a text frame of `42["all","..."]`; the server's are bare, ours are masked,
   with zeros, which change nothing. */

#define TEXT_FRAME 0x81
#define MASKED 0x80
#define LONG_FRAME 126 /* stands for: the length is in the next two bytes */
#define FRAME_HEADER 4
#define MASK 4

static size_t frame_of(char *target, int masked, const char *payload, size_t size) {
    size_t used = 0;
    target[used++] = (char)TEXT_FRAME;
    target[used++] = (char)(masked | (int)(size < LONG_FRAME ? size : LONG_FRAME));
    if (size >= LONG_FRAME) {
        target[used++] = (char)(size >> 8);
        target[used++] = (char)size;
    }
    if (masked) memset(target + used, 0, MASK);
    used += masked ? MASK : 0;
    memcpy(target + used, payload, size);
    return used + size;
}

static void prepare_events(size_t size) {
    static const char before[] = "42[\"all\",\"", after[] = "\"]";
    size_t whole_size = strlen(before) + size + strlen(after);
    for (int i = 0; i < LETTERS; i++) {
        char *payload = allocate(whole_size, 1);
        memcpy(payload, before, strlen(before));
        memset(payload + strlen(before), 'a' + i, size);
        memcpy(payload + strlen(before) + size, after, strlen(after));
        echo.letters[i] = allocate(whole_size + FRAME_HEADER, 1);
        echo.requests[i] = allocate(whole_size + FRAME_HEADER + MASK, 1);
        echo.size = frame_of(echo.letters[i], 0, payload, whole_size);
        echo.request_size = frame_of(echo.requests[i], MASKED, payload, whole_size);
        free(payload);
    }
}

static void send_now(int fd, const char *data, size_t size) {
    if (send(fd, data, size, MSG_NOSIGNAL) != (ssize_t)size) fail(1, "send: %s", strerror(errno));
}

static void receive_now(int fd, char *target, size_t size) {
    ssize_t n = recv(fd, target, size, MSG_WAITALL);
    if (n != (ssize_t)size) fail(1, "no whole answer while the clients joined: %s", n < 0 ? strerror(errno) : "closed");
}

static void upgrade(int fd) {
    static const char request[] = "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                                  "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                                  "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n";
    size_t size = 0;
    send_now(fd, request, sizeof request - 1);
    while (size < 4 || memcmp(chunk + size - 4, "\r\n\r\n", 4)) {
        if (size == CHUNK) fail(1, "the server's answer to an upgrade has no end");
        receive_now(fd, chunk + size++, 1); /* what follows is a frame, so no byte more than the headers */
    }
    if (memcmp(chunk, "HTTP/1.1 101 ", 13)) fail(1, "the server does not speak WebSocket: %.40s", chunk);
}

static void expect_packet(int fd, const char *beginning) {
    unsigned char header[2], extended[2];
    receive_now(fd, (char *)header, 2);
    size_t size = header[1];
    if (size == LONG_FRAME) {
        receive_now(fd, (char *)extended, 2);
        size = (size_t)extended[0] << 8 | extended[1];
    }
    receive_now(fd, chunk, size);
    if (header[0] != TEXT_FRAME || size < strlen(beginning) || memcmp(chunk, beginning, strlen(beginning)))
        fail(1, "the server did not say %s while the clients joined", beginning);
}

static void join_socketio(int port) {
    double deadline = now() + JOIN_SECONDS;
    char packet[FRAME_HEADER + MASK + 2];
    for (long i = 0; i < echo.count; i++) {
        connect_client(port, i);
        int fd = echo.clients[i].fd;
        upgrade(fd);
        expect_packet(fd, "0"); /* of Engine.IO: open */
        send_now(fd, packet, frame_of(packet, MASKED, "40", 2));
        expect_packet(fd, "40"); /* of Socket.IO: connected */
        if (now() > deadline) fail(1, "%ld of %ld clients were welcomed in time", i + 1, echo.count);
    }
}

static void run_socketio(char **arguments) {
    int port = (int)whole("PORT", arguments[0], 1, 65535);
    long count = whole("CLIENTS", arguments[1], 1, 10000), size = whole("BYTES", arguments[2], 1, 60000);
    double seconds = seconds_of("SECONDS", arguments[3]);
    alarm((unsigned)seconds + JOIN_SECONDS + GRACE_SECONDS);
    prepare_events((size_t)size);
    prepare_clients(count);
    join_socketio(port);
    measure_fanout("socketio", arguments[2], seconds);
}

/* rate: connections one after the other. */

static void run_rate(char **arguments) {
    int port = (int)whole("PORT", arguments[0], 1, 65535);
    size_t size = (size_t)whole("BYTES", arguments[1], 1, CHUNK);
    double seconds = seconds_of("SECONDS", arguments[2]), start = now(), began;
    alarm((unsigned)seconds + GRACE_SECONDS);
    char *message = allocate(size, 1);
    memset(message, 'x', size);
    while ((began = now()) < start + seconds && result.count + (size_t)result.errors < MAX_CYCLES) {
        int fd = connect_to(port);
        int answered = round_trip(fd, message, size);
        close(fd);
        if (answered)
            keep_sample(now() - began);
        else
            result.errors++;
    }
    printf("{\"mode\": \"rate\", \"bytes\": %zu, ", size);
    print_samples(now() - start);
}

/* bulk: one client that pushes as fast as it is read. */

static void push(int fd, const char *block, size_t size, double deadline) {
    for (size_t sent = 0; sent < size;) {
        ssize_t n = send(fd, block + sent, size - sent, MSG_NOSIGNAL);
        if (n > 0) sent += (size_t)n;
        if (n < 0 && errno != EINTR && errno != EAGAIN) fail(1, "send: %s", strerror(errno));
        if (now() > deadline) fail(1, "the server did not read all in time");
    }
}

static void await_receipt(int fd, double deadline) {
    for (;;) {
        ssize_t n = recv(fd, chunk, 1, 0);
        if (n == 1) return;
        if (n == 0) fail(1, "the server closed the connection");
        if (errno != EAGAIN && errno != EINTR) fail(1, "recv: %s", strerror(errno));
        if (now() > deadline) fail(1, "the server did not say in time that it has all");
    }
}

static void run_bulk(char **arguments) {
    int port = (int)whole("PORT", arguments[0], 1, 65535);
    long block_size = whole("BLOCK", arguments[1], 1, 16 << 20), total = whole("TOTAL", arguments[2], 1, 1L << 36);
    double limit = seconds_of("SECONDS", arguments[3]);
    alarm((unsigned)limit + GRACE_SECONDS);
    char *block = allocate((size_t)block_size, 1);
    int fd = connect_to(port);
    double start = now();
    for (long left = total; left > 0; left -= block_size)
        push(fd, block, (size_t)(left < block_size ? left : block_size), start + limit);
    await_receipt(fd, start + limit);
    double elapsed = now() - start;
    printf("{\"mode\": \"bulk\", \"bytes\": %ld, \"seconds\": %.4f, \"mib_per_second\": %.2f}\n", total, elapsed,
           (double)total / elapsed / (1 << 20));
}

/* serve: an echo server to measure clients against. */

static int listen_anywhere(void) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t length = sizeof address;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 128))
        fail(1, "listen: %s", strerror(errno));
    getsockname(fd, (struct sockaddr *)&address, &length);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

static void add_reader(int epoll, int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event)) fail(1, "epoll_ctl: %s", strerror(errno));
}

static void accept_one(int epoll, int listener) {
    int fd = accept(listener, NULL, NULL);
    if (fd < 0) return;
    set_timeouts(fd); /* a client that does not read is dropped instead of holding up the others for ever */
    add_reader(epoll, fd);
}

static void answer_one(int fd) {
    ssize_t n = recv(fd, chunk, sizeof chunk, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0 || send(fd, chunk, (size_t)n, MSG_NOSIGNAL) != n) close(fd);
}

static int still_wanted(void) {
    char ignored[256];
    return read(STDIN_FILENO, ignored, sizeof ignored) > 0;
}

static void run_serve(char **arguments) {
    (void)arguments;
    alarm(SERVE_SECONDS);
    int listener = listen_anywhere(), epoll = epoll_create1(EPOLL_CLOEXEC);
    add_reader(epoll, listener);
    add_reader(epoll, STDIN_FILENO);
    for (;;) {
        struct epoll_event events[EVENTS];
        int count = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listener)
                accept_one(epoll, listener);
            else if (fd != STDIN_FILENO)
                answer_one(fd);
            else if (!still_wanted())
                return;
        }
    }
}

static const struct {
    const char *name;
    void (*run)(char **);
    int arguments;
    const char *usage;
} modes[] = {
    {"echo", run_echo, 5, "PORT CLIENTS BYTES SECONDS WARMUP"},
    {"paced", run_paced, 6, "PORT CLIENTS BYTES RATE SECONDS WARMUP"},
    {"command", run_command, 5, "PORT CLIENTS BYTES SECONDS WARMUP"},
    {"fanout", run_fanout, 4, "PORT CLIENTS BYTES SECONDS"},
    {"socketio", run_socketio, 4, "PORT CLIENTS BYTES SECONDS"},
    {"rate", run_rate, 3, "PORT BYTES SECONDS"},
    {"bulk", run_bulk, 4, "PORT BLOCK TOTAL SECONDS"},
    {"serve", run_serve, 0, ""},
};

int main(int count, char **arguments) {
    result.microseconds = malloc(MAX_SAMPLES * sizeof(float)); /* not calloc: only the pages in use are touched */
    if (result.microseconds == NULL) fail(1, "out of memory");
    for (size_t i = 0; count > 1 && i < sizeof modes / sizeof *modes; i++) {
        if (strcmp(arguments[1], modes[i].name)) continue;
        if (count - 2 != modes[i].arguments) fail(2, "usage: loadgen %s %s", modes[i].name, modes[i].usage);
        modes[i].run(arguments + 2);
        return 0;
    }
    fail(2, "usage: loadgen echo|paced|command|fanout|socketio|rate|bulk|serve ARGUMENTS...");
}
