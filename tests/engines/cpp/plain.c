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

/* What a file takes of an image. */
static void show_input(const hemf_manifest* manifest, const hemf_image* image) {
    int height = hemf_manifest_height(manifest), width = hemf_manifest_width(manifest);
    size_t bytes = (size_t)height * (size_t)width * 3;
    uint8_t* pixels = malloc(bytes);
    hemf_status status = hemf_manifest_pixels(manifest, image, pixels);
    if (status == HEMF_OK)
        printf("input: %d %d %d %lu\n", height, width, hemf_manifest_resizes(manifest), sum(pixels, bytes));
    else
        failed("input", status);
    free(pixels);
}

/* The same step by step, for a file that doesn't resize images itself. */
static void show_preprocess(const hemf_manifest* manifest, const hemf_image* image) {
    hemf_preprocess preprocess;
    uint8_t* pixels;
    float* values;
    size_t bytes;
    hemf_status status = hemf_manifest_preprocess(manifest, &preprocess);
    if (status != HEMF_OK) {
        failed("preprocess", status);
        return;
    }
    printf("%d %d %d %g %g\n", preprocess.size, preprocess.squash, preprocess.resize, preprocess.mean[1],
           preprocess.deviation[2]);
    bytes = (size_t)preprocess.size * (size_t)preprocess.size * 3;
    pixels = malloc(bytes);
    values = malloc(bytes * sizeof *values);
    status = hemf_preprocess_pixels(&preprocess, image, pixels);
    if (status == HEMF_OK) status = hemf_preprocess_normalize(&preprocess, pixels, 1, values);
    if (status == HEMF_OK)
        printf("%lu %.6f\n", sum(pixels, bytes), (double)values[0]);
    else
        failed("pixels", status);
    preprocess.deviation[0] = 0;
    failed("deviation", hemf_preprocess_pixels(&preprocess, image, pixels));
    free(pixels);
    free(values);
}

int main(int count, char** words) {
    hemf_image* image = NULL;
    hemf_manifest* manifest = NULL;
    hemf_model* model = NULL;
    hemf_status status;
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
    printf("%d %s %s %d %d %d\n", hemf_manifest_classes(manifest), hemf_manifest_class(manifest, 0),
           hemf_manifest_class(manifest, 99) == NULL ? "null" : "?", hemf_manifest_takes_pixels(manifest),
           hemf_manifest_channels_last(manifest), hemf_manifest_batch(manifest));
    show_input(manifest, image);
    show_preprocess(manifest, image);

    failed("preflight", hemf_preflight(words[2]));
    failed("load", hemf_model_load(words[2], &model));
    failed("infer", hemf_model_infer(model, NULL, 1, NULL));
    hemf_model_free(model);
    hemf_manifest_free(manifest);
    hemf_image_free(image);
    hemf_image_free(NULL);
    return 0;
}
