/*
 * The smallest runtime that has plugins: it asks one for types, shapes and workspace, writes its attributes to a file
 * and reads them back, attaches clones to execution contexts, and runs them, in the order in which TensorRT does.
 */
#ifndef TENSORRT_PLUGIN_HOST_HPP
#define TENSORRT_PLUGIN_HOST_HPP

#include "node.hpp"

#include "common/device.h"

#include <functional>
#include <string>
#include <vector>

namespace host {

/* An attribute as it lies in the engine file. */
struct Entry {
    std::string name;
    mla::Type type;
    std::array<unsigned char, 4> bytes;
};

/* What the host calls. Descriptions are of inputs, then outputs. */
class Plugin {
public:
    virtual ~Plugin() = default;
    virtual bool supports(int position, const mla::Desc* tensors) = 0;
    virtual std::vector<mla::Desc> output_descs(const mla::Desc* inputs) = 0;
    virtual bool configure(const mla::Desc* maxima) = 0;
    virtual std::size_t workspace_size(const mla::Desc* maxima) = 0;
    virtual std::vector<Entry> serialise() = 0;
    virtual std::unique_ptr<Plugin> attach() = 0;
    virtual bool on_shape_change(const mla::Desc* tensors) = 0;
    virtual bool enqueue(const mla::Desc* tensors, const void* const* inputs, void* const* outputs, void* workspace,
                         cudaStream_t stream) = 0;
};

using Create = std::function<std::unique_ptr<Plugin>(const std::vector<Entry>&)>;

/* The life of an engine with one node: build, save, load, run. Compares every result with plain C. Returns failures. */
int run(device* d, const Create& create);

/* What nodes have complained of, for checks; the log that they are to be given. */
extern std::string complaints;
void log(const char* message);

}  // namespace host

#endif
