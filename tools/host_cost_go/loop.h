/* The C half of host_cost_go: a problem on the device, and a loop of calls that no Go is in. */
#ifndef HOST_COST_LOOP_H
#define HOST_COST_LOOP_H

#include "../../examples/common/device.h"

typedef struct problem {
    flashmla_dense_decode_params_t params;
    flashmla_plan_t plan;
} problem;

/* One request of one tile, in a cache of so many pages: where it can grow, it can be split, and a call launches the
 * combination of the parts, too. On the CPU a batch of no request: everything is checked, nothing computed. */
problem *problem_make(device *d, int pages);
void problem_free(device *d, problem *p);

/* Nanoseconds of a call, of so many after a synchronisation. */
double problem_run(device *d, problem *p, int calls);

#endif
