/*
 * egress-gateway-cni: the last plugin of a node's CNI chain.
 *
 * Guarantees, in this order:
 *   1. A pod without the annotation is never delayed and never failed: its prevResult goes from
 *      stdin to stdout byte for byte, nobody is asked, and an unwritable record is forgotten.
 *   2. A pod with the annotation starts only when the node agent has said so. An agent that is
 *      down, silent or unintelligible is error 11 (try again later), within a deadline.
 *   3. DEL never fails for want of an agent: the agent finds what is left from its own records.
 *
 * It is C, linked statically and free of stdio, because it runs at every pod start of the node and
 * may count on nothing being installed there. Python's json is the oracle of its scanner (tests/cni).
 *
 * CNI 0.3.0 to 1.1.0: https://www.cni.dev/docs/spec/
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h> /* rename */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define ANNOTATION "kubernetes.azure.com/static-gateway-configuration"
#define CAPABILITY "io.kubernetes.cri.pod-annotations"
#define VALID "cni.dev/valid-attachments"
#define NEWEST "1.1.0"
#define DEFAULT_RUN_DIR "/run/egress-gateway"

enum {
    /* Codes 1-99 are the specification's. */
    INCOMPATIBLE_VERSION = 1,
    INVALID_ENVIRONMENT = 4,
    IO_FAILURE = 5,
    DECODE_FAILURE = 6,
    INVALID_CONFIG = 7,
    TRY_AGAIN = 11,

    MAX_DEPTH = 256,
    MAX_INPUT = 16 << 20,
    MAX_REPLY = 1 << 16,
    MAX_ANNOTATION = 2048, /* a name has 253 characters, each at most six bytes of JSON */
    ADD_MILLISECONDS = 20000, /* unless the configuration says otherwise; above the agent's own wait */
    DEL_MILLISECONDS = 3000,
};

static const char *const SUPPORTED[] = {"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"};
enum { SUPPORTED_COUNT = sizeof SUPPORTED / sizeof *SUPPORTED };

/* ---- bytes ------------------------------------------------------------------------------- */

/* A piece of text that somebody else owns. at == NULL: absent. */
typedef struct {
    const char *at;
    size_t length;
} span;

/* Text that grows. Memory is returned by exit, as everywhere in this program. */
typedef struct {
    char *at;
    size_t length, capacity;
} text;

static span literal(const char *string) { return (span){string, strlen(string)}; }

static int same(span a, const char *b) {
    return a.at && a.length == strlen(b) && memcmp(a.at, b, a.length) == 0;
}

static void grow(text *t, size_t more) {
    if (t->length + more <= t->capacity) return;
    size_t capacity = t->capacity ? t->capacity : 64;
    while (capacity < t->length + more) capacity *= 2;
    char *at = realloc(t->at, capacity);
    if (!at) _exit(1);
    t->at = at;
    t->capacity = capacity;
}

static void add(text *t, span s) {
    if (!s.length) return;
    grow(t, s.length);
    memcpy(t->at + t->length, s.at, s.length);
    t->length += s.length;
}

static void add_string(text *t, const char *s) { add(t, literal(s)); }

static void add_number(text *t, unsigned number) {
    char digits[12];
    size_t first = sizeof digits;
    do digits[--first] = (char)('0' + number % 10);
    while (number /= 10);
    add(t, (span){digits + first, sizeof digits - first});
}

/* s as a JSON string, quotes included. */
static void add_quoted(text *t, const char *s) {
    static const char hex[] = "0123456789abcdef";
    add_string(t, "\"");
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\') {
            char escaped[2] = {'\\', (char)c};
            add(t, (span){escaped, 2});
        } else if (c < 0x20) {
            char escaped[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};
            add(t, (span){escaped, 6});
        } else {
            add(t, (span){s, 1});
        }
    }
    add_string(t, "\"");
}

static const char *terminated(text *t) {
    grow(t, 1);
    t->at[t->length] = 0;
    return t->at;
}

static int write_all(int fd, span s) {
    while (s.length) {
        ssize_t n = write(fd, s.at, s.length);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -1;
        s.at += n;
        s.length -= (size_t)n;
    }
    return 0;
}

/* ---- JSON (RFC 8259) ---------------------------------------------------------------------- */

/* A reader over a document. The skip_ functions return 0 at what is not JSON. */
typedef struct {
    const char *at, *end;
} reader;

static void skip_space(reader *r) {
    while (r->at < r->end && (*r->at == ' ' || *r->at == '\t' || *r->at == '\n' || *r->at == '\r'))
        r->at++;
}

static int take(reader *r, char c) {
    if (r->at == r->end || *r->at != c) return 0;
    r->at++;
    return 1;
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

static int skip_string(reader *r) {
    if (!take(r, '"')) return 0;
    while (r->at < r->end) {
        unsigned char c = (unsigned char)*r->at++;
        if (c == '"') return 1;
        if (c < 0x20) return 0;
        if (c != '\\') continue;
        if (r->at == r->end) return 0;
        c = (unsigned char)*r->at++;
        if (c == 'u') {
            for (int i = 0; i < 4; i++)
                if (r->at == r->end || hex_digit(*r->at++) < 0) return 0;
        } else if (!c || !strchr("\"\\/bfnrt", c)) {
            return 0;
        }
    }
    return 0;
}

static int skip_digits(reader *r) {
    const char *first = r->at;
    while (r->at < r->end && *r->at >= '0' && *r->at <= '9') r->at++;
    return r->at > first;
}

static int skip_number(reader *r) {
    take(r, '-');
    if (!take(r, '0') && !skip_digits(r)) return 0;
    if (take(r, '.') && !skip_digits(r)) return 0;
    if (take(r, 'e') || take(r, 'E')) {
        if (!take(r, '+')) take(r, '-');
        return skip_digits(r);
    }
    return 1;
}

static int skip_word(reader *r, const char *word) {
    size_t length = strlen(word);
    if ((size_t)(r->end - r->at) < length || memcmp(r->at, word, length)) return 0;
    r->at += length;
    return 1;
}

static int skip_value(reader *r, int depth);

static int skip_member(reader *r, int depth) {
    skip_space(r);
    if (!skip_string(r)) return 0;
    skip_space(r);
    return take(r, ':') && skip_value(r, depth);
}

static int skip_items(reader *r, int depth, int (*item)(reader *, int), char close) {
    if (depth == MAX_DEPTH) return 0;
    skip_space(r);
    if (take(r, close)) return 1;
    for (;;) {
        if (!item(r, depth + 1)) return 0;
        skip_space(r);
        if (take(r, close)) return 1;
        if (!take(r, ',')) return 0;
    }
}

static int skip_value(reader *r, int depth) {
    skip_space(r);
    if (r->at == r->end) return 0;
    switch (*r->at) {
    case '"': return skip_string(r);
    case 't': return skip_word(r, "true");
    case 'f': return skip_word(r, "false");
    case 'n': return skip_word(r, "null");
    case '{': r->at++; return skip_items(r, depth, skip_member, '}');
    case '[': r->at++; return skip_items(r, depth, skip_value, ']');
    default: return skip_number(r);
    }
}

/* The one object that the document is, without the space around it; absent if it is none. */
static span whole_object(span document) {
    reader r = {document.at, document.at + document.length};
    skip_space(&r);
    const char *first = r.at;
    if (r.at == r.end || *r.at != '{' || !skip_value(&r, 0)) return (span){0};
    span object = {first, (size_t)(r.at - first)};
    skip_space(&r);
    return r.at == r.end ? object : (span){0};
}

/* Writes the rune as UTF-8 to four bytes; returns how many it takes. */
static size_t encoded(uint32_t rune, char *utf8) {
    size_t length = rune < 0x80 ? 1 : rune < 0x800 ? 2 : rune < 0x10000 ? 3 : 4;
    static const unsigned char lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = length - 1; i > 0; i--, rune >>= 6) utf8[i] = (char)(0x80 | (rune & 0x3f));
    utf8[0] = (char)(lead[length] | rune);
    return length;
}

static uint32_t code_unit(const char *digits) {
    uint32_t unit = 0;
    for (int i = 0; i < 4; i++) unit = unit << 4 | (uint32_t)hex_digit(digits[i]);
    return unit;
}

/* The rune whose \u escape's digits begin at *at, which moves behind it. A lone surrogate is the
 * replacement character, as in Go, whose runtimes write what we read. */
static uint32_t escaped_rune(const char **at, const char *end) {
    uint32_t unit = code_unit(*at);
    *at += 4;
    if (unit < 0xd800 || unit > 0xdfff) return unit;
    if (unit < 0xdc00 && end - *at >= 6 && (*at)[0] == '\\' && (*at)[1] == 'u') {
        uint32_t low = code_unit(*at + 2);
        if (low >= 0xdc00 && low <= 0xdfff) {
            *at += 6;
            return 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
        }
    }
    return 0xfffd;
}

/* The bytes that the next character or escape of a string means, written to four; *at moves on. */
static size_t next_bytes(const char **at, const char *end, char *bytes) {
    static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
    char c = *(*at)++;
    if (c != '\\') {
        *bytes = c;
        return 1;
    }
    c = *(*at)++;
    if (c == 'u') return encoded(escaped_rune(at, end), bytes);
    const char *found = strchr(from, c);
    *bytes = found ? to[found - from] : c;
    return 1;
}

/* What a string that skip_string accepted (quotes included) means; absent if it is no string. */
static span decoded(span string) {
    if (!string.at || *string.at != '"') return (span){0};
    text t = {0};
    const char *at = string.at + 1, *end = string.at + string.length - 1;
    while (at < end) {
        char bytes[4];
        add(&t, (span){bytes, next_bytes(&at, end, bytes)});
    }
    terminated(&t);
    return (span){t.at, t.length};
}

/* Whether the string (quotes included) means exactly this. Takes no memory: a pod's owner writes
 * as many keys as he likes, and memory is the node's. */
static int means(span string, const char *wanted) {
    const char *at = string.at + 1, *end = string.at + string.length - 1;
    while (at < end) {
        char bytes[4];
        size_t length = next_bytes(&at, end, bytes);
        for (size_t i = 0; i < length; i++)
            if (!*wanted || *wanted++ != bytes[i]) return 0;
    }
    return !*wanted;
}

/* The value of an object's member, as it stands; absent if there is none or it is null. The last
 * of several members with one name counts, as in Go. The object must be sound. */
static span member(span object, const char *name) {
    span found = {0};
    if (!object.at || *object.at != '{') return found;
    reader r = {object.at + 1, object.at + object.length};
    for (;;) {
        skip_space(&r);
        const char *key = r.at;
        if (!skip_string(&r)) return same(found, "null") ? (span){0} : found;
        span quoted = {key, (size_t)(r.at - key)};
        skip_space(&r);
        take(&r, ':');
        skip_space(&r);
        const char *value = r.at;
        skip_value(&r, 0);
        if (means(quoted, name)) found = (span){value, (size_t)(r.at - value)};
        skip_space(&r);
        take(&r, ',');
    }
}

/* ---- the call ------------------------------------------------------------------------------ */

typedef struct {
    const char *command, *container, *netns, *interface, *args;
    span config;      /* the object on stdin, as it stands */
    const char *version;
    const char *run_dir;
    span prev_result; /* as it stands */
    span annotation;  /* as it stands; absent or empty: nothing is asked for */
    int add_milliseconds;
} call;

/* Prints an error as the specification wants it and ends the program. */
static void fail(const char *version, unsigned code, const char *message, const char *details) {
    text t = {0};
    add_string(&t, "{\"cniVersion\":");
    add_quoted(&t, version ? version : NEWEST);
    add_string(&t, ",\"code\":");
    add_number(&t, code);
    add_string(&t, ",\"msg\":");
    add_quoted(&t, message);
    add_string(&t, ",\"details\":");
    add_quoted(&t, details ? details : "");
    add_string(&t, "}\n");
    write_all(STDOUT_FILENO, (span){t.at, t.length});
    _exit(1);
}

static const char *joined(const char *a, const char *b, const char *c, const char *d) {
    text t = {0};
    add_string(&t, a);
    add_string(&t, b);
    add_string(&t, c);
    add_string(&t, d);
    return terminated(&t);
}

static span read_stdin(void) {
    text t = {0};
    for (;;) {
        grow(&t, 4096);
        ssize_t n = read(STDIN_FILENO, t.at + t.length, t.capacity - t.length);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) fail(NULL, IO_FAILURE, "cannot read the network configuration", strerror(errno));
        if (n == 0) return (span){t.at, t.length};
        t.length += (size_t)n;
        if (t.length > MAX_INPUT)
            fail(NULL, DECODE_FAILURE, "network configuration is larger than 16 MiB", NULL);
    }
}

static const char *supported_version(span config) {
    span version = decoded(member(config, "cniVersion"));
    for (int i = 0; i < SUPPORTED_COUNT; i++)
        if (same(version, SUPPORTED[i])) return SUPPORTED[i];
    fail(NULL, INCOMPATIBLE_VERSION, "unsupported cniVersion in the network configuration",
         "supported: 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0");
    return NULL;
}

static int milliseconds(span number, int otherwise) {
    int value = 0;
    for (size_t i = 0; i < number.length; i++) {
        if (number.at[i] < '0' || number.at[i] > '9' || value > 1000000) return otherwise;
        value = value * 10 + (number.at[i] - '0');
    }
    return value ? value : otherwise;
}

/* The one annotation that matters. An empty value opts out (of a namespace's default). */
static span annotation_of(span config) {
    span value = member(member(member(config, "runtimeConfig"), CAPABILITY), ANNOTATION);
    return same(value, "\"\"") ? (span){0} : value;
}

static void read_config(call *c, span input) {
    c->config = whole_object(input);
    if (!c->config.at)
        fail(NULL, DECODE_FAILURE, "network configuration is not a JSON object", NULL);
    c->version = supported_version(c->config);
    span run_dir = decoded(member(c->config, "runDir"));
    c->run_dir = run_dir.length ? run_dir.at : DEFAULT_RUN_DIR;
    c->prev_result = member(c->config, "prevResult");
    c->annotation = annotation_of(c->config);
    c->add_milliseconds = milliseconds(member(c->config, "agentTimeoutMilliseconds"), ADD_MILLISECONDS);
}

static int alphanumeric(char c) {
    return (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z');
}

/* Names become file names, so they must be what the specification allows. */
static void check_attachment(const call *c, int need_netns) {
    const char *s = c->container;
    int sound = s && alphanumeric(*s);
    for (; sound && *s; s++) sound = alphanumeric(*s) || strchr("_.-", *s);
    if (!sound)
        fail(c->version, INVALID_ENVIRONMENT, "CNI_CONTAINERID is missing or malformed", c->container);
    s = c->interface;
    sound = s && *s && strlen(s) < 16 && strcmp(s, ".") && strcmp(s, "..");
    for (; sound && *s; s++) sound = *s > ' ' && !strchr("/:", *s);
    if (!sound)
        fail(c->version, INVALID_ENVIRONMENT, "CNI_IFNAME is missing or malformed", c->interface);
    if (need_netns && (!c->netns || !*c->netns))
        fail(c->version, INVALID_ENVIRONMENT, "CNI_NETNS is missing", NULL);
}

/* run_dir/<folder>/<containerid>-<interface>.json */
static const char *file_of(const call *c, const char *folder) {
    text t = {0};
    add_string(&t, c->run_dir);
    add_string(&t, folder);
    add_string(&t, c->container);
    add_string(&t, "-");
    add_string(&t, c->interface);
    add_string(&t, ".json");
    return terminated(&t);
}

static void add_field(text *t, const char *name, const char *value) {
    add_string(t, t->length ? "," : "{");
    add_quoted(t, name);
    add_string(t, ":");
    add_quoted(t, value ? value : "");
}

/* A member of an object that has others already, its value as it stands; nothing if it is absent. */
static void add_member(text *t, const char *name, span value) {
    if (!value.at) return;
    add_string(t, ",");
    add_quoted(t, name);
    add_string(t, ":");
    add(t, value);
}

/* The call as one JSON object: what the agent is told, and what the record keeps. Of the
 * configuration that is what the agent reads (protocol.NetConf), not what a pod's owner wrote. */
static span described(const call *c) {
    text t = {0};
    grow(&t, 1024);
    add_field(&t, "command", c->command);
    add_field(&t, "containerID", c->container);
    add_field(&t, "netns", c->netns);
    add_field(&t, "ifName", c->interface);
    add_field(&t, "args", c->args);
    add_string(&t, ",\"config\":{\"cniVersion\":");
    add_quoted(&t, c->version);
    add_member(&t, "name", member(c->config, "name"));
    add_member(&t, VALID, member(c->config, VALID));
    if (c->annotation.at) {
        add_string(&t, ",\"runtimeConfig\":{\"" CAPABILITY "\":{\"" ANNOTATION "\":");
        add(&t, c->annotation);
        add_string(&t, "}}");
    }
    if (c->prev_result.at) {
        span ips = member(c->prev_result, "ips");
        add_string(&t, ",\"prevResult\":{\"ips\":");
        add(&t, ips.at ? ips : literal("null"));
        add_string(&t, "}");
    }
    add_string(&t, "}}\n");
    return (span){t.at, t.length};
}

/* ---- the record ---------------------------------------------------------------------------- */

static int open_new(const char *path) {
    return open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
}

/* Leaves the call for the agent, which can so attach a running pod later. Root alone may read it. */
static int write_record(const call *c) {
    const char *path = file_of(c, "/pods/");
    const char *new = file_of(c, "/pods/.");
    int fd = open_new(new);
    if (fd < 0 && errno == ENOENT) {
        mkdir(c->run_dir, 0755);
        mkdir(joined(c->run_dir, "/pods", "", ""), 0700);
        fd = open_new(new);
    }
    if (fd < 0) return -1;
    int failed = write_all(fd, described(c)) < 0;
    if (close(fd) < 0 || failed || rename(new, path) < 0) {
        int cause = errno;
        unlink(new);
        errno = cause;
        return -1;
    }
    return 0;
}

/* ---- the agent ----------------------------------------------------------------------------- */

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Waits until fd is ready for events. -1: deadline passed (ETIMEDOUT) or poll failed. */
static int wait_for(int fd, short events, int64_t deadline) {
    for (;;) {
        int64_t left = deadline - now();
        struct pollfd p = {.fd = fd, .events = events};
        int n = poll(&p, 1, left > 0 ? (int)left : 0);
        if (n > 0) return 0;
        if (n < 0 && errno == EINTR) continue;
        if (n == 0) errno = ETIMEDOUT;
        return -1;
    }
}

static int connect_agent(const char *path, int64_t deadline) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -1;
    while (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        /* EAGAIN: the agent's backlog is full, as when a whole node's pods start at once. */
        if (errno != EAGAIN && errno != EINTR) return -1;
        if (now() >= deadline) {
            errno = ETIMEDOUT;
            return -1;
        }
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    }
    return fd;
}

static int send_request(int fd, span request, int64_t deadline) {
    while (request.length) {
        ssize_t n = send(fd, request.at, request.length, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) {
            if (wait_for(fd, POLLOUT, deadline) < 0) return -1;
            continue;
        }
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -1;
        request.at += n;
        request.length -= (size_t)n;
    }
    return shutdown(fd, SHUT_WR);
}

static int receive_reply(int fd, text *reply, int64_t deadline) {
    for (;;) {
        grow(reply, 4096);
        ssize_t n = recv(fd, reply->at + reply->length, reply->capacity - reply->length, 0);
        if (n < 0 && errno == EAGAIN) {
            if (wait_for(fd, POLLIN, deadline) < 0) return -1;
            continue;
        }
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -1;
        if (n == 0) return 0;
        reply->length += (size_t)n;
        if (reply->length > MAX_REPLY) {
            errno = EMSGSIZE;
            return -1;
        }
    }
}

/* Hands the call over. 0: the agent's whole reply is in *reply; -1: errno says why there is none. */
static int ask_agent(const call *c, int wait_milliseconds, text *reply) {
    int64_t deadline = now() + wait_milliseconds;
    int fd = connect_agent(joined(c->run_dir, "/cni.sock", "", ""), deadline);
    if (fd < 0) return -1;
    if (send_request(fd, described(c), deadline) < 0) return -1;
    return receive_reply(fd, reply, deadline);
}

/* Returns if the agent agreed. Its refusal is printed as it stands; without an answer the runtime
 * is told to try again. A reply is "ok\n", or "error\n" and a CNI error object. */
static void need_agent(const call *c) {
    static const char refusal[] = "error\n";
    text reply = {0};
    if (ask_agent(c, c->add_milliseconds, &reply) < 0)
        fail(c->version, TRY_AGAIN, "static egress gateway: the node agent does not answer",
             joined(c->run_dir, "/cni.sock: ", strerror(errno),
                    "; the pod is held back until the egress-gateway node agent runs on this node"));
    span answer = {reply.at, reply.length};
    if (same(answer, "ok\n")) return;
    size_t head = sizeof refusal - 1;
    if (answer.length > head && !memcmp(answer.at, refusal, head)) {
        span error = {answer.at + head, answer.length - head};
        if (whole_object(error).at) {
            write_all(STDOUT_FILENO, error);
            _exit(1);
        }
    }
    fail(c->version, TRY_AGAIN, "static egress gateway: the node agent broke off",
         "it was probably restarted; the runtime tries again");
}

/* ---- verbs --------------------------------------------------------------------------------- */

static int put(span s) { return write_all(STDOUT_FILENO, s) < 0; }

static int verb_add(const call *c) {
    check_attachment(c, 1);
    if (c->annotation.length > MAX_ANNOTATION)
        fail(c->version, INVALID_CONFIG, "the annotation " ANNOTATION " is longer than any name",
             "name a StaticGatewayConfiguration of the pod's namespace");
    int recorded = write_record(c);
    if (!c->annotation.at) {
        if (c->prev_result.at) return put(c->prev_result);
        return put(literal(joined("{\"cniVersion\":\"", c->version, "\"}", "")));
    }
    if (recorded < 0)
        fail(c->version, TRY_AGAIN, "static egress gateway: cannot write the pod's record",
             joined(file_of(c, "/pods/"), ": ", strerror(errno), ""));
    if (!c->prev_result.at)
        fail(c->version, INVALID_CONFIG, "egress-gateway-cni must be chained behind another plugin",
             "the network configuration carries no prevResult");
    need_agent(c);
    return put(c->prev_result);
}

/* The agent leaves a file in attached/ for every pod that it has attached, at start or later. */
static int attached(const call *c) { return access(file_of(c, "/attached/"), F_OK) == 0; }

static int verb_del(const call *c) {
    check_attachment(c, 0);
    /* NB: first the record, then the agent: if this process dies between the two, or nobody
     * answers, the agent sees an attachment without a record and takes it down by itself. */
    unlink(file_of(c, "/pods/"));
    if (attached(c)) ask_agent(c, DEL_MILLISECONDS, &(text){0});
    return 0;
}

static int verb_check(const call *c) {
    check_attachment(c, 1);
    if (attached(c)) need_agent(c);
    return 0;
}

/* Collecting is the agent's work and can wait for it. */
static int verb_gc(const call *c) {
    ask_agent(c, DEL_MILLISECONDS, &(text){0});
    return 0;
}

/* Always ready: an error here would make the runtime report the node's network as not ready and
 * so keep pods that ask nothing of us from starting. */
static int verb_status(const call *c) {
    (void)c;
    return 0;
}

static int verb_version(span input) {
    span version = decoded(member(whole_object(input), "cniVersion"));
    text t = {0};
    add_string(&t, "{\"cniVersion\":");
    add_quoted(&t, version.length ? version.at : NEWEST);
    add_string(&t, ",\"supportedVersions\":[");
    for (int i = 0; i < SUPPORTED_COUNT; i++) {
        if (i) add_string(&t, ",");
        add_quoted(&t, SUPPORTED[i]);
    }
    add_string(&t, "]}\n");
    return put((span){t.at, t.length});
}

int main(void) {
    static const struct {
        const char *name;
        int (*run)(const call *);
    } verbs[] = {{"ADD", verb_add}, {"DEL", verb_del},       {"CHECK", verb_check},
                 {"GC", verb_gc},   {"STATUS", verb_status}};
    call c = {
        .command = getenv("CNI_COMMAND"),
        .container = getenv("CNI_CONTAINERID"),
        .netns = getenv("CNI_NETNS"),
        .interface = getenv("CNI_IFNAME"),
        .args = getenv("CNI_ARGS"),
    };
    if (!c.command)
        fail(NULL, INVALID_ENVIRONMENT, "CNI_COMMAND is missing",
             "egress-gateway-cni is called by a container runtime, not by hand");
    span input = read_stdin();
    if (!strcmp(c.command, "VERSION")) return verb_version(input);
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++) {
        if (strcmp(c.command, verbs[i].name)) continue;
        read_config(&c, input);
        return verbs[i].run(&c);
    }
    fail(NULL, INVALID_ENVIRONMENT, "unknown CNI_COMMAND", c.command);
}
