/* A program of two files, of which the other (mixed_part.cpp) does without exceptions. */
#include <flashmla.hpp>

#include <cstring>

/* The message that a closed context gives there. */
const char* message_without_exceptions();

int main() {
    std::string message;
    try {
        flashmla::Context().dense_decode({});
    } catch (const flashmla::Error& error) {
        message = error.message();
    }
    return message.empty() || message != message_without_exceptions();
}
