// WebP by libwebp, through its reader of whole files as Pillow uses it.
#include <memory>

#include <webp/demux.h>

#include "formats.hpp"

namespace hemf::formats {

namespace {

using Parts = std::unique_ptr<WebPDemuxer, void (*)(WebPDemuxer*)>;

int read_orientation(const WebPDemuxer* parts) {
    int orientation = 0;
    for (const char* kind : {"EXIF", "XMP "}) {
        WebPChunkIterator chunk;
        if (orientation == 0 && WebPDemuxGetChunk(parts, kind, 1, &chunk) != 0) {
            const Bytes content{chunk.chunk.bytes, chunk.chunk.size};
            orientation = kind[0] == 'E' ? exif_orientation(content) : xmp_orientation(content);
            WebPDemuxReleaseChunkIterator(&chunk);
        }
    }
    return orientation;
}

}  // namespace

Decoded webp(Bytes file) {
    const WebPData data{file.data, file.size};
    const Parts parts(WebPDemux(&data), WebPDemuxDelete);
    if (!parts) throw broken("it is not a whole WebP file");
    check_size(WebPDemuxGetI(parts.get(), WEBP_FF_CANVAS_WIDTH), WebPDemuxGetI(parts.get(), WEBP_FF_CANVAS_HEIGHT));
    const std::uint32_t count = WebPDemuxGetI(parts.get(), WEBP_FF_FRAME_COUNT);
    if (count > 1) throw frames(count);
    WebPAnimDecoderOptions options;
    if (WebPAnimDecoderOptionsInit(&options) == 0)
        throw broken("libwebp is not the one that this library was built with");
    options.color_mode = MODE_RGBA;
    const std::unique_ptr<WebPAnimDecoder, void (*)(WebPAnimDecoder*)> decoder(WebPAnimDecoderNew(&data, &options),
                                                                               WebPAnimDecoderDelete);
    WebPAnimInfo info;
    std::uint8_t* pixels = nullptr;
    int time = 0;
    if (!decoder || WebPAnimDecoderGetInfo(decoder.get(), &info) == 0 ||
        WebPAnimDecoderGetNext(decoder.get(), &pixels, &time) == 0)
        throw broken("failed to decode a frame of the WebP file");
    Decoded decoded{blank(info.canvas_width, info.canvas_height), read_orientation(parts.get())};
    const std::size_t area = static_cast<std::size_t>(info.canvas_width) * info.canvas_height;
    for (std::size_t place = 0; place < area; ++place)
        for (std::size_t channel = 0; channel < 3; ++channel)
            decoded.image.rgb[place * 3 + channel] = pixels[place * 4 + channel];
    return decoded;
}

}  // namespace hemf::formats
