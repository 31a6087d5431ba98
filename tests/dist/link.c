/* Hash a payload with the native library of Swift and Kotlin, and print the hash. */

#include <stdio.h>

#include "ActPassFFI.h"

int main(void) {
    static const char payload[] = "{\"currency\": \"usd\", \"amount\": 4900}";
    RustCallStatus status = {0};
    ForeignBytes bytes = {sizeof payload - 1, (const uint8_t *)payload};
    RustBuffer text = ffi_actpass_uniffi_rustbuffer_from_bytes(bytes, &status);
    RustBuffer hash = uniffi_actpass_uniffi_fn_func_native_hash_payload(text, &status);
    if (status.code != 0) {
        fprintf(stderr, "the call failed with code %d\n", status.code);
        return 1;
    }
    printf("%.*s\n", (int)hash.len, (const char *)hash.data);
    ffi_actpass_uniffi_rustbuffer_free(hash, &status);
    return status.code;
}
