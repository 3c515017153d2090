/* A C program against an installed library. */
#include <flashmla.h>
#include <stdio.h>

int main(void) {
    flashmla_context_t *context = NULL;
    flashmla_device_info_t info = FLASHMLA_DEVICE_INFO_INIT;
    if (flashmla_create(FLASHMLA_DEVICE_CPU, NULL, &context) != FLASHMLA_SUCCESS) return 1;
    if (flashmla_get_device_info(context, &info) != FLASHMLA_SUCCESS) return 1;
    printf("%s %d\n", info.name, flashmla_version());
    return flashmla_destroy(context) != FLASHMLA_SUCCESS;
}
