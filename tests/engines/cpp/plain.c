/* The C header in plain C: plain IMAGE ENGINE prints what the library says of both. */
#include <stdio.h>
#include <stdlib.h>

#include "hemf/hemf.h"

static int failed(const char* what, hemf_status status) {
    printf("%s: %d %s | %s\n", what, (int)status, hemf_message(), hemf_hint());
    return (int)status;
}

static unsigned long sum(const uint8_t* bytes, size_t count) {
    unsigned long total = 0;
    size_t index;
    for (index = 0; index < count; ++index) total += bytes[index];
    return total;
}

int main(int count, char** words) {
    hemf_image* image = NULL;
    hemf_manifest* manifest = NULL;
    hemf_model* model = NULL;
    hemf_preprocess preprocess;
    hemf_status status;
    uint8_t* pixels;
    float* values;
    size_t bytes;
    if (count != 3) return 2;
    printf("%s %s\n", hemf_version(), hemf_engine_flavour());

    /* What must fail, and with which status. */
    failed("null", hemf_image_decode(NULL, &image));
    failed("nothing", hemf_image_decode("no such file", &image));
    failed("bytes", hemf_image_decode_bytes((const uint8_t*)"GIF89a", 6, "six bytes", &image));
    failed("size", hemf_image_from_rgb((const uint8_t*)"abc", 0, 1, &image));

    status = hemf_image_decode(words[1], &image);
    if (status != HEMF_OK) return failed("decode", status);
    printf("%d %d\n", hemf_image_width(image), hemf_image_height(image));

    status = hemf_manifest_read(words[2], &manifest);
    if (status != HEMF_OK) return failed("manifest", status);
    printf("%d %s %s %d %d\n", hemf_manifest_classes(manifest), hemf_manifest_class(manifest, 0),
           hemf_manifest_class(manifest, 99) == NULL ? "null" : "?", hemf_manifest_takes_pixels(manifest),
           hemf_manifest_batch(manifest));
    hemf_manifest_preprocess(manifest, &preprocess);
    printf("%d %d %d %g %g\n", preprocess.size, preprocess.squash, preprocess.resize, preprocess.mean[1],
           preprocess.deviation[2]);

    bytes = (size_t)preprocess.size * (size_t)preprocess.size * 3;
    pixels = malloc(bytes);
    values = malloc(bytes * sizeof *values);
    if (pixels == NULL || values == NULL) return 1;
    status = hemf_preprocess_pixels(&preprocess, image, pixels);
    if (status == HEMF_OK) status = hemf_preprocess_normalize(&preprocess, pixels, 1, values);
    if (status != HEMF_OK) return failed("preprocess", status);
    printf("%lu %.6f\n", sum(pixels, bytes), (double)values[0]);
    preprocess.deviation[0] = 0;
    failed("deviation", hemf_preprocess_pixels(&preprocess, image, pixels));
    free(pixels);
    free(values);

    failed("preflight", hemf_preflight(words[2]));
    failed("load", hemf_model_load(words[2], &model));
    failed("infer", hemf_model_infer(model, NULL, 1, NULL));
    hemf_model_free(model);
    hemf_manifest_free(manifest);
    hemf_image_free(image);
    hemf_image_free(NULL);
    return 0;
}
