// The load generator of the bench: one thread, epoll, and every byte that comes back is checked.
//
//   load echo    HOST PORT  messages of --size bytes; a connection sends its next when it has its last one back
//   load bulk    HOST PORT  the same, with as many under way as fit into --window (1 MiB)
//   load batch   HOST PORT  --pipeline times --request at once, and again when all got their --reply
//   load lines   HOST PORT  lines of --size bytes with their '\n', --pipeline at once; the reply is a line that says
//                           how many bytes one had without it
//   load connect HOST PORT  connects, sends one message, has it back, ends, is ended; --connections at a time
//   load idle    HOST PORT  opens --connections, one message on each, says {"ready":true}, and holds them until its
//                           stdin ends; then one message on each again
//   load source             listens, says {"port":…}, and sends to the first who connects, who closes at the end
//   load upload  HOST PORT  connects and sends, and ends; the reply is a line that says how many bytes the server got
//   load download HOST PORT connects and takes what the server sends, ends, and takes the rest until the server ends
//
//   --connections N  --seconds S  --warmup S  --stall S   all modes
//   --pid N                                               also the CPU, page faults and switches of this process meanwhile
//   --udp                                                 echo: a datagram a message, a socket a connection
//   --peers N                                             with --udp: datagrams come from N peers in turns, each at an
//                                                         address of its own in 127.0.0.0/8; a multiple of --connections
//   --tls FILE                                            echo, bulk, batch, lines, connect: by TLS, to a server of the
//                                                         name localhost whose authority is in FILE; a session is
//                                                         never resumed. Where this was compiled with -DTLS (OpenSSL)
//   --rate N                                              echo: N messages a second, on whichever connection is free;
//                                                         times count from when a message was due, so a server that
//                                                         halts is charged for all that it held up
//
// Prints one line of JSON on stdout. Exit: 0 all bytes equal; 1 a wrong, missing or surplus byte, or a lost
// connection (named on stderr); 2 usage or set-up; 3 the server stalled. Never runs longer than
// connecting (20 s) + warmup + seconds + 2 stalls, and SIGALRM makes sure of it (idle: while it waits for stdin, no).
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
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
#ifdef TLS
#include <openssl/ssl.h>
#endif

enum {
  TABLE = 1 << 20,         // bytes of random pattern: small enough to stay in a second-level cache
  READ_SIZE = 256 * 1024,  // bytes asked for in one recv, and given to one send
  EVENTS = 512,            // epoll events taken at once
  CONNECT_SECONDS = 20,    // for all connections together; 10,000 take half a second where nothing else runs
  SOURCES = 250,           // addresses of 127.0.0.0/8 that `connect` dials from: each has ports of its own, so that
                           // those which wait out their minute (TIME_WAIT) are not missed
  BUCKETS = 64 * 64,       // histogram: 64 powers of two, each in 64 steps (1.6 % wide)
};
static const uint64_t SECOND = 1000000000u;  // nanoseconds

struct usage {
  double cpu;       // seconds, user and kernel, of all threads; in ticks of 10 ms
  double faults;    // pages that were given to it without a disk being read
  double switches;  // of its main thread from a core to another thread or to sleep, and back
};

struct connection {
  int fd;
#ifdef TLS
  SSL *ssl;  // NULL where the connection is plain
#endif
  bool waits_for_room;   // the kernel took less than was to go: EPOLLOUT is armed
  uint64_t sent;         // bytes of this stream, from its beginning
  uint64_t received;     // the same, checked
  uint64_t *begun_at;    // ring of `limit`: when the first byte of a message went out, or was due
  bool greeted;          // `connect`: its message has gone
};

// What is asked for.
static const char *mode, *host;
static long connections = 50, size = 64, window = 1 << 20, pipeline = 1;
static double seconds = 1, warmup = 0, stall = 5, rate = 0;
static long pid;  // of the server
static const char *request_text, *reply_text;
static bool udp;
static long peers;  // that datagrams come from; 0: as many as connections
static const char *authority;  // the file of --tls

// What follows from it. A stream is a row of messages; `limit` of them may be under way on a connection.
static uint64_t limit = 1, request_size, reply_size;
static bool batched;  // all `limit` begin together, when none is under way
static unsigned char *table, *requests, *reply;  // the pattern; or `limit` requests in a row, and the reply to each
static struct sockaddr_storage server;
static socklen_t server_size;

// What is measured: in all, and since the warm-up ended.
static uint64_t all_operations, all_bytes, operations, bytes, histogram[BUCKETS], slowest;
static uint64_t first_start, start, finish;
static double measured_seconds;
static struct usage server_used, server_before;
static bool measuring, stopping;

static int poller;
static struct connection *all;

static uint64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

// A message is a slice of the table. Both factors are odd, so no two of 2^20 consecutive messages of a connection
// share a slice, and no two connections share one for the same message number.
static const unsigned char *slice(const struct connection *c, uint64_t number) {
  uint64_t index = (uint64_t)(c - all);
  return table + ((index * 0x85EBCA6Bu + number * 0x9E3779B1u) & (TABLE - 1));
}

static void read_of_server(const char *name, char *text, size_t size) {
  char path[32];
  snprintf(path, sizeof path, "/proc/%ld/%s", pid, name);
  FILE *file = fopen(path, "r");
  size_t n = file ? fread(text, 1, size - 1, file) : 0;
  if (file) fclose(file);
  text[n] = 0;
}

// What the server has used so far (proc_pid_stat(5), proc_pid_status(5)).
static struct usage usage_of_server(void) {
  struct usage used = {0};
  char text[4096];
  if (pid == 0) return used;
  read_of_server("stat", text, sizeof text);
  unsigned long faults, user, kernel;
  char *after = strrchr(text, ')');  // the name may hold spaces and parentheses
  if (!after ||
      sscanf(after + 2, "%*c %*d %*d %*d %*d %*d %*u %lu %*u %*u %*u %lu %lu", &faults, &user, &kernel) != 3) {
    fprintf(stderr, "load: process %ld is not there\n", pid);
    exit(2);
  }
  used.cpu = (double)(user + kernel) / (double)sysconf(_SC_CLK_TCK);
  used.faults = (double)faults;
  read_of_server("status", text, sizeof text);
  static const char *const kinds[] = {"\nvoluntary_ctxt_switches:", "\nnonvoluntary_ctxt_switches:"};
  for (int i = 0; i < 2; i++) {
    char *at = strstr(text, kinds[i]);
    if (at) used.switches += strtod(at + strlen(kinds[i]), NULL);
  }
  return used;
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
         "\"totalOperations\":%llu,\"totalBytes\":%llu,\"totalSeconds\":%.6f,\"serverCpuSeconds\":%.2f,"
         "\"serverFaults\":%.0f,\"serverSwitches\":%.0f,"
         "\"loadCpuSeconds\":%.3f,\"errors\":%d}\n",
         mode, connections, size, (unsigned long long)operations, (unsigned long long)bytes, s,
         s > 0 ? (double)operations / s : 0, s > 0 ? (double)bytes / s / 1048576 : 0, percentile_us(0.5),
         percentile_us(0.99), (double)slowest / 1000, (unsigned long long)all_operations,
         (unsigned long long)all_bytes, total, server_used.cpu, server_used.faults, server_used.switches, cpu, errors);
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
  fprintf(stderr, "load: connection %ld, offset %llu (reply %llu, byte %llu): expected", (long)(c - all),
          (unsigned long long)(c->received + at), (unsigned long long)((c->received + at) / reply_size),
          (unsigned long long)((c->received + at) % reply_size));
  size_t shown = length - at < 16 ? length - at : 16;
  for (size_t i = 0; i < shown; i++) fprintf(stderr, " %02x", want[at + i]);
  fprintf(stderr, ", got");
  for (size_t i = 0; i < shown; i++) fprintf(stderr, " %02x", got[at + i]);
  fprintf(stderr, "\n");
  report(1);
  exit(1);
}

// All that was sent is answered, and what was begun is whole.
static bool is_quiet(const struct connection *c) {
  return c->sent % (request_size * (batched ? limit : 1)) == 0 && c->received % reply_size == 0 &&
         c->sent / request_size == c->received / reply_size;
}

static _Noreturn void fail_stalled(const char *when) {
  long waiting = 0, first = -1;
  for (long i = 0; i < connections; i++) {
    if (is_quiet(&all[i])) continue;
    if (waiting++ == 0) first = i;
  }
  fprintf(stderr, "load: the server stalled (%s): %ld of %ld connections wait for bytes", when, waiting, connections);
  if (first >= 0)
    fprintf(stderr, "; connection %ld sent %llu bytes and got %llu", first, (unsigned long long)all[first].sent,
            (unsigned long long)all[first].received);
  fprintf(stderr, "\n");
  report(1);
  exit(3);
}

static _Noreturn void die(const char *what) {
  fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
  exit(2);
}

static void too_late(int signal_number) {
  (void)signal_number;
  static const char text[] = "load: out of time (SIGALRM)\n";
  if (write(2, text, sizeof text - 1)) {}
  _exit(3);
}

static void set_alarm(void) {
  alarm((unsigned)(CONNECT_SECONDS + warmup + seconds + 2 * stall + 3));
}

// ---- Plain or by TLS ----

#ifdef TLS
static SSL_CTX *context;

static void prepare_tls(void) {
  signal(SIGPIPE, SIG_IGN);  // OpenSSL writes without MSG_NOSIGNAL
  context = SSL_CTX_new(TLS_client_method());
  if (!context || SSL_CTX_load_verify_file(context, authority) != 1) {
    fprintf(stderr, "load: no certificate in %s\n", authority);
    exit(2);
  }
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
  SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_CTX_set_read_ahead(context, 1);  // one system call for a record, not two
}

// `waits`: until the handshake is done; otherwise the first bytes that go do it.
static void secure(struct connection *c, bool waits) {
  if (!waits) fcntl(c->fd, F_SETFL, O_NONBLOCK);
  c->ssl = SSL_new(context);
  if (!c->ssl || SSL_set_fd(c->ssl, c->fd) != 1 || SSL_set1_host(c->ssl, "localhost") != 1 ||
      SSL_set_tlsext_host_name(c->ssl, "localhost") != 1)
    die("TLS");
  SSL_set_connect_state(c->ssl);
  if (!waits) return;
  if (SSL_do_handshake(c->ssl) != 1) fail(c, "the TLS handshake failed");
  fcntl(c->fd, F_SETFL, O_NONBLOCK);
}

// What a call of OpenSSL came to, as the kernel would say it.
static ssize_t result_of(struct connection *c, int result) {
  if (result > 0) return result;
  int error = SSL_get_error(c->ssl, result);
  if (error == SSL_ERROR_ZERO_RETURN) return 0;
  if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) errno = EAGAIN;
  else if (error != SSL_ERROR_SYSCALL || errno == 0) errno = EPROTO;
  return -1;
}
#else
static void prepare_tls(void) {
  fprintf(stderr, "load: --tls needs OpenSSL's headers (libssl-dev), without which this was compiled\n");
  exit(2);
}

static void secure(struct connection *c, bool waits) { (void)c, (void)waits; }
#endif

// The address that message `number` of a connection is sent from, and its reply is sent to.
static uint32_t peer_address(const struct connection *c, uint64_t number) {
  uint64_t turn = number % (uint64_t)(peers / connections);
  return htonl(0x7F000002u + (uint32_t)((uint64_t)(c - all) + turn * (uint64_t)connections));
}

// A datagram from the peer whose turn it is. A socket that is bound to all addresses may send from any of them (ip(7)).
static ssize_t give_from_peer(const struct connection *c, const unsigned char *from, size_t length) {
  char control[CMSG_SPACE(sizeof(struct in_pktinfo))] = {0};
  struct iovec part = {.iov_base = (void *)(uintptr_t)from, .iov_len = length};
  struct msghdr message = {.msg_name = &server, .msg_namelen = server_size, .msg_iov = &part, .msg_iovlen = 1,
                           .msg_control = control, .msg_controllen = sizeof control};
  struct cmsghdr *head = CMSG_FIRSTHDR(&message);
  head->cmsg_level = IPPROTO_IP, head->cmsg_type = IP_PKTINFO, head->cmsg_len = CMSG_LEN(sizeof(struct in_pktinfo));
  struct in_pktinfo info = {.ipi_spec_dst.s_addr = peer_address(c, c->sent / request_size)};
  memcpy(CMSG_DATA(head), &info, sizeof info);
  return sendmsg(c->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

// A datagram, which must be for the peer that asked.
static ssize_t take_for_peer(struct connection *c, unsigned char *into, size_t length) {
  char control[CMSG_SPACE(sizeof(struct in_pktinfo))];
  struct iovec part = {.iov_base = into, .iov_len = length};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  ssize_t n = recvmsg(c->fd, &message, MSG_DONTWAIT);
  if (n < 0) return n;
  struct in_pktinfo info = {0};
  for (struct cmsghdr *head = CMSG_FIRSTHDR(&message); head; head = CMSG_NXTHDR(&message, head))
    if (head->cmsg_level == IPPROTO_IP && head->cmsg_type == IP_PKTINFO) memcpy(&info, CMSG_DATA(head), sizeof info);
  if (info.ipi_addr.s_addr != peer_address(c, c->received / reply_size)) fail(c, "a reply came to another peer");
  return n;
}

static ssize_t give(struct connection *c, const unsigned char *from, size_t length) {
#ifdef TLS
  if (c->ssl) return result_of(c, SSL_write(c->ssl, from, (int)length));
#endif
  if (peers > 0) return give_from_peer(c, from, length);
  return send(c->fd, from, length, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static ssize_t take(struct connection *c, unsigned char *into, size_t length) {
#ifdef TLS
  if (c->ssl) return result_of(c, SSL_read(c->ssl, into, (int)length));
#endif
  if (peers > 0) return take_for_peer(c, into, length);
  return recv(c->fd, into, length, MSG_DONTWAIT);
}

// Whether more was read of the kernel than was taken: epoll does not tell.
static bool has_more(const struct connection *c) {
#ifdef TLS
  if (c->ssl) return SSL_has_pending(c->ssl) == 1;
#else
  (void)c;
#endif
  return false;
}

static void end(struct connection *c) {
#ifdef TLS
  if (c->ssl) SSL_shutdown(c->ssl);
#endif
  shutdown(c->fd, SHUT_WR);
}

static void let_go(struct connection *c) {
#ifdef TLS
  SSL_free(c->ssl);
  c->ssl = NULL;
#endif
  close(c->fd);
}

static void arm(struct connection *c, bool for_room) {
  if (c->waits_for_room == for_room) return;
  c->waits_for_room = for_room;
  struct epoll_event event = {.events = EPOLLIN | (for_room ? EPOLLOUT : 0), .data.ptr = c};
  epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
}

// Sends what may go, until the kernel's buffer is full. What was begun is always completed; `t` is when what begins
// now began, and 0 where nothing may begin.
static void fill(struct connection *c, uint64_t t) {
  for (;;) {
    uint64_t number = c->sent / request_size, within = c->sent % request_size, answered = c->received / reply_size;
    if (batched) {
      if (within == 0 && number % limit == 0) {
        if (t == 0 || stopping || answered < number) break;
        for (uint64_t i = 0; i < limit; i++) c->begun_at[i] = t;
      }
    } else if (within == 0) {
      if (t == 0 || stopping || number - answered >= limit) break;
      c->begun_at[number % limit] = t;
    }
    const unsigned char *from = batched ? requests + number % limit * request_size : slice(c, number);
    size_t length = (size_t)((batched ? limit - number % limit : 1) * request_size - within);
    ssize_t n = give(c, from + within, length);
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
  if (udp && length != reply_size) fail(c, "a datagram of another size came back");
  while (length > 0) {
    uint64_t number = c->received / reply_size, within = c->received % reply_size;
    // An echo may begin to come back before the whole has gone out; a reply to a request may not.
    if (batched ? number >= c->sent / request_size : c->received + length > c->sent)
      fail(c, "more came back than was asked for");
    size_t part = reply_size - within < length ? (size_t)(reply_size - within) : length;
    const unsigned char *want = (batched ? reply : slice(c, number)) + within;
    if (memcmp(want, got, part) != 0) fail_mismatch(c, want, got, part);
    c->received += part;
    got += part;
    length -= part;
    all_bytes += part;
    if (measuring) bytes += part;
    if (c->received % reply_size != 0) continue;
    all_operations++;
    if (!measuring) continue;
    operations++;
    uint64_t took = t - c->begun_at[number % limit];
    histogram[bucket_of(took)]++;
    if (took > slowest) slowest = took;
  }
}

// A socket of our own to the server; `from` chooses the address that it dials from, 0 leaves that to the kernel.
static int dial(unsigned from) {
  int one = 1, fd = socket(server.ss_family, (udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0);
  if (fd < 0) die("socket");
  struct timeval patience = {.tv_sec = CONNECT_SECONDS};
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);  // bounds connect()
  if (peers > 0) {  // bound to all addresses, and not connected: it has to get what is for any of its peers
    struct sockaddr_in any = {.sin_family = AF_INET};
    if (bind(fd, (struct sockaddr *)&any, sizeof any) != 0) die("bind");
    if (setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &one, sizeof one) != 0) die("IP_PKTINFO");
    return fd;
  }
  if (from > 0) {
    struct sockaddr_in source = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7F000000u + from)};
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);  // the port is chosen by connect()
    if (bind(fd, (struct sockaddr *)&source, sizeof source) != 0) die("bind");
  }
  if (connect(fd, (struct sockaddr *)&server, server_size) != 0) {
    fprintf(stderr, "load: connect to %s: %s\n", host, strerror(errno));
    exit(2);
  }
  if (!udp) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  return fd;
}

static void watch(struct connection *c) {
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
  if (epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event) != 0) die("epoll_ctl");
}

static void open_all(void) {
  uint64_t deadline = now() + CONNECT_SECONDS * SECOND;
  for (long i = 0; i < connections; i++) {
    struct connection *c = &all[i];
    c->fd = dial(0);
    if (authority) secure(c, true);
    if (now() > deadline) {
      fprintf(stderr, "load: %ld of %ld connections in %d s\n", i, connections, CONNECT_SECONDS);
      exit(2);
    }
    c->begun_at = calloc(limit, sizeof *c->begun_at);
    if (!c->begun_at) die("memory");
    watch(c);
  }
}

static void begin_phases(uint64_t t) {
  first_start = t;
  start = t + (uint64_t)(warmup * 1e9);
  finish = start + (uint64_t)(seconds * 1e9);
  measuring = warmup == 0;
  server_before = usage_of_server();
}

static void next_phase(uint64_t t) {
  if (!measuring && !stopping && t >= start) {
    measuring = true;
    start = t;
    finish = t + (uint64_t)(seconds * 1e9);
    server_before = usage_of_server();
  }
  if (measuring && t >= finish) {
    measured_seconds = (double)(t - start) / 1e9;
    struct usage end = usage_of_server();
    server_used = (struct usage){
        .cpu = end.cpu - server_before.cpu,
        .faults = end.faults - server_before.faults,
        .switches = end.switches - server_before.switches,
    };
    measuring = false;
    stopping = true;  // what is under way is still awaited and checked
  }
}

static bool all_quiet(void) {
  for (long i = 0; i < connections; i++)
    if (!is_quiet(&all[i])) return false;
  return true;
}

// What is due goes out on the next free connections; where none is free it stays due.
static uint64_t send_due(uint64_t due, uint64_t t) {
  static long next = 0;
  long tried = 0;
  while (due <= t && tried < connections) {
    struct connection *c = &all[next];
    next = (next + 1) % connections;
    tried++;
    if (!is_quiet(c)) continue;
    fill(c, due);
    due += (uint64_t)(1e9 / rate);
    tried = 0;
  }
  return due;
}

static void run(void) {
  static unsigned char buffer[READ_SIZE];
  struct epoll_event events[EVENTS];
  uint64_t t = now(), last_progress = t, due = t;
  begin_phases(t);
  if (rate == 0)
    for (long i = 0; i < connections; i++) fill(&all[i], t);
  for (;;) {
    // 20 ms: how late a phase may end on a silent server. With a rate it looks all the time: a timer would be late.
    int count = epoll_wait(poller, events, EVENTS, rate > 0 ? 0 : 20);
    t = now();
    next_phase(t);
    for (int i = 0; i < count; i++) {
      struct connection *c = events[i].data.ptr;
      if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        ssize_t n;
        do {
          n = take(c, buffer, sizeof buffer);
          t = now();
          if (n > 0) {
            last_progress = t;
            check(c, buffer, (size_t)n, t);
          } else if (n == 0) {
            fail(c, "the server closed the connection");
          } else if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
            fail(c, strerror(errno));
          }
        } while (n > 0 && has_more(c));
      }
      fill(c, rate > 0 ? 0 : t);
    }
    if (rate > 0 && !stopping) due = send_due(due, t);
    if (stopping && all_quiet()) break;
    if (t > last_progress + (uint64_t)(stall * 1e9)) fail_stalled("no byte came");
    if (stopping && t > finish + (uint64_t)(stall * 1e9)) fail_stalled("the last messages were not answered");
  }
  for (long i = 0; i < connections; i++)
    if (take(&all[i], buffer, sizeof buffer) > 0) fail(&all[i], "bytes came back that nobody sent");
}

// `connect`: an operation is a connection's whole life, and `sent` counts those of one place in the row.
// Sends its message, by TLS when the handshake is done.
static void greet(struct connection *c) {
  ssize_t n = give(c, slice(c, c->sent - 1), (size_t)size);
  c->greeted = n == size;
  if (c->greeted || (n < 0 && errno == EAGAIN)) return;
  fail(c, n < 0 ? strerror(errno) : "the message was not taken whole");
}

static void open_next(struct connection *c, uint64_t t) {
  static unsigned turn;
  bool loopback = server.ss_family == AF_INET && !strncmp(host, "127.", 4);
  c->begun_at[0] = t;
  c->fd = dial(loopback ? 1 + turn++ % SOURCES : 0);
  if (authority) secure(c, false);
  c->greeted = false;
  c->sent++;
  greet(c);
  watch(c);
}

static void run_connect(void) {
  static unsigned char buffer[READ_SIZE];
  struct epoll_event events[EVENTS];
  uint64_t t = now(), last_progress = t;
  long open = connections;
  begin_phases(t);
  for (long i = 0; i < connections; i++) {
    if (!(all[i].begun_at = calloc(1, sizeof *all[i].begun_at))) die("memory");
    open_next(&all[i], t);
  }
  while (open > 0) {
    int count = epoll_wait(poller, events, EVENTS, 20);
    t = now();
    next_phase(t);
    for (int i = 0; i < count; i++) {
      struct connection *c = events[i].data.ptr;
      if (!c->greeted) {
        greet(c);
        continue;
      }
      ssize_t n = take(c, buffer, sizeof buffer);
      t = now();
      if (n > 0) {
        const unsigned char *want = slice(c, c->sent - 1) + c->received;
        if ((uint64_t)n > (uint64_t)size - c->received) fail(c, "more came back than was asked for");
        if (memcmp(want, buffer, (size_t)n) != 0) fail_mismatch(c, want, buffer, (size_t)n);
        c->received += (uint64_t)n;
        all_bytes += (uint64_t)n;
        if (c->received == (uint64_t)size) end(c);
        continue;
      }
      if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) continue;
      if (n < 0) fail(c, strerror(errno));
      if (c->received != (uint64_t)size) fail(c, "the server closed the connection before its reply");
      let_go(c);
      c->received = 0;
      last_progress = t;
      all_operations++;
      if (measuring) {
        uint64_t took = t - c->begun_at[0];
        operations++;
        histogram[bucket_of(took)]++;
        if (took > slowest) slowest = took;
      }
      if (stopping) open--;
      else open_next(c, t);
    }
    if (t > last_progress + (uint64_t)(stall * 1e9)) {
      fprintf(stderr, "load: the server stalled: %ld connections wait for their reply or their end\n", open);
      exit(3);
    }
  }
}

static void exchange_on_all(void) {
  static unsigned char buffer[READ_SIZE];
  struct timeval patience = {.tv_sec = (time_t)stall + 1};
  uint64_t t = now();
  for (long i = 0; i < connections; i++) fill(&all[i], t);
  for (long i = 0; i < connections; i++) {
    struct connection *c = &all[i];
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    while (c->received < c->sent) {
      ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
      if (n <= 0) fail(c, n == 0 ? "the server closed the connection" : strerror(errno));
      check(c, buffer, (size_t)n, now());
    }
  }
}

static void run_idle(void) {
  char byte;
  first_start = now();
  exchange_on_all();
  printf("{\"ready\":true}\n");
  fflush(stdout);
  alarm(0);
  while (read(0, &byte, 1) > 0) {}
  set_alarm();
  exchange_on_all();
}

// One-way work. Byte number n of a stream is the top byte of n * 0x9E3779B1 in 32 bits, n counted modulo 1 MiB: so
// whoever gets them can check any of them by its number.
static void begin_numbered(int fd) {
  struct timeval patience = {.tv_sec = (time_t)stall + 1};
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  for (uint32_t i = 0; i < TABLE; i++) table[i] = (unsigned char)(i * 0x9E3779B1u >> 24);
  begin_phases(now());
}

static void send_numbered(int fd) {
  begin_numbered(fd);
  while (!stopping) {
    size_t at = (size_t)(all_bytes & (TABLE - 1)), part = TABLE - at < READ_SIZE ? TABLE - at : READ_SIZE;
    ssize_t n = send(fd, table + at, part, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) die("send");
    all_bytes += (uint64_t)n;
    if (measuring) bytes += (uint64_t)n;
    next_phase(now());
  }
  shutdown(fd, SHUT_WR);
}

static void run_source(void) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof address;
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 1) != 0 ||
      getsockname(listener, (struct sockaddr *)&address, &length) != 0)
    die("listen");
  printf("{\"port\":%d}\n", ntohs(address.sin_port));
  fflush(stdout);
  int fd = accept(listener, NULL, NULL);
  if (fd < 0) die("accept");
  send_numbered(fd);
  char byte;
  while (recv(fd, &byte, 1, 0) > 0) {}  // until the last byte was read
}

static void run_upload(void) {
  char reply[64], wanted[64];
  size_t length = 0;
  ssize_t n;
  int fd = dial(0);
  send_numbered(fd);
  while (length < sizeof reply - 1 && (n = recv(fd, reply + length, sizeof reply - 1 - length, 0)) > 0)
    length += (size_t)n;
  reply[length] = 0;
  snprintf(wanted, sizeof wanted, "%llu bytes, 0 wrong\n", (unsigned long long)all_bytes);
  if (!strcmp(reply, wanted)) return;
  fprintf(stderr, "load: the server says: %s, not %s", reply, wanted);
  report(1);
  exit(1);
}

static void run_download(void) {
  static unsigned char buffer[READ_SIZE];
  struct connection *c = &all[0];
  c->fd = dial(0);
  begin_numbered(c->fd);
  for (bool ended = false;;) {
    // Slowly, once it has ended: a server whose writes always found room was busy with them, and sees the end when it waits.
    if (ended) usleep(1000);
    ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) fail_stalled("no byte came");
    if (n < 0) fail(c, strerror(errno));
    if (n == 0 && !ended) fail(c, "the server closed the connection");
    if (n == 0) break;
    for (size_t done = 0; done < (size_t)n;) {
      size_t at = (size_t)(c->received & (TABLE - 1)), left = (size_t)n - done;
      size_t part = TABLE - at < left ? TABLE - at : left;
      if (memcmp(table + at, buffer + done, part) != 0) fail_mismatch(c, table + at, buffer + done, part);
      c->received += part;
      done += part;
    }
    all_bytes += (uint64_t)n;
    if (measuring) bytes += (uint64_t)n;
    uint64_t t = now();
    next_phase(t);
    if (stopping && !ended) {
      end(c);
      ended = true;
    }
    if (stopping && t > finish + (uint64_t)(stall * 1e9)) fail_stalled("the server did not end");
  }
  if (c->received % (uint64_t)size != 0) fail(c, "the last piece is not whole");
}

static _Noreturn void usage(const char *why) {
  fprintf(stderr, "load: %s\nusage: load echo|bulk|batch|lines|connect|idle|upload|download HOST PORT [options],"
                  " or load source [options]; the options are at the head of load.c\n", why);
  exit(2);
}

static double number(const char *name, const char *text, double least, double most) {
  char *end = NULL, why[128];
  double value = text ? strtod(text, &end) : 0;
  if (text && *text && !*end && value >= least && value <= most) return value;
  snprintf(why, sizeof why, "%s takes a number from %g to %g", name, least, most);
  usage(why);
}

// `text` with \r, \n and \\ as what they stand for; `times` of it in a row.
static unsigned char *unescape(const char *text, uint64_t times, uint64_t *length) {
  size_t n = 0;
  unsigned char *row = malloc(strlen(text) * times + 1);
  if (!row) die("memory");
  for (const char *p = text; *p; p++) {
    if (*p == '\\' && p[1] && strchr("rn\\", p[1])) row[n++] = *++p == 'r' ? '\r' : *p == 'n' ? '\n' : '\\';
    else row[n++] = (unsigned char)*p;
  }
  if (n == 0) usage("--request and --reply must not be empty");
  for (uint64_t i = 1; i < times; i++) memcpy(row + i * n, row, n);
  *length = n;
  return row;
}

static void settle_messages(void) {
  request_size = reply_size = (uint64_t)size;
  if (!strcmp(mode, "bulk") && window > size) limit = (uint64_t)(window / size);
  if (!strcmp(mode, "batch")) {
    if (!request_text || !reply_text) usage("batch needs a --request and a --reply");
    requests = unescape(request_text, (uint64_t)pipeline, &request_size);
    reply = unescape(reply_text, 1, &reply_size);
  } else if (!strcmp(mode, "lines")) {
    char text[32];
    snprintf(text, sizeof text, "%ld\\n", size - 1);
    reply = unescape(text, 1, &reply_size);
    requests = malloc((size_t)(size * pipeline));
    if (!requests) die("memory");
    for (long i = 0; i < size * pipeline; i++)  // letters and digits of the pattern
      requests[i] = i % size == size - 1 ? '\n' : (unsigned char)('0' + table[i & (TABLE - 1)] % 75);
  } else {
    return;
  }
  batched = true;
  limit = (uint64_t)pipeline;
}

int main(int argc, char **argv) {
  static const char *const modes[] = {"echo", "bulk", "batch", "lines", "connect", "idle",
                                      "source", "upload", "download"};
  bool known = false;
  mode = argc > 1 ? argv[1] : "";
  for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) known |= !strcmp(mode, modes[i]);
  if (!known) usage("the first word is the mode");
  bool source = !strcmp(mode, "source");
  if (argc < 4 && !source) usage("a host and a port are needed");
  for (int i = source ? 2 : 4; i < argc; i++) {
    const char *name = argv[i];
    if (!strcmp(name, "--udp")) {
      udp = true;
      continue;
    }
    const char *text = argv[++i];  // argv ends with NULL
    if (!text) usage(name);
    if (!strcmp(name, "--connections")) connections = (long)number(name, text, 1, 20000);
    else if (!strcmp(name, "--size")) size = (long)number(name, text, 1, 1 << 24);
    else if (!strcmp(name, "--window")) window = (long)number(name, text, 1, 1 << 26);
    else if (!strcmp(name, "--pipeline")) pipeline = (long)number(name, text, 1, 100000);
    else if (!strcmp(name, "--seconds")) seconds = number(name, text, 0.01, 3600);
    else if (!strcmp(name, "--warmup")) warmup = number(name, text, 0, 600);
    else if (!strcmp(name, "--stall")) stall = number(name, text, 0.1, 600);
    else if (!strcmp(name, "--pid")) pid = (long)number(name, text, 1, 1 << 30);
    else if (!strcmp(name, "--rate")) rate = number(name, text, 1, 1e8);
    else if (!strcmp(name, "--request")) request_text = text;
    else if (!strcmp(name, "--reply")) reply_text = text;
    else if (!strcmp(name, "--peers")) peers = (long)number(name, text, 1, 1 << 22);
    else if (!strcmp(name, "--tls")) authority = text;
    else usage(name);
  }
  if ((udp || rate > 0) && strcmp(mode, "echo") != 0) usage("--udp and --rate go with echo");
  if (authority && (udp || source || !strcmp(mode, "idle") || !strcmp(mode, "upload") || !strcmp(mode, "download")))
    usage("--tls goes with echo, bulk, batch, lines and connect");
  if (peers > 0 && (!udp || peers % connections != 0)) usage("--peers goes with --udp, and is a multiple of --connections");
  if (udp && size > 65507) usage("a datagram has 65507 bytes at most");

  signal(SIGALRM, too_late);
  set_alarm();
  if (authority) prepare_tls();

  struct rlimit files;
  if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < (rlim_t)connections + 16) {
    files.rlim_cur = (rlim_t)connections + 16 < files.rlim_max ? (rlim_t)connections + 16 : files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
  }
  table = malloc((size_t)TABLE + (size_t)size);
  all = calloc((size_t)connections, sizeof *all);
  poller = epoll_create1(EPOLL_CLOEXEC);
  if (!table || !all || poller < 0) die("set-up");
  uint64_t state = 0x9E3779B97F4A7C15u;  // xorshift64: the same pattern each run, so a failure can be repeated
  for (size_t i = 0; i < (size_t)TABLE + (size_t)size; i++) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    table[i] = (unsigned char)(state >> 32);
  }
  settle_messages();
  if (source) {
    run_source();
  } else {
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV}, *found;
    host = argv[2];
    int bad = getaddrinfo(host, argv[3], &hints, &found);  // numeric only: never waits for a name server
    if (bad) usage(gai_strerror(bad));
    memcpy(&server, found->ai_addr, found->ai_addrlen);
    server_size = found->ai_addrlen;
    freeaddrinfo(found);
    if (peers > 0 && server.ss_family != AF_INET) usage("--peers goes with a server at an address of IPv4");
    if (!strcmp(mode, "connect")) {
      run_connect();
    } else if (!strcmp(mode, "upload")) {
      run_upload();
    } else if (!strcmp(mode, "download")) {
      run_download();
    } else {
      open_all();
      if (!strcmp(mode, "idle")) run_idle();
      else run();
    }
  }
  report(0);
  return 0;
}
