/* Without exceptions: every call gives a Result, which carries the value, or status, category and message. */
#include "problem.hpp"

#include <type_traits>
#include <utility>

#ifndef FLASHMLA_NO_EXCEPTIONS
#error "to be compiled with FLASHMLA_NO_EXCEPTIONS or -fno-exceptions"
#endif

using namespace flashmla;

static_assert(!std::is_constructible_v<Context, int>, "a constructor could not report what went wrong");
static_assert(!std::is_copy_constructible_v<Context> && std::is_nothrow_move_constructible_v<Context>);
static_assert(!std::is_convertible_v<Result<void>, bool>);

template <class T>
static void expect_error(int line, const Result<T>& result, Status status, Category category, const char* part) {
    if (result || result.ok() || result.status() != status || result.error().status() != status ||
        result.error().category() != category || std::strstr(result.error().message(), part) == nullptr ||
        result.error().message() != last_error()) {
        std::printf("line %d: %s \"%s\", not %s with \"%s\"\n", line, status_name(result.status()),
                    result.error().message(), status_name(status), part);
        ++failures;
    }
}

#define FAILS(status, category, part, call) expect_error(__LINE__, call, Status::status, Category::category, part)

static void no_context(Context& context) {
    Problem good;
    EXPECT(!context);
    FAILS(null_pointer, argument, "context = NULL", context.device_info());
    FAILS(null_pointer, argument, "context = NULL", context.dense_decode_query(good.params));
    FAILS(null_pointer, argument, "context = NULL", context.dense_decode_plan_size(good.params));
    FAILS(null_pointer, argument, "context = NULL", context.dense_decode_workspace_size(good.params));
    FAILS(null_pointer, argument, "context = NULL", context.dense_decode_plan(good.params));
    FAILS(null_pointer, argument, "context = NULL", context.dense_decode(good.params));
    EXPECT(good.untouched());
    EXPECT(context.close());
}

int main() {
    Result<Context> failed = Context::open(-7);
    expect_error(__LINE__, failed, Status::no_device, Category::environment, "device = -7");
    no_context(*failed); /* the value of a failed call is a closed context, not a trap */

    Result<Context> opened = Context::open(cpu_device);
    EXPECT(opened.ok() && opened.status() == Status::success && opened.error().message()[0] == '\0');
    EXPECT(opened->device_info().value().device == cpu_device);
    Context context = *std::move(opened);
    no_context(*opened); /* NOLINT(bugprone-use-after-move): that is the test */

    Problem good;
    FAILS(plan_mismatch, argument, "plan.fingerprint = 0", context.dense_decode(good.params));
    EXPECT(*context.dense_decode_plan_size(good.params) == 0);
    EXPECT(context.dense_decode_workspace_size(good.params).value() == 0);
    EXPECT(std::strstr(context.dense_decode_query(good.params)->name, "dense_decode") != nullptr);
    EXPECT(context.dense_decode_plan(good.params));
    DenseDecodeParams p = good.params;
    p.q.data = nullptr;
    FAILS(null_pointer, argument, "q.data = NULL: must point to memory", context.dense_decode(p));
    p = good.params, p.struct_size = 8;
    FAILS(struct_size, argument, "params->struct_size = 8", context.dense_decode(p));
    p = good.params, p.dtype = static_cast<Dtype>(9);
    FAILS(unknown_enum, argument, "dtype = 9", context.dense_decode(p));
    FAILS(invalid_shape, argument, "h_q = 0", context.dense_decode_plan_size({}));
    EXPECT(good.untouched());
    EXPECT(context.dense_decode(good.params));
    EXPECT(good.right());

    /* A Result keeps its message whatever this thread does afterwards. */
    const Result<void> kept = context.dense_decode({});
    FAILS(no_device, environment, "device = -7", Context::open(-7));
    EXPECT(std::strstr(kept.error().message(), "h_q = 0") != nullptr);

    Context moved = std::move(context);
    no_context(context); /* NOLINT(bugprone-use-after-move) */
    EXPECT(moved.close());
    no_context(moved);
    return failures != 0;
}
