/*
 * An engine's loop with continuous batching, in C++: requests arrive, join the running batch as soon as there is
 * room for them, gain a token a step, and leave when they have all they wanted. Their KV rows lie in pages from a
 * free list; where it runs dry, the request that joined last gives its pages back and waits to be computed again.
 *
 * Teaches: flashmla.hpp; one plan a step shared by many layers; batches that change their size every step without
 * a new allocation or graph (buckets, see engine.cpp: on a GPU each is one CUDA graph); pages that change hands.
 * Checks every row of every step against plain C, and that what it teaches came up at all.
 */
#include "engine.hpp"
#include "pages.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <deque>
#include <map>

namespace {

struct Request {
    int id, arrival, prompt, wanted; /* arrival in steps, the others in tokens */
    int generated = 0;
    std::vector<std::int32_t> pages = {};

    int tokens() const { return prompt + generated; }
    bool done() const { return generated == wanted; }
};

std::size_t pages_for(int tokens) { return static_cast<std::size_t>((tokens + page_size - 1) / page_size); }

/* Stands for a model: a row that depends on request, layer and position alone, so that a request that is computed
 * again gets the same. */
enum class Kind { query, kv };
void compute_row(Kind kind, const Request& request, int layer, int position, std::uint16_t* row, int count) {
    std::uint64_t state = (static_cast<std::uint64_t>(request.id * layers + layer) << 16) + 2 * position +
                          (kind == Kind::kv ? 1 : 0) + 1;
    state *= 0x9e3779b97f4a7c15u;
    /* Of the size of normalised activations: near 0 the bound of the check does not scale with the values. */
    for (int i = 0; i < count; ++i) row[i] = bf16_from_float(0.3f * random_float(&state));
}

class Loop {
public:
    Loop(device* d, std::deque<Request> traffic) : engine_(d), arriving_(std::move(traffic)) {
        for (const Request& request : arriving_) {
            /* Refused at the door: it would wait for ever. */
            if (pages_for(request.prompt + request.wanted) > max_pages)
                throw std::invalid_argument("request " + std::to_string(request.id) + " is too long");
        }
    }

    /* Until everybody left; returns the rows that are not right. */
    int run() {
        for (int step = 0; !arriving_.empty() || !waiting_.empty() || !running_.empty(); ++step) {
            join(step);
            grow();
            if (!running_.empty()) decode(step);
            leave();
            ++steps_;
        }
        return failed_;
    }

    /* Whether the traffic was what this program is about. */
    bool report() const {
        std::printf("%d steps of %d layers: %d requests joined, %d left, %d put back; %d tokens\n", steps_, layers,
                    joined_, left_, put_back_, tokens_);
        for (const auto& [size, count] : bucket_steps_) std::printf("bucket of %d: %d steps\n", size, count);
        std::printf("%d CUDA graphs\n", engine_.graphs());
        std::printf("check: %d of %d rows as plain C computes them\n", rows_ - failed_, rows_);
        return joined_ - put_back_ == left_ && put_back_ > 0 && bucket_steps_.size() == bucket_sizes.size() &&
               pool_.free() == num_pages;
    }

private:
    /* The first who waits joins if there is a row in the batch, and pages for its prompt and a token. */
    void join(int step) {
        while (!arriving_.empty() && arriving_.front().arrival <= step) {
            waiting_.push_back(arriving_.front());
            arriving_.pop_front();
        }
        while (!waiting_.empty() && running_.size() < max_batch &&
               pages_for(waiting_.front().tokens() + 1) <= pool_.free()) {
            running_.push_back(waiting_.front());
            waiting_.pop_front();
            Request& request = running_.back();
            for (int position = 0; position < request.tokens(); ++position) append(request, position);
            ++joined_;
        }
    }

    /* A token more for everybody: its KV rows go into the cache before the queries look at them. */
    void grow() {
        for (std::size_t i = 0; i < running_.size(); ++i) {
            const bool needs_page = pages_for(running_[i].tokens() + 1) > running_[i].pages.size();
            while (needs_page && pool_.free() == 0) {
                /* What is cached is lost, what was generated is not: it joins again with a longer prompt. */
                pool_.give_back(running_.back().pages);
                waiting_.push_front(running_.back());
                running_.pop_back();
                ++put_back_;
            }
            if (i == running_.size()) break; /* it was the last itself */
            append(running_[i], running_[i].tokens());
            ++running_[i].generated;
            ++tokens_;
        }
    }

    void append(Request& request, int position) {
        if (position % page_size == 0) request.pages.push_back(pool_.take());
        std::uint16_t row[D_QK];
        for (int l = 0; l < layers; ++l) {
            compute_row(Kind::kv, request, l, position, row, D_QK);
            engine_.write_row(l, request.pages.back(), position % page_size, row);
        }
    }

    void decode(int step) {
        const int n = static_cast<int>(running_.size());
        for (int i = 0; i < n; ++i) {
            const Request& request = running_[i];
            /* Entries past the last used page may hold anything. */
            batch_.block_table[i].fill(2147480000);
            std::copy(request.pages.begin(), request.pages.end(), batch_.block_table[i].begin());
            batch_.cache_seqlens[i] = request.tokens();
            for (int l = 0; l < layers; ++l)
                compute_row(Kind::query, request, l, request.tokens(), batch_.q[l][i].data(), heads * D_QK);
        }
        const int size = engine_.step(batch_, n, outputs_);
        ++bucket_steps_[size];
        for (int l = 0; l < layers; ++l) {
            for (int i = 0; i < n; ++i) check(step, l, i);
            for (int i = n; i < size; ++i) check_padding(step, l, i);
        }
    }

    /* One head of each row, another every step. */
    void check(int step, int layer, int i) {
        const Request& request = running_[i];
        const int h = (step + i) % heads;
        double reference[D_V], reference_lse;
        reference_row(&batch_.q[layer][i][h * D_QK], engine_.cache(layer), request.pages.data(), page_size,
                      request.tokens(), reference, &reference_lse);
        char what[96];
        std::snprintf(what, sizeof what, "step %d, layer %d, request %d, head %d", step, layer, request.id, h);
        failed_ += compare_row(what, &outputs_.out[layer][i][h * D_V], outputs_.lse[layer][i][h], reference,
                               reference_lse);
        ++rows_;
    }

    void check_padding(int step, int layer, int i) {
        const auto& out = outputs_.out[layer][i];
        const auto& lse = outputs_.lse[layer][i];
        const bool right = std::all_of(out.begin(), out.end(), [](std::uint16_t x) { return x == 0; }) &&
                           std::all_of(lse.begin(), lse.end(), [](float x) { return x == -INFINITY; });
        if (!right) std::printf("step %d, layer %d: row %d is padding, and not empty\n", step, layer, i);
        failed_ += !right;
        ++rows_;
    }

    void leave() {
        for (Request& request : running_) {
            if (request.done()) pool_.give_back(request.pages), ++left_;
        }
        running_.erase(
            std::remove_if(running_.begin(), running_.end(), [](const Request& request) { return request.done(); }),
            running_.end());
    }

    Engine engine_;
    PagePool pool_{num_pages};
    std::deque<Request> arriving_, waiting_;
    std::vector<Request> running_; /* in the order in which they joined */
    Batch batch_ = {};
    Outputs outputs_ = {};
    int steps_ = 0, joined_ = 0, left_ = 0, put_back_ = 0, tokens_ = 0, rows_ = 0, failed_ = 0;
    std::map<int, int> bucket_steps_;
};

/* A few at first, a crowd that the pages do not suffice for, and a last one with a long prompt. */
std::deque<Request> traffic() {
    std::deque<Request> requests = {{0, 0, 70, 30}, {1, 2, 5, 12}, {2, 4, 130, 9}};
    for (int id = 3; id < 13; ++id) requests.push_back({id, 6 + id / 3, 55 + 23 * (id % 5), 10 + 3 * (id % 4)});
    requests.push_back({13, 60, 300, 5});
    return requests;
}

}  // namespace

int main() try {
    const std::unique_ptr<device, void (*)(device*)> d(device_open(), device_close);
    if (d == nullptr) return 1;
    /* On the heap: batch and outputs have room for max_batch. */
    const auto loop = std::make_unique<Loop>(d.get(), traffic());
    const int failed = loop->run();
    const bool covered = loop->report();
    if (!covered) std::printf("requests were lost, pages leaked, or no request was ever put back\n");
    return failed != 0 || !covered;
} catch (const std::exception& error) { /* flashmla::Error is one */
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
