/* Memory that ends where a page ends, with nothing behind it: a library that touches more of a struct than the program
 * has does not survive. */
#ifndef TESTS_GUARDED_H
#define TESTS_GUARDED_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static void *guarded(const void *initial, size_t size) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = (size + page - 1) / page;
    char *memory = mmap(NULL, (pages + 1) * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory + pages * page, page, PROT_NONE) != 0) perror("mmap"), exit(1);
    return memcpy(memory + pages * page - size, initial, size);
}

#define EXPECT(condition)                                                                       \
    do {                                                                                        \
        if (!(condition)) {                                                                     \
            char message[512] = "";                                                             \
            flashmla_last_error(message, sizeof message);                                       \
            fprintf(stderr, "line %d: not so: %s (%s)\n", __LINE__, #condition, message), exit(1); \
        }                                                                                       \
    } while (0)

#endif
