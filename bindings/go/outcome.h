/* What the C half of every operation returns: its status and, of a failure, the message. The message is this thread's,
 * and a goroutine may be on another thread by its next call; so it is fetched here, within the same one. */
#ifndef FLASHMLA_GO_OUTCOME_H
#define FLASHMLA_GO_OUTCOME_H

#include <flashmla.h>
#include <stdlib.h>

typedef struct flashmla_go_outcome {
    flashmla_status_t status;
    char *message; /* for free(); NULL after a success, or where memory is short */
} flashmla_go_outcome;

__attribute__((cold, noinline, unused)) static char *flashmla_go_message(void) {
    const size_t size = flashmla_last_error(NULL, 0);
    char *message = malloc(size);
    if (message != NULL) flashmla_last_error(message, size);
    return message;
}

static inline flashmla_go_outcome flashmla_go_done(flashmla_status_t status) {
    flashmla_go_outcome outcome = {status, NULL};
    if (__builtin_expect(status != FLASHMLA_SUCCESS, 0)) outcome.message = flashmla_go_message();
    return outcome;
}

#endif
