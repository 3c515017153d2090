#include "host.hpp"

#include "common/reference.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

/* Every allocation of C++ in this program, to see that enqueue makes none. */
static std::atomic<long> allocations;
void* operator new(std::size_t size) {
    ++allocations;
    if (void* memory = std::malloc(size == 0 ? 1 : size)) return memory;
    std::abort();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace host {

std::string complaints;
void log(const char* message) { complaints += std::string(message) + "\n"; }

namespace {

using Node = mla::DecodeNode;
using Tensors = std::array<mla::Desc, Node::inputs + Node::outputs>;

constexpr int heads = 16, page = 64, pages = 24, guard = 4096;

struct Shape {
    int b, s_q, columns;
};
constexpr Shape maxima = {6, 2, 4};
/* Whatever comes, from nothing to the maxima. */
constexpr Shape steps[] = {{1, 1, 1}, {6, 2, 4}, {3, 1, 4}, {0, 2, 4}, {2, 2, 2}, {6, 1, 1}};

mla::Desc desc(mla::Type type, std::initializer_list<std::int64_t> dims) {
    mla::Desc d;
    d.type = type;
    for (const std::int64_t x : dims) d.dims[static_cast<std::size_t>(d.rank++)] = x;
    return d;
}

Tensors describe(const Shape& s, Plugin& plugin) {
    Tensors t = {desc(mla::Type::bf16, {s.b, s.s_q, heads, D_QK}), desc(mla::Type::bf16, {pages, page, 1, D_QK}),
                 desc(mla::Type::int32, {s.b, s.columns}), desc(mla::Type::int32, {s.b})};
    const std::vector<mla::Desc> outputs = plugin.output_descs(t.data());
    for (std::size_t i = 0; i < outputs.size(); ++i) t[Node::inputs + i] = outputs[i];
    return t;
}

class Engine {
public:
    explicit Engine(device* d) : d_(d), cache_(std::size_t(pages) * page * D_QK) {
        for (auto& x : cache_) x = value();
        const std::size_t rows = std::size_t(maxima.b) * maxima.s_q * heads;
        q_.resize(rows * D_QK), out_.resize(rows * D_V), lse_.resize(rows);
        table_.resize(std::size_t(maxima.b) * maxima.columns), lens_.resize(maxima.b);
        in_[Node::q] = memory(q_.size() * 2), in_[Node::kv_cache] = memory(cache_.size() * 2);
        in_[Node::block_table] = memory(table_.size() * 4), in_[Node::cache_seqlens] = memory(lens_.size() * 4);
        to_[Node::out] = memory(out_.size() * 2), to_[Node::lse] = memory(lse_.size() * 4);
        device_upload(d_, in_[Node::kv_cache], cache_.data(), cache_.size() * 2);
    }
    ~Engine() {
        for (void* m : memory_) device_free(d_, m);
    }
    Engine(const Engine&) = delete;

    void* memory(std::size_t bytes) { return memory_.emplace_back(device_alloc(d_, bytes)); }

    /* New queries, pages and lengths. */
    void fill(const Shape& s) {
        for (auto& x : q_) x = value();
        for (int i = 0; i < s.b; ++i) {
            for (int c = 0; c < s.columns; ++c) table_[i * s.columns + c] = (7 * i + 5 * c + turn_) % pages;
            lens_[i] = (31 * i + 17 * turn_) % (s.columns * page + 1);
        }
        ++turn_;
        device_upload(d_, in_[Node::q], q_.data(), q_.size() * 2);
        device_upload(d_, in_[Node::block_table], table_.data(), table_.size() * 4);
        device_upload(d_, in_[Node::cache_seqlens], lens_.data(), lens_.size() * 4);
    }

    bool enqueue(Plugin& plugin, const Tensors& t, void* workspace) {
        const void* inputs[Node::inputs] = {in_[0], in_[1], in_[2], in_[3]};
        return plugin.enqueue(t.data(), inputs, to_, workspace, device_stream(d_));
    }

    /* Rows that are not as plain C computes them; one head of each query token. */
    int wrong(const Shape& s) {
        device_download(d_, out_.data(), to_[Node::out], out_.size() * 2);
        device_download(d_, lse_.data(), to_[Node::lse], lse_.size() * 4);
        int count = 0;
        for (int i = 0; i < s.b; ++i) {
            for (int token = 0; token < s.s_q; ++token) {
                const int h = (5 * i + 3 * token + turn_) % heads, row = (i * s.s_q + token) * heads + h;
                const int seen = std::max(0, lens_[i] - s.s_q + token + 1);
                double reference[D_V], reference_lse;
                reference_row(&q_[std::size_t(row) * D_QK], cache_.data(), &table_[i * s.columns], page, seen, reference,
                              &reference_lse);
                char what[96];
                std::snprintf(what, sizeof what, "b %d, s_q %d: request %d, token %d, head %d", s.b, s.s_q, i, token, h);
                count += compare_row(what, &out_[std::size_t(row) * D_V], lse_[(i * heads + h) * s.s_q + token],
                                     reference, reference_lse);
            }
        }
        return count;
    }

private:
    std::uint16_t value() { return bf16_from_float(0.3f * random_float(&state_)); }

    device* d_;
    std::uint64_t state_ = 42;
    int turn_ = 1;
    std::vector<std::uint16_t> cache_, q_, out_;
    std::vector<float> lse_;
    std::vector<std::int32_t> table_, lens_;
    std::vector<void*> memory_;
    void* in_[Node::inputs] = {};
    void* to_[Node::outputs] = {};
};

}  // namespace

int run(device* d, const Create& create) {
    int failures = 0;
    const auto expect = [&](bool condition, const char* what) {
        if (!condition) std::printf("not so: %s\n%s", what, complaints.c_str()), ++failures;
        complaints.clear();
    };

    /* Build: the network says what it wants, types are tried out, and the profile's maxima give the workspace. */
    const std::int32_t causal = 1;
    Entry attribute = {"causal", mla::Type::int32, {}};
    std::memcpy(attribute.bytes.data(), &causal, sizeof causal);
    std::unique_ptr<Plugin> built = create({attribute});
    expect(built != nullptr, "a node is created");
    if (built == nullptr) return failures;
    Tensors greatest = describe(maxima, *built);
    expect(greatest[Node::inputs + Node::out].dims[3] == D_V && greatest[Node::inputs + Node::lse].dims[2] == maxima.s_q,
           "outputs have their shapes");
    for (int i = 0; i < Node::inputs + Node::outputs; ++i) {
        expect(built->supports(i, greatest.data()), "BF16 is supported");
        Tensors other = greatest;
        other[static_cast<std::size_t>(i)].type = mla::Type::other;
        expect(!built->supports(i, other.data()), "other types are not");
    }
    expect(built->configure(greatest.data()), "the maxima can be configured");
    const std::size_t bytes = built->workspace_size(greatest.data());
    Tensors wrong = greatest;
    wrong[Node::q].dims[3] = wrong[Node::kv_cache].dims[3] = 100;
    const bool refused = !built->configure(wrong.data());
    const bool named = complaints.find("d_qk = 100") != std::string::npos;
    expect(refused && named, "a head dim that does not exist is refused by its name");

    /* Save and load: what the node wrote is all that the next one knows. */
    const std::vector<Entry> file = built->serialise();
    built.reset();
    expect(file.size() == Node::attributes, "all attributes are written");
    std::unique_ptr<Plugin> loaded = create(file);
    expect(loaded != nullptr, "a node is read back");
    if (loaded == nullptr) return failures;
    expect(loaded->serialise().size() == file.size() && loaded->serialise()[0].bytes == file[0].bytes, "as it was");
    expect(create({{"casual", mla::Type::int32, {}}}) == nullptr, "an attribute that nobody knows is refused");

    /* Run: two execution contexts by turns, each with a workspace of the size that the build was told. */
    Engine engine(d);
    std::unique_ptr<Plugin> contexts[2] = {loaded->attach(), loaded->attach()};
    loaded.reset();
    char* workspaces[2];
    const std::vector<unsigned char> pattern(guard, 0xab);
    for (char*& w : workspaces) {
        w = static_cast<char*>(engine.memory(bytes + guard));
        device_upload(d, w + bytes, pattern.data(), guard);
    }
    int turn = 0;
    for (const Shape& s : steps) {
        Plugin& plugin = *contexts[turn % 2];
        const Tensors t = describe(s, plugin);
        engine.fill(s);
        expect(plugin.on_shape_change(t.data()), "shapes change");
        const long before = allocations;
        const bool enqueued = engine.enqueue(plugin, t, workspaces[turn % 2]);
        const long made = allocations - before;
        expect(enqueued, "a step is enqueued");
        expect(made == 0, "enqueue allocates nothing");
        expect(engine.wrong(s) == 0, "its results are right");
        ++turn;
    }

    /* A graph of one step, launched again after lengths, pages and queries changed in place. */
    const Shape s = steps[1];
    const Tensors t = describe(s, *contexts[0]);
    expect(contexts[0]->on_shape_change(t.data()), "shapes change for the graph");
    engine.fill(s);
    if (device_capture_begin(d) != 0) {
        const bool captured = engine.enqueue(*contexts[0], t, workspaces[0]);
        device_graph* graph = device_capture_end(d);
        expect(captured, "a step is captured");
        for (int i = 0; i < 3; ++i) {
            engine.fill(s);
            device_graph_launch(d, graph);
            expect(engine.wrong(s) == 0, "a replay's results are right");
        }
    }

    /* Errors come back as results. */
    expect(!contexts[0]->on_shape_change(wrong.data()), "shapes that can't be are refused");
    expect(!engine.enqueue(*contexts[0], t, workspaces[0]), "and nothing is enqueued then");
    std::vector<unsigned char> after(guard);
    for (const char* w : workspaces) {
        device_download(d, after.data(), w + bytes, guard);
        expect(after == pattern, "nothing is written past the workspace");
    }
    std::printf("%d steps, workspace of %zu bytes, %d failures\n", turn, bytes, failures);
    return failures;
}

}  // namespace host
