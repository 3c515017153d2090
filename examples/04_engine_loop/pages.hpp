/* The pages of a paged KV cache and which of them are free. */
#ifndef ENGINE_LOOP_PAGES_HPP
#define ENGINE_LOOP_PAGES_HPP

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

/* A list of free pages, the last freed on top. A page number serves all layers: each has its own cache of the same
 * shape, and a request's block table holds for every one of them. */
class PagePool {
public:
    explicit PagePool(std::int32_t pages) {
        for (std::int32_t page = pages; page-- > 0;) free_.push_back(page);
    }

    std::size_t free() const { return free_.size(); }

    std::int32_t take() {
        if (free_.empty()) throw std::logic_error("no free page: ask free() first");
        const std::int32_t page = free_.back();
        free_.pop_back();
        return page;
    }

    void give_back(std::vector<std::int32_t>& pages) {
        free_.insert(free_.end(), pages.begin(), pages.end());
        pages.clear();
    }

private:
    std::vector<std::int32_t> free_;
};

#endif
