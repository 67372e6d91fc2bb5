/* hemf in C, for other languages. No call throws: each that can fail returns a status, and hemf_message and hemf_hint
 * describe the last failure in the calling thread.
 *
 * Paths and texts end with a zero byte; texts are UTF-8. Objects are freed by the function whose name ends with _free,
 * which accepts null. Pointers into an object are valid as long as it is.
 */
#ifndef HEMF_H
#define HEMF_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The exit codes of hemf-export. */
typedef enum hemf_status {
    HEMF_OK = 0,
    HEMF_BAD_INPUT = 1,          /* a file or value that the user can correct */
    HEMF_USAGE = 2,              /* a wrong call: a null pointer, a negative number */
    HEMF_CHECK_FAILED = 3,       /* golden images, or logits that are not finite */
    HEMF_MISSING_CAPABILITY = 4, /* a GPU, TensorRT, a format that this build doesn't read */
    HEMF_DEFECT = 70             /* a defect of the library */
} hemf_status;

/* "0.1.0" */
const char* hemf_version(void);
/* "off", "tensorrt" or "tensorrt-rtx": what the library was built with. */
const char* hemf_engine_flavour(void);
/* What failed, and what to do about it; empty before the first failure. */
const char* hemf_message(void);
const char* hemf_hint(void);

/* Images: RGB pixels in rows from the top, upright by EXIF. */
typedef struct hemf_image hemf_image;
hemf_status hemf_image_decode(const char* path, hemf_image** image);
hemf_status hemf_image_decode_bytes(const uint8_t* data, size_t size, const char* name, hemf_image** image);
/* An image from the caller's RGB pixels, which are copied. */
hemf_status hemf_image_from_rgb(const uint8_t* rgb, int width, int height, hemf_image** image);
int hemf_image_width(const hemf_image* image);
int hemf_image_height(const hemf_image* image);
const uint8_t* hemf_image_rgb(const hemf_image* image);
void hemf_image_free(hemf_image* image);

/* How an image becomes the network's input. */
typedef struct hemf_preprocess {
    int size;            /* height and width of the input */
    int squash;          /* 0: the centre of the resized image; 1: all of it, whatever its shape */
    int resize;          /* the shorter side before the crop */
    double mean[3];      /* of values in 0 to 1, per channel (RGB) */
    double deviation[3]; /* "std" in the manifest */
} hemf_preprocess;
/* size * size * 3 bytes */
hemf_status hemf_preprocess_pixels(const hemf_preprocess* preprocess, const hemf_image* image, uint8_t* pixels);
/* Pixels of `images` images, one after the other → images * 3 * size * size floats. */
hemf_status hemf_preprocess_normalize(const hemf_preprocess* preprocess, const uint8_t* pixels, size_t images,
                                      float* out);

/* FILE.json of an engine or ONNX file; the file's SHA-256 is checked. */
typedef struct hemf_manifest hemf_manifest;
hemf_status hemf_manifest_read(const char* path, hemf_manifest** manifest);
int hemf_manifest_classes(const hemf_manifest* manifest);
const char* hemf_manifest_class(const hemf_manifest* manifest, int index); /* null where there is none */
/* 1: raw pixels (N, H, W, 3) bytes; 0: normalized (N, 3, H, W) floats; see hemf_manifest_channels_last */
int hemf_manifest_takes_pixels(const hemf_manifest* manifest);
/* 1: the input is (N, H, W, 3); 0: it is (N, 3, H, W). Another exporter's file may have either order in either type. */
int hemf_manifest_channels_last(const hemf_manifest* manifest);
/* The only batch size that the file takes; 0 for any */
int hemf_manifest_batch(const hemf_manifest* manifest);
/* Height and width of the pixels that the file takes of an image */
int hemf_manifest_height(const hemf_manifest* manifest);
int hemf_manifest_width(const hemf_manifest* manifest);
/* 1: the file itself resizes whole images of that height and width, and takes no others; 0: it takes resized ones */
int hemf_manifest_resizes(const hemf_manifest* manifest);
/* What the file takes of an image, height * width * 3 bytes: resized and cropped, or the whole image; then one of
 * another size is HEMF_BAD_INPUT. */
hemf_status hemf_manifest_pixels(const hemf_manifest* manifest, const hemf_image* image, uint8_t* pixels);
/* How images are resized and normalized outside the file; HEMF_USAGE for a file that resizes them itself. */
hemf_status hemf_manifest_preprocess(const hemf_manifest* manifest, hemf_preprocess* preprocess);
void hemf_manifest_free(hemf_manifest* manifest);

/* Check whether an engine may run here, without running any of it. */
hemf_status hemf_preflight(const char* engine);

/* An engine that passed its preflight and its golden images. All calls are thread-safe. */
typedef struct hemf_model hemf_model;
hemf_status hemf_model_load(const char* engine, hemf_model** model);
const hemf_manifest* hemf_model_manifest(const hemf_model* model);
/* Network input of `images` images → images * classes logits; probabilities of a model that gives those. */
hemf_status hemf_model_infer(const hemf_model* model, const void* batch, int images, float* logits);
/* Pixels of `images` images, as hemf_manifest_pixels gives them → images * classes logits, or probabilities; normalized
 * and filled up as the engine needs. */
hemf_status hemf_model_logits(const hemf_model* model, const uint8_t* pixels, int images, float* logits);
/* Image files → count * classes probabilities. */
hemf_status hemf_model_predict(const hemf_model* model, const char* const* paths, int count, double* probabilities);
void hemf_model_free(hemf_model* model);

#ifdef __cplusplus
}
#endif

#endif
