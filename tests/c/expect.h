/* A status and a part of its message, and outputs that nobody writes. */
#include <flashmla.h>
#include <stdio.h>
#include <string.h>

static int tried, failed;

/* Outputs, filled with 0xff. */
static struct {
    unsigned char *data;
    size_t size;
} untouched[4];
static size_t untouched_count;

static void must_stay(void *data, size_t size) {
    memset(data, 0xff, size);
    untouched[untouched_count].data = (unsigned char *)data;
    untouched[untouched_count++].size = size;
}

static void expect_status(int line, flashmla_status_t got, flashmla_status_t wanted, const char *part) {
    char message[512];
    size_t i, k;
    flashmla_last_error(message, sizeof message);
    ++tried;
    if (got != wanted || strstr(message, part) == NULL) {
        printf("line %d: %s \"%s\", not %s with \"%s\"\n", line, flashmla_status_name(got), message,
               flashmla_status_name(wanted), part);
        ++failed;
    }
    for (k = 0; k < untouched_count; ++k) {
        for (i = 0; i < untouched[k].size && untouched[k].data[i] == 0xff; ++i) {
        }
        if (i < untouched[k].size) {
            printf("line %d: wrote byte %lu of output %lu\n", line, (unsigned long)i, (unsigned long)k);
            ++failed;
            memset(untouched[k].data, 0xff, untouched[k].size);
        }
    }
}
