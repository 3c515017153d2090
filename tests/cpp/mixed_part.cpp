/* The part of mixed_main.cpp that is compiled with -fno-exceptions -fno-rtti. */
#include <flashmla.hpp>

const char* message_without_exceptions();

const char* message_without_exceptions() {
    static const flashmla::Result<void> result = flashmla::Context().dense_decode({});
    return result.error().message();
}
