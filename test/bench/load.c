// The load generator of the echo cases: one thread, epoll, and every byte that comes back is checked.
//
//   load echo HOST PORT --connections N --size BYTES --seconds S [--warmup S] [--stall S]
//   load bulk HOST PORT --connections N --size BYTES --seconds S [--warmup S] [--stall S] [--window BYTES]
//
// Both modes are one algorithm. A connection's stream is a row of messages of SIZE bytes; up to LIMIT of them are
// under way at once. `echo` is a limit of 1 (ping-pong), `bulk` is as many as fit in the window (1 MiB).
//
// Prints one line of JSON on stdout. Exit: 0 all bytes equal; 1 a wrong, missing or surplus byte, or a lost
// connection (named on stderr); 2 usage or set-up; 3 the server stalled. Never runs longer than
// connecting (5 s) + warmup + seconds + stall, and SIGALRM makes sure of it.
#define _GNU_SOURCE
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
  TABLE = 1 << 20,         // bytes of random pattern: small enough to stay in a second-level cache
  READ_SIZE = 256 * 1024,  // bytes asked for in one recv
  EVENTS = 512,            // epoll events taken at once
  CONNECT_SECONDS = 5,     // for all connections together
  BUCKETS = 64 * 64,       // histogram: 64 powers of two, each in 64 steps (1.6 % wide)
};
static const uint64_t SECOND = 1000000000u;  // nanoseconds

struct connection {
  int fd;
  bool waits_for_room;   // the kernel took less than a message: EPOLLOUT is armed
  uint64_t sent;         // bytes of this stream, from its beginning
  uint64_t received;     // the same, checked
  uint64_t *begun_at;    // ring of `limit`: when the first byte of a message went out
};

// What is asked for.
static const char *mode;
static long connections = 50, size = 64, window = 1 << 20;
static double seconds = 1, warmup = 0, stall = 5;
static uint64_t limit = 1;  // messages under way on a connection

// What is measured: in all, and since the warm-up ended.
static uint64_t all_operations, all_bytes, operations, bytes, histogram[BUCKETS], slowest;
static uint64_t first_start, start, finish;
static double measured_seconds;
static bool measuring, stopping;

static unsigned char *table;
static int poller;
static struct connection *all;

static uint64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

// A message is a slice of the table. Both factors are odd, so no two of 2^20 consecutive messages of a connection
// share a slice, and no two connections share one for the same message number.
static const unsigned char *message(const struct connection *c, uint64_t number) {
  uint64_t index = (uint64_t)(c - all);
  return table + ((index * 0x85EBCA6Bu + number * 0x9E3779B1u) & (TABLE - 1));
}

static unsigned bucket_of(uint64_t ns) {
  if (ns < 64) return (unsigned)ns;
  unsigned power = 63 - (unsigned)__builtin_clzll(ns);  // >= 6
  return (power - 5) * 64 + (unsigned)((ns >> (power - 6)) & 63);
}

static double bucket_middle(unsigned bucket) {
  if (bucket < 64) return bucket;
  unsigned power = bucket / 64 + 5;
  double step = (double)(1ull << (power - 6));
  return (64 + bucket % 64 + 0.5) * step;
}

static double percentile_us(double share) {
  uint64_t wanted = (uint64_t)(share * (double)operations), seen = 0;
  for (unsigned i = 0; i < BUCKETS; i++) {
    seen += histogram[i];
    if (histogram[i] > 0 && seen > wanted) return bucket_middle(i) / 1000;
  }
  return (double)slowest / 1000;
}

static void report(int errors) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  double cpu = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
               (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
  double s = measured_seconds;
  if (s == 0 && measuring) s = (double)(now() - start) / 1e9;
  double total = first_start ? (double)(now() - first_start) / 1e9 : 0;
  printf("{\"mode\":\"%s\",\"connections\":%ld,\"size\":%ld,\"operations\":%llu,\"bytes\":%llu,"
         "\"seconds\":%.6f,\"rate\":%.1f,\"mibPerSecond\":%.2f,\"p50us\":%.1f,\"p99us\":%.1f,\"maxus\":%.1f,"
         "\"totalOperations\":%llu,\"totalBytes\":%llu,\"totalSeconds\":%.6f,\"loadCpuSeconds\":%.3f,\"errors\":%d}\n",
         mode, connections, size, (unsigned long long)operations, (unsigned long long)bytes, s,
         s > 0 ? (double)operations / s : 0, s > 0 ? (double)bytes / s / 1048576 : 0, percentile_us(0.5),
         percentile_us(0.99), (double)slowest / 1000, (unsigned long long)all_operations,
         (unsigned long long)all_bytes, total, cpu, errors);
  fflush(stdout);
}

static _Noreturn void fail(const struct connection *c, const char *what) {
  fprintf(stderr, "load: connection %ld, offset %llu: %s\n", (long)(c - all), (unsigned long long)c->received, what);
  report(1);
  exit(1);
}

static _Noreturn void fail_mismatch(const struct connection *c, const unsigned char *want, const unsigned char *got,
                                    size_t length) {
  size_t at = 0;
  while (want[at] == got[at]) at++;
  fprintf(stderr, "load: connection %ld, offset %llu (message %llu, byte %llu): expected", (long)(c - all),
          (unsigned long long)(c->received + at), (unsigned long long)((c->received + at) / (uint64_t)size),
          (unsigned long long)((c->received + at) % (uint64_t)size));
  size_t shown = length - at < 16 ? length - at : 16;
  for (size_t i = 0; i < shown; i++) fprintf(stderr, " %02x", want[at + i]);
  fprintf(stderr, ", got");
  for (size_t i = 0; i < shown; i++) fprintf(stderr, " %02x", got[at + i]);
  fprintf(stderr, "\n");
  report(1);
  exit(1);
}

static _Noreturn void fail_stalled(const char *when) {
  long waiting = 0, first = -1;
  for (long i = 0; i < connections; i++) {
    if (all[i].received == all[i].sent) continue;
    if (waiting++ == 0) first = i;
  }
  fprintf(stderr, "load: the server stalled (%s): %ld of %ld connections wait for bytes", when, waiting, connections);
  if (first >= 0)
    fprintf(stderr, "; connection %ld has %llu of %llu", first, (unsigned long long)all[first].received,
            (unsigned long long)all[first].sent);
  fprintf(stderr, "\n");
  report(1);
  exit(3);
}

static void too_late(int signal_number) {
  (void)signal_number;
  static const char text[] = "load: out of time (SIGALRM)\n";
  if (write(2, text, sizeof text - 1)) {}
  _exit(3);
}

static void arm(struct connection *c, bool for_room) {
  if (c->waits_for_room == for_room) return;
  c->waits_for_room = for_room;
  struct epoll_event event = {.events = EPOLLIN | (for_room ? EPOLLOUT : 0), .data.ptr = c};
  epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
}

// Sends until the window is full or the kernel's buffer is. A message that was begun is always completed.
static void fill(struct connection *c, uint64_t t) {
  for (;;) {
    uint64_t number = c->sent / (uint64_t)size, within = c->sent % (uint64_t)size;
    if (within == 0) {
      if (stopping || number - c->received / (uint64_t)size >= limit) break;
      c->begun_at[number % limit] = t;
    }
    ssize_t n = send(c->fd, message(c, number) + within, (size_t)size - within, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK) {
        arm(c, true);
        return;
      }
      fail(c, strerror(errno));
    }
    c->sent += (uint64_t)n;
  }
  arm(c, false);
}

static void check(struct connection *c, const unsigned char *got, size_t length, uint64_t t) {
  if (length > c->sent - c->received) fail(c, "more bytes came back than were sent");
  while (length > 0) {
    uint64_t number = c->received / (uint64_t)size, within = c->received % (uint64_t)size;
    size_t part = (size_t)size - within < length ? (size_t)((uint64_t)size - within) : length;
    const unsigned char *want = message(c, number) + within;
    if (memcmp(want, got, part) != 0) fail_mismatch(c, want, got, part);
    c->received += part;
    got += part;
    length -= part;
    all_bytes += part;
    if (measuring) bytes += part;
    if (c->received % (uint64_t)size != 0) continue;
    all_operations++;
    if (!measuring) continue;
    operations++;
    uint64_t took = t - c->begun_at[number % limit];
    histogram[bucket_of(took)]++;
    if (took > slowest) slowest = took;
  }
}

static void open_all(const char *host, const char *port) {
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV}, *address;
  int bad = getaddrinfo(host, port, &hints, &address);  // numeric only: never waits for a name server
  if (bad) {
    fprintf(stderr, "load: %s %s: %s\n", host, port, gai_strerror(bad));
    exit(2);
  }
  struct timeval patience = {.tv_sec = CONNECT_SECONDS};
  uint64_t deadline = now() + CONNECT_SECONDS * SECOND;
  for (long i = 0; i < connections; i++) {
    struct connection *c = &all[i];
    int one = 1;
    c->fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);  // bounds connect()
    if (c->fd < 0 || connect(c->fd, address->ai_addr, address->ai_addrlen) != 0 || now() > deadline) {
      fprintf(stderr, "load: connection %ld: connect to %s port %s: %s\n", i, host, port, strerror(errno));
      exit(2);
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->begun_at = calloc(limit, sizeof *c->begun_at);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (!c->begun_at || epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event) != 0) {
      perror("load: epoll_ctl");
      exit(2);
    }
  }
  freeaddrinfo(address);
}

static bool all_answered(void) {
  for (long i = 0; i < connections; i++)
    if (all[i].received != all[i].sent || all[i].sent % (uint64_t)size != 0) return false;
  return true;
}

static void run(void) {
  static unsigned char buffer[READ_SIZE];
  struct epoll_event events[EVENTS];
  uint64_t t = first_start = now(), last_progress = t;
  start = t + (uint64_t)(warmup * 1e9);
  finish = start + (uint64_t)(seconds * 1e9);
  measuring = warmup == 0;
  for (long i = 0; i < connections; i++) fill(&all[i], t);
  for (;;) {
    int count = epoll_wait(poller, events, EVENTS, 20);  // 20 ms: how late a phase may end on a silent server
    t = now();
    if (!measuring && !stopping && t >= start) {
      measuring = true;
      start = t;
      finish = t + (uint64_t)(seconds * 1e9);
    }
    if (measuring && t >= finish) {
      measured_seconds = (double)(t - start) / 1e9;
      measuring = false;
      stopping = true;  // what is under way is still awaited and checked
    }
    for (int i = 0; i < count; i++) {
      struct connection *c = events[i].data.ptr;
      if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        ssize_t n = recv(c->fd, buffer, sizeof buffer, MSG_DONTWAIT);
        t = now();
        if (n > 0) {
          last_progress = t;
          check(c, buffer, (size_t)n, t);
        } else if (n == 0) {
          fail(c, "the server closed the connection");
        } else if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
          fail(c, strerror(errno));
        }
      }
      fill(c, t);
    }
    if (stopping && all_answered()) break;
    if (t - last_progress > (uint64_t)(stall * 1e9)) fail_stalled("no byte came");
    if (stopping && t > finish + (uint64_t)(stall * 1e9)) fail_stalled("the last messages were not answered");
  }
  for (long i = 0; i < connections; i++)
    if (recv(all[i].fd, buffer, sizeof buffer, MSG_DONTWAIT) > 0) fail(&all[i], "bytes came back that nobody sent");
}

static _Noreturn void usage(const char *why) {
  fprintf(stderr, "load: %s\nusage: load echo|bulk HOST PORT [--connections N] [--size BYTES] [--seconds S]"
                  " [--warmup S] [--stall S] [--window BYTES]\n", why);
  exit(2);
}

static double number(const char *name, const char *text, double least, double most) {
  char *end = NULL, why[128];
  double value = text ? strtod(text, &end) : 0;
  if (text && *text && !*end && value >= least && value <= most) return value;
  snprintf(why, sizeof why, "%s takes a number from %g to %g", name, least, most);
  usage(why);
}

int main(int argc, char **argv) {
  if (argc < 4) usage("a mode, a host and a port are needed");
  mode = argv[1];
  bool bulk = strcmp(mode, "bulk") == 0;
  if (!bulk && strcmp(mode, "echo") != 0) usage("the mode is echo or bulk");
  for (int i = 4; i < argc; i += 2) {
    const char *name = argv[i], *text = argv[i + 1];  // argv ends with NULL
    if (!strcmp(name, "--connections")) connections = (long)number(name, text, 1, 20000);
    else if (!strcmp(name, "--size")) size = (long)number(name, text, 1, 1 << 24);
    else if (!strcmp(name, "--window")) window = (long)number(name, text, 1, 1 << 26);
    else if (!strcmp(name, "--seconds")) seconds = number(name, text, 0.01, 3600);
    else if (!strcmp(name, "--warmup")) warmup = number(name, text, 0, 600);
    else if (!strcmp(name, "--stall")) stall = number(name, text, 0.1, 600);
    else usage(name);
    if (!text) break;
  }
  if (bulk && window > size) limit = (uint64_t)(window / size);

  signal(SIGALRM, too_late);
  alarm((unsigned)(CONNECT_SECONDS + warmup + seconds + 2 * stall + 3));

  struct rlimit files;
  if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < (rlim_t)connections + 16) {
    files.rlim_cur = (rlim_t)connections + 16 < files.rlim_max ? (rlim_t)connections + 16 : files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
  }
  table = malloc((size_t)TABLE + (size_t)size);
  all = calloc((size_t)connections, sizeof *all);
  poller = epoll_create1(EPOLL_CLOEXEC);
  if (!table || !all || poller < 0) {
    perror("load");
    return 2;
  }
  uint64_t state = 0x9E3779B97F4A7C15u;  // xorshift64: the same pattern each run, so a failure can be repeated
  for (size_t i = 0; i < (size_t)TABLE + (size_t)size; i++) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    table[i] = (unsigned char)(state >> 32);
  }
  open_all(argv[2], argv[3]);
  run();
  report(0);
  return 0;
}
