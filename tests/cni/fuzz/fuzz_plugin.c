/*
 * Feeds the CNI plugin's scanner with anything, under the sanitizers. Holds, for every input:
 *   - nothing is read or written out of bounds, and nothing overflows;
 *   - what is told to the agent is one JSON object again, and no longer than what it is made of;
 *   - a key means exactly what it decodes to, and nothing else.
 *
 * libFuzzer (clang -fsanitize=fuzzer -DLIBFUZZER, `make fuzz`) guides itself. Without it, in
 * `make test`, `main` mutates the seeds below and files: fuzz_plugin RUNS SEED [FILE...].
 */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static jmp_buf ended;
static void *memory[1 << 16];
static size_t used;

static void end(int code) {
    (void)code;
    longjmp(ended, 1);
}

/* The program returns its memory by its end; here an input's end is that. */
static void *track(void *old, size_t size) {
    void *new = realloc(old, size);
    for (size_t i = 0; old && i < used; i++)
        if (memory[i] == old) {
            memory[i] = new;
            return new;
        }
    if (used == sizeof memory / sizeof *memory) abort();
    return memory[used++] = new;
}

#define _exit end
#define realloc track
#define main plugin_main
#include "../../../src/egress_gateway/cni/plugin/egress-gateway-cni.c"
#undef main
#undef realloc
#undef _exit

static void check(int holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "does not hold: %s\n", what);
    abort();
}

/* Every key of the object, by the same steps as member. */
static void check_keys(span object) {
    reader r = {object.at + 1, object.at + object.length};
    for (int keys = 0; keys < 64; keys++) {
        skip_space(&r);
        const char *key = r.at;
        if (!skip_string(&r)) return;
        span quoted = {key, (size_t)(r.at - key)};
        span meaning = decoded(quoted);
        if (strlen(meaning.at) == meaning.length) {
            check(means(quoted, meaning.at), "a key means what it decodes to");
            check(!means(quoted, joined(meaning.at, "x", "", "")), "and nothing longer");
            check(meaning.length == 0 || !means(quoted, meaning.at + 1), "and nothing shorter");
        }
        skip_space(&r);
        take(&r, ':');
        skip_space(&r);
        skip_value(&r, 0);
        skip_space(&r);
        take(&r, ',');
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t length);
int LLVMFuzzerTestOneInput(const uint8_t *input, size_t length) {
    static int quiet;
    if (!quiet) quiet = freopen("/dev/null", "w", stdout) != NULL;
    char *exact = malloc(length + 1); /* so that one byte too far is seen */
    char *copy = exact ? exact : (abort(), exact);
    memcpy(copy, input, length);
    copy = realloc(copy, length ? length : 1);
    if (!setjmp(ended)) {
        span object = whole_object((span){copy, length});
        if (object.at) check_keys(object);
        call c = {.command = "ADD", .container = "c", .netns = "/n", .interface = "eth0"};
        read_config(&c, (span){copy, length});
        span told = described(&c);
        check(told.at[told.length - 1] == '\n', "it ends with a line's end");
        check(whole_object(told).at != NULL, "the agent is told one JSON object");
        size_t parts = c.annotation.length + member(c.prev_result, "ips").length
                       + member(c.config, "name").length + member(c.config, VALID).length;
        check(told.length < parts + 1024, "it is no longer than its parts");
    }
    free(copy);
    while (used) free(memory[--used]);
    return 0;
}

static uint64_t state;

static uint32_t random_below(uint32_t limit) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 33) % limit;
}

static const char *const SEEDS[] = {
    "{\"cniVersion\":\"1.0.0\",\"name\":\"azure\",\"runDir\":\"/r\",\"agentTimeoutMilliseconds\":15000,"
    "\"runtimeConfig\":{\"" CAPABILITY "\":{\"a\":\"\",\"" ANNOTATION "\":\"egress\"}},"
    "\"prevResult\":{\"cniVersion\":\"1.0.0\",\"ips\":[{\"address\":\"10.244.0.7/24\"}]}}",
    "{\"cniVersion\":\"1.1.0\",\"name\":null,\"" VALID "\":[{\"containerID\":\"c\",\"ifname\":\"eth0\"}]}",
    "{ \"cni\\u0056ersion\" : \"0.4.0\" ,\t\"prevResult\" : { \"\\u0069ps\" : [ ] } , \"x\" : [1.5e3,-0,true] }",
    "{\"cniVersion\":\"0.3.1\",\"\\ud83d\\ude00\":\"\\ud83d\",\"runtimeConfig\":{\"io.kubernetes.cri.pod\\u002d"
    "annotations\":{\"kubernetes.azure.com\\/static-gateway-configuration\":\"\\n\\\"\"}}}",
    "{}", "[]", "\"", "{\"a\":{\"b\":[[[[{}]]]]}}",
};
static const char *const WORDS[] = {
    "\\u0000", "\\ud800", "\\udfff", "\\", "\"", "{", "}", "[", "]", ":", ",", "null", "1e", "\\u00",
    ANNOTATION, CAPABILITY, "\"ips\"", "\"prevResult\"", "\xff", "\x1f", "\x7f",
};
enum { LONGEST = 4096, SEED_COUNT = sizeof SEEDS / sizeof *SEEDS, WORD_COUNT = sizeof WORDS / sizeof *WORDS };

static size_t mutate(char *text, size_t length) {
    size_t at = random_below((uint32_t)length + 1);
    switch (random_below(5)) {
    case 0: /* a word in between */
    {
        const char *word = WORDS[random_below(WORD_COUNT)];
        size_t more = strlen(word);
        if (length + more > LONGEST) return length;
        memmove(text + at + more, text + at, length - at);
        memcpy(text + at, word, more);
        return length + more;
    }
    case 1: /* a piece less */
    {
        size_t less = random_below(16);
        if (less > length - at) less = length - at;
        memmove(text + at, text + at + less, length - at - less);
        return length - less;
    }
    case 2: /* a piece twice */
    {
        size_t more = random_below(64);
        if (more > length - at) more = length - at;
        if (length + more > LONGEST) return length;
        memmove(text + at + more, text + at, length - at);
        return length + more;
    }
    case 3: return at; /* cut off */
    default:
        if (at < length) text[at] = (char)random_below(256);
        return length;
    }
}

#ifdef LIBFUZZER
size_t LLVMFuzzerMutate(uint8_t *input, size_t length, size_t limit);
size_t LLVMFuzzerCustomMutator(uint8_t *input, size_t length, size_t limit, unsigned seed);
/* Half by our words, which it would not find byte by byte, half by its own ways. */
size_t LLVMFuzzerCustomMutator(uint8_t *input, size_t length, size_t limit, unsigned seed) {
    static char text[LONGEST + 1];
    state = seed * 0x9e3779b97f4a7c15u + 1;
    if (length > LONGEST || (length > 2 && random_below(2))) return LLVMFuzzerMutate(input, length, limit);
    memcpy(text, input, length);
    if (length <= 2) {
        const char *begun = SEEDS[random_below(SEED_COUNT)];
        length = strlen(begun);
        memcpy(text, begun, length);
    }
    for (uint32_t steps = random_below(4); steps; steps--) length = mutate(text, length);
    if (length > limit) length = limit;
    memcpy(input, text, length);
    return length;
}
#else
static size_t begun(char *text, uint32_t which, char **files) {
    if (which < SEED_COUNT) {
        memcpy(text, SEEDS[which], strlen(SEEDS[which]));
        return strlen(SEEDS[which]);
    }
    FILE *file = fopen(files[which - SEED_COUNT], "rb");
    check(file != NULL, "every file can be read");
    size_t length = fread(text, 1, LONGEST, file);
    fclose(file);
    return length;
}

int main(int count, char **words) {
    check(count > 2, "fuzz_plugin RUNS SEED [FILE...]");
    long runs = atol(words[1]);
    uint32_t beginnings = SEED_COUNT + (uint32_t)count - 3;
    state = strtoull(words[2], NULL, 10) * 0x9e3779b97f4a7c15u + 1;
    static char text[LONGEST + 1];
    for (long run = 0; run < runs; run++) {
        /* First each of them as it is. */
        uint32_t as_is = run < beginnings;
        size_t length = begun(text, as_is ? (uint32_t)run : random_below(beginnings), words + 3);
        for (uint32_t steps = as_is ? 0 : random_below(8); steps; steps--) length = mutate(text, length);
        LLVMFuzzerTestOneInput((const uint8_t *)text, length);
    }
    fprintf(stderr, "%ld inputs, seed %s, %u beginnings\n", runs, words[2], beginnings);
    return 0;
}
#endif
