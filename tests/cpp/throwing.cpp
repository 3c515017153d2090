/* With exceptions: what succeeds, and what each kind of wrong argument throws, on the CPU backend. */
#include "problem.hpp"

#include <type_traits>
#include <utility>

using namespace flashmla;

static_assert(!std::is_copy_constructible_v<Context> && !std::is_copy_assignable_v<Context>);
static_assert(std::is_nothrow_move_constructible_v<Context> && std::is_nothrow_move_assignable_v<Context>);
static_assert(!std::is_constructible_v<Context, std::nullptr_t> && !std::is_convertible_v<int, Context>);
static_assert(sizeof(Context) == sizeof(void*));
static_assert(std::is_base_of_v<std::runtime_error, Error> && std::is_nothrow_copy_constructible_v<Error>);
static_assert(std::is_same_v<Result<std::size_t>, std::size_t> && std::is_same_v<Result<void>, void>);
static_assert(category(Status::plan_mismatch) == Category::argument && category(Status::panic) == Category::internal);
static_assert(category(static_cast<Status>(4700)) == Category::cuda && cuda_result(static_cast<Status>(4700)) == 700);
static_assert(cuda_result(Status::no_driver) == 0 && category(Status::success) == Category::success);
static_assert((Flags::causal | Flags::batch_invariant) == static_cast<Flags>(5));
static_assert((Flags::causal & Flags::batch_invariant) == Flags::none);

/* What `call` throws: all three parts, and the C API's own account of it. */
template <class Call>
static void expect_error(int line, Status status, Category category, const char* part, Call call) {
    try {
        call();
    } catch (const Error& error) {
        const std::string name = status_name(status);
        if (error.status() != status || error.category() != category ||
            std::strstr(error.message(), part) == nullptr || error.message() != last_error() ||
            error.what() != name + ": " + error.message()) {
            std::printf("line %d: \"%s\", not %s with \"%s\"\n", line, error.what(), name.c_str(), part);
            ++failures;
        }
        return;
    }
    std::printf("line %d: nothing was thrown\n", line);
    ++failures;
}

#define THROWS(status, category, part, call) \
    expect_error(__LINE__, Status::status, Category::category, part, [&] { call; })

/* Changes what is right, and runs it: an argument error, and nothing written. */
#define REFUSED(change, status, part)                                            \
    do {                                                                         \
        DenseDecodeParams p = good.params;                                       \
        change;                                                                  \
        THROWS(status, argument, part, context.dense_decode(p));                 \
        EXPECT(good.untouched());                                                \
    } while (0)

static void opening() {
    THROWS(no_device, environment, "device = -7", Context(-7));
    THROWS(no_device, environment, "device = -7", static_cast<void>(Context::open(-7)));
    Options options;
    options.cpu_threads = -1;
    THROWS(invalid_argument, argument, "options.cpu_threads = -1", Context(cpu_device, options));
    options.cpu_threads = 2;
    Context context(cpu_device, options);
    EXPECT(context && context.get() != nullptr);
    const DeviceInfo info = context.device_info();
    EXPECT(info.device == cpu_device && info.multiprocessors == 2 && info.compute_capability == 0);
    EXPECT(info.name[0] != '\0' && info.struct_size == sizeof info);
    EXPECT(version() == header_version);
    EXPECT(std::strcmp(status_name(static_cast<Status>(123456)), "FLASHMLA_ERROR_UNKNOWN") == 0);
}

static void success() {
    const Context context(cpu_device);
    Problem good;
    EXPECT(context.dense_decode_plan_size(good.params) == 0);
    EXPECT(context.dense_decode_workspace_size(good.params) == 0);
    EXPECT(std::strstr(context.dense_decode_query(good.params).name, "dense_decode") != nullptr);
    context.dense_decode_plan(good.params);
    EXPECT(good.plan.fingerprint != 0);
    context.dense_decode(good.params);
    EXPECT(good.right());
}

static void wrong_arguments() {
    const Context context(cpu_device);
    Problem good;
    REFUSED(static_cast<void>(p), plan_mismatch, "plan.fingerprint = 0: call flashmla_dense_decode_plan first");
    context.dense_decode_plan(good.params);
    REFUSED(p.q.data = nullptr, null_pointer, "q.data = NULL: must point to memory");
    REFUSED(p.out.data = nullptr, null_pointer, "out.data = NULL");
    REFUSED(p.plan = nullptr, null_pointer, "params->plan = NULL");
    REFUSED(p.q.data = good.q + 1, misaligned, "must be a multiple of 16 bytes");
    REFUSED(p.struct_size = 8, struct_size, "params->struct_size = 8");
    REFUSED(p.struct_size = 0, struct_size, "params->struct_size = 0");
    REFUSED(p.dtype = static_cast<Dtype>(9), unknown_enum, "dtype = 9");
    REFUSED(p.flags |= static_cast<Flags>(64), unknown_enum, "flags = 0x40");
    REFUSED(p.h_kv = 3, invalid_shape, "h_q = 16: must be a multiple of h_kv = 3");
    REFUSED((p.q.strides = {9216, 575, 576, 1}), invalid_stride,
            "q.strides[1] = 575: must be a multiple of 8 elements");
    REFUSED(p.max_blocks_per_seq = 2, plan_mismatch, "the plan was made for other");
    /* A params struct that nobody filled. */
    THROWS(invalid_shape, argument, "h_q = 0", context.dense_decode(DenseDecodeParams{}));
    THROWS(invalid_shape, argument, "h_q = 0", static_cast<void>(context.dense_decode_plan_size({})));
    THROWS(invalid_shape, argument, "h_q = 0", static_cast<void>(context.dense_decode_workspace_size({})));
    THROWS(invalid_shape, argument, "h_q = 0", static_cast<void>(context.dense_decode_query({})));
    THROWS(invalid_stream, argument, "must be NULL",
           context.dense_decode(good.params, reinterpret_cast<cudaStream_t>(&good)));
    context.dense_decode(good.params);
    EXPECT(good.right());
}

/* Default-made, moved from, closed, given away: the error of a NULL context, from every call. */
static void no_context(Context& context) {
    Problem good;
    EXPECT(!context && context.get() == nullptr);
    const DenseDecodeParams& p = good.params;
    THROWS(null_pointer, argument, "context = NULL", static_cast<void>(context.device_info()));
    THROWS(null_pointer, argument, "context = NULL", static_cast<void>(context.dense_decode_query(p)));
    THROWS(null_pointer, argument, "context = NULL", static_cast<void>(context.dense_decode_plan_size(p)));
    THROWS(null_pointer, argument, "context = NULL", static_cast<void>(context.dense_decode_workspace_size(p)));
    THROWS(null_pointer, argument, "context = NULL", context.dense_decode_plan(p));
    THROWS(null_pointer, argument, "context = NULL", context.dense_decode(p));
    EXPECT(good.untouched() && good.plan.fingerprint == 0);
    context.close();
}

static void owning() {
    Context none;
    no_context(none);

    Context first(cpu_device), second(std::move(first));
    no_context(first); /* NOLINT(bugprone-use-after-move): that is the test */
    EXPECT(second.device_info().device == cpu_device);

    first = std::move(second);
    no_context(second); /* NOLINT(bugprone-use-after-move) */
    Context& same = first;
    first = std::move(same); /* to itself: stays what it was */
    EXPECT(first && first.device_info().device == cpu_device);

    first = Context(cpu_device); /* what it had is freed */
    EXPECT(first.device_info().device == cpu_device);

    Context third = Context::adopt(first.release());
    no_context(first);
    EXPECT(third.device_info().device == cpu_device);

    third.close();
    no_context(third);
    third.close();

    /* An error keeps its message whatever this thread does afterwards, and copies. */
    try {
        none.dense_decode({});
    } catch (const Error& error) {
        const Error copy = error;
        THROWS(no_device, environment, "device = -7", Context(-7));
        EXPECT(std::strstr(copy.message(), "context = NULL") != nullptr && copy.status() == Status::null_pointer);
        EXPECT(std::strcmp(copy.message(), error.message()) == 0);
    }
    /* And it is an ordinary exception. */
    try {
        none.dense_decode({});
        ++failures;
    } catch (const std::exception& error) {
        EXPECT(std::strstr(error.what(), "FLASHMLA_ERROR_NULL_POINTER: context = NULL") == error.what());
    }
}

int main() {
    EXPECT(last_error().empty());
    opening();
    success();
    wrong_arguments();
    owning();
    return failures != 0;
}
