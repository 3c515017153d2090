/* A plugin host's life: the library (argv[1]) is loaded, used and closed again and again, on threads that come and
 * go; neither mappings nor threads pile up. */
#define _POSIX_C_SOURCE 200809L
#include <flashmla.h>

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WARM_UP = 20, ROUNDS = 200 };

static const char *path;

static void *symbol(void *library, const char *name) {
    void *address = dlsym(library, name);
    if (address == NULL) fprintf(stderr, "%s\n", dlerror()), exit(1);
    return address;
}

/* Loads, makes a context, provokes an error for the thread's message, closes. */
static void *one_round(void *unused) {
    flashmla_status_t (*create)(int32_t, const flashmla_options_t *, flashmla_context_t **);
    flashmla_status_t (*destroy)(flashmla_context_t *);
    size_t (*last_error)(char *, size_t);
    flashmla_context_t *context = NULL;
    char message[256] = "";
    void *address, *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) fprintf(stderr, "%s\n", dlerror()), exit(1);
    /* ISO C has no conversion from an object's address to a function's. */
    address = symbol(library, "flashmla_create"), memcpy(&create, &address, sizeof create);
    address = symbol(library, "flashmla_destroy"), memcpy(&destroy, &address, sizeof destroy);
    address = symbol(library, "flashmla_last_error"), memcpy(&last_error, &address, sizeof last_error);
    if (create(-7, NULL, &context) != FLASHMLA_ERROR_NO_DEVICE || last_error(message, sizeof message) < 2 ||
        strstr(message, "device = -7") == NULL || create(FLASHMLA_DEVICE_CPU, NULL, &context) != FLASHMLA_SUCCESS ||
        destroy(context) != FLASHMLA_SUCCESS || dlclose(library) != 0) {
        fprintf(stderr, "a round failed: %s\n", message);
        exit(1);
    }
    return unused;
}

/* Lines of a file of /proc that contain `part`. */
static int lines(const char *file, const char *part) {
    char line[1024];
    int count = 0;
    FILE *f = fopen(file, "r");
    if (f == NULL) exit(1);
    while (fgets(line, sizeof line, f) != NULL) count += strstr(line, part) != NULL;
    fclose(f);
    return count;
}

static int threads(void) {
    char line[1024];
    int count = -1;
    FILE *f = fopen("/proc/self/status", "r");
    if (f == NULL) exit(1);
    while (fgets(line, sizeof line, f) != NULL) sscanf(line, "Threads: %d", &count);
    fclose(f);
    return count;
}

int main(int argc, char **argv) {
    int i, mapped = 0, running = 0;
    if (argc != 2) return 2;
    path = argv[1];
    for (i = 0; i < ROUNDS; ++i) {
        pthread_t thread;
        /* The thread ends after the library was closed: its message is freed by code that must still be there. */
        if (pthread_create(&thread, NULL, one_round, NULL) != 0 || pthread_join(thread, NULL) != 0) return 1;
        one_round(NULL);
        if (i == WARM_UP) mapped = lines("/proc/self/maps", "libflashmla"), running = threads();
    }
    printf("%d rounds: %d mappings, %d threads\n", ROUNDS, lines("/proc/self/maps", "libflashmla"), threads());
    return mapped == 0 || lines("/proc/self/maps", "libflashmla") != mapped || threads() != running;
}
