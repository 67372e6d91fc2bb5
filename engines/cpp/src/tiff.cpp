// TIFF by libtiff, of the layouts that Pillow reads: grey, palette, RGB and CMYK of up to 16 bits, JPEG inside
// included.
#include <cstdarg>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include <tiffio.h>

#include "formats.hpp"

namespace hemf::formats {

namespace {

constexpr std::uint32_t most_samples = 6;

struct Source {
    Bytes file;
    std::size_t at = 0;
};

tmsize_t take(thandle_t handle, void* out, tmsize_t wanted) {
    auto* source = static_cast<Source*>(handle);
    const Bytes rest = source->file.from(source->at);
    const std::size_t count =
        static_cast<std::size_t>(wanted) < rest.size ? static_cast<std::size_t>(wanted) : rest.size;
    if (count > 0) std::memcpy(out, rest.data, count);
    source->at += count;
    return static_cast<tmsize_t>(count);
}

tmsize_t give(thandle_t, void*, tmsize_t) { return -1; }

toff_t seek(thandle_t handle, toff_t offset, int from) {
    auto* source = static_cast<Source*>(handle);
    const std::uint64_t begin = from == SEEK_SET ? 0 : from == SEEK_CUR ? source->at : source->file.size;
    source->at = static_cast<std::size_t>(begin + offset);
    return source->at;
}

int close(thandle_t) { return 0; }
toff_t size(thandle_t handle) { return static_cast<Source*>(handle)->file.size; }

#if TIFFLIB_VERSION >= 20221213
int quiet(TIFF*, void*, const char*, const char*, std::va_list) { return 1; }

TIFF* open(Source& source) {
    const std::unique_ptr<TIFFOpenOptions, void (*)(TIFFOpenOptions*)> options(TIFFOpenOptionsAlloc(),
                                                                               TIFFOpenOptionsFree);
    TIFFOpenOptionsSetErrorHandlerExtR(options.get(), quiet, nullptr);
    TIFFOpenOptionsSetWarningHandlerExtR(options.get(), quiet, nullptr);
    return TIFFClientOpenExt("image", "rm", &source, take, give, seek, close, size, nullptr, nullptr, options.get());
}
#else
TIFF* open(Source& source) {
    TIFFSetErrorHandler(nullptr);  // an older libtiff has but one for the whole program, which would print
    TIFFSetWarningHandler(nullptr);
    return TIFFClientOpen("image", "rm", &source, take, give, seek, close, size, nullptr, nullptr);
}
#endif

struct Layout {
    std::uint32_t width = 0, height = 0;
    std::uint16_t bits = 1, samples = 1, photometric = 0, planar = PLANARCONFIG_CONTIG, compression = 1, format = 1;
    std::uint16_t extra = 0;  // what the sample behind the colours is; 0 for none, or one without a meaning
    std::uint16_t* red = nullptr;
    std::uint16_t* green = nullptr;
    std::uint16_t* blue = nullptr;
};

Layout layout(TIFF* file) {
    Layout found;
    if (TIFFGetField(file, TIFFTAG_IMAGEWIDTH, &found.width) == 0 ||
        TIFFGetField(file, TIFFTAG_IMAGELENGTH, &found.height) == 0)
        throw broken("it doesn't tell its size");
    check_size(found.width, found.height);
    TIFFGetFieldDefaulted(file, TIFFTAG_BITSPERSAMPLE, &found.bits);
    TIFFGetFieldDefaulted(file, TIFFTAG_SAMPLESPERPIXEL, &found.samples);
    TIFFGetFieldDefaulted(file, TIFFTAG_PLANARCONFIG, &found.planar);
    TIFFGetFieldDefaulted(file, TIFFTAG_COMPRESSION, &found.compression);
    TIFFGetFieldDefaulted(file, TIFFTAG_SAMPLEFORMAT, &found.format);
    TIFFGetField(file, TIFFTAG_PHOTOMETRIC, &found.photometric);
    std::uint16_t count = 0;
    std::uint16_t* kinds = nullptr;
    if (TIFFGetField(file, TIFFTAG_EXTRASAMPLES, &count, &kinds) != 0 && count > 0) found.extra = kinds[0];
    if (found.photometric == PHOTOMETRIC_YCBCR && found.compression == COMPRESSION_JPEG) {
        TIFFSetField(file, TIFFTAG_JPEGCOLORMODE, JPEGCOLORMODE_RGB);  // libtiff converts as libjpeg does
        found.photometric = PHOTOMETRIC_RGB;
    }
    if (found.photometric == PHOTOMETRIC_PALETTE &&
        TIFFGetField(file, TIFFTAG_COLORMAP, &found.red, &found.green, &found.blue) == 0)
        throw broken("its palette is missing");
    const bool grey = found.photometric == PHOTOMETRIC_MINISBLACK || found.photometric == PHOTOMETRIC_MINISWHITE;
    const bool indexed = found.photometric == PHOTOMETRIC_PALETTE;
    const bool small = found.bits == 1 || found.bits == 2 || found.bits == 4;
    const bool colours = (found.photometric == PHOTOMETRIC_RGB && found.samples >= 3) ||
                         (found.photometric == PHOTOMETRIC_SEPARATED && found.samples >= 4);
    const bool known =
        found.format == SAMPLEFORMAT_UINT && found.samples >= 1 && found.samples <= most_samples &&
        (found.bits == 8 ||
         (found.bits == 16 && (colours || (found.photometric == PHOTOMETRIC_MINISBLACK && found.samples == 1))) ||
         (small && found.samples == 1 && (grey || indexed))) &&
        (grey || indexed ? found.samples <= 2 : colours);
    // White as zero is not inverted by Pillow where a second sample follows; one would not know what to show.
    const bool unclear = (found.samples == 2 && found.photometric == PHOTOMETRIC_MINISWHITE) ||
                         (found.samples == 2 && found.extra == EXTRASAMPLE_ASSOCALPHA);
    if (!known || unclear) {
        throw broken("unknown pixel mode (photometric " + std::to_string(found.photometric) + ", " +
                     std::to_string(found.samples) + " samples of " + std::to_string(found.bits) + " bits)");
    }
    return found;
}

// Every plane's rows, one behind the other.
struct Rows {
    std::size_t row_bytes = 0, plane_bytes = 0;
    std::vector<std::uint8_t> data;
};

void read_tiles(TIFF* file, const Layout& of, Rows& rows, std::uint16_t plane) {
    std::uint32_t width = 0, height = 0;
    TIFFGetField(file, TIFFTAG_TILEWIDTH, &width);
    TIFFGetField(file, TIFFTAG_TILELENGTH, &height);
    const tmsize_t whole = TIFFTileSize(file), line = TIFFTileRowSize(file);
    if (width == 0 || height == 0 || width % 8 != 0 || whole <= 0 || line <= 0 ||
        static_cast<std::size_t>(whole) > (std::size_t{1} << 30))
        throw broken("its tiles have no such size");
    std::vector<std::uint8_t> tile(static_cast<std::size_t>(whole));
    for (std::uint32_t y = 0; y < of.height; y += height) {
        for (std::uint32_t x = 0; x < of.width; x += width) {
            if (TIFFReadTile(file, tile.data(), x, y, 0, plane) < 0) throw truncated();
            const std::size_t offset = static_cast<std::size_t>(x / width) * static_cast<std::size_t>(line);
            if (offset >= rows.row_bytes) continue;
            const std::size_t room = rows.row_bytes - offset;
            const std::size_t count = room < static_cast<std::size_t>(line) ? room : static_cast<std::size_t>(line);
            for (std::uint32_t below = 0; below < height && y + below < of.height; ++below) {
                std::memcpy(
                    rows.data.data() + plane * rows.plane_bytes + (std::size_t{y} + below) * rows.row_bytes + offset,
                    tile.data() + static_cast<std::size_t>(below) * static_cast<std::size_t>(line), count);
            }
        }
    }
}

Rows read(TIFF* file, const Layout& of) {
    const bool separate = of.planar == PLANARCONFIG_SEPARATE && of.samples > 1;
    Rows rows;
    const std::size_t samples = separate ? 1 : of.samples;
    rows.row_bytes = (static_cast<std::size_t>(of.width) * of.bits * samples + 7) / 8;
    if (TIFFIsTiled(file) == 0 && static_cast<std::size_t>(TIFFScanlineSize(file)) != rows.row_bytes)
        throw broken("its rows have no such size");
    rows.plane_bytes = rows.row_bytes * of.height;
    const std::uint16_t planes = separate ? of.samples : std::uint16_t{1};
    rows.data.resize(rows.plane_bytes * planes);
    for (std::uint16_t plane = 0; plane < planes; ++plane) {
        if (TIFFIsTiled(file) != 0) {
            read_tiles(file, of, rows, plane);
            continue;
        }
        for (std::uint32_t y = 0; y < of.height; ++y) {
            if (TIFFReadScanline(file, rows.data.data() + plane * rows.plane_bytes + y * rows.row_bytes, y, plane) < 0)
                throw truncated();
        }
    }
    return rows;
}

// A sample of a pixel; 16-bit ones come in the machine's own order.
std::uint32_t sample(const Layout& of, const Rows& rows, std::size_t x, std::size_t y, std::size_t channel) {
    const bool separate = of.planar == PLANARCONFIG_SEPARATE && of.samples > 1;
    const std::uint8_t* row = rows.data.data() + (separate ? channel * rows.plane_bytes : 0) + y * rows.row_bytes;
    const std::size_t place = separate ? x : x * of.samples + channel;
    if (of.bits == 8) return row[place];
    if (of.bits == 16) {
        std::uint16_t value = 0;
        std::memcpy(&value, row + place * 2, 2);
        return value;
    }
    const std::size_t bit = place * of.bits;
    return row[bit / 8] >> (8 - of.bits - bit % 8) & ((1U << of.bits) - 1);
}

void put(const Layout& of, const Rows& rows, std::size_t x, std::size_t y, std::uint8_t* out) {
    const auto high = [&](std::size_t channel) {
        const std::uint32_t value = sample(of, rows, x, y, channel);
        return static_cast<std::uint8_t>(of.bits == 16 ? value >> 8 : value);
    };
    if (of.photometric == PHOTOMETRIC_PALETTE) {
        const std::uint32_t index = sample(of, rows, x, y, 0);
        out[0] = static_cast<std::uint8_t>(of.red[index] >> 8);
        out[1] = static_cast<std::uint8_t>(of.green[index] >> 8);
        out[2] = static_cast<std::uint8_t>(of.blue[index] >> 8);
    } else if (of.photometric == PHOTOMETRIC_RGB) {
        const bool premultiplied = of.samples > 3 && of.extra == EXTRASAMPLE_ASSOCALPHA;
        const std::uint32_t alpha = premultiplied ? high(3) : 255;
        for (std::size_t channel = 0; channel < 3; ++channel) {
            const std::uint32_t value = alpha == 0 ? 0 : high(channel) * 255U / alpha;
            out[channel] = static_cast<std::uint8_t>(value < 255 ? value : 255);
        }
    } else if (of.photometric == PHOTOMETRIC_SEPARATED) {
        const std::uint8_t cmyk[4] = {high(0), high(1), high(2), high(3)};
        cmyk_to_rgb(cmyk, out);
    } else {
        const std::uint32_t value = sample(of, rows, x, y, 0), most = (1U << of.bits) - 1;
        std::uint8_t grey = of.bits == 16 ? eight_bits(value) : static_cast<std::uint8_t>(value * (255 / most));
        if (of.photometric == PHOTOMETRIC_MINISWHITE) grey = static_cast<std::uint8_t>(255 - grey);
        out[0] = out[1] = out[2] = grey;
    }
}

int orientation(TIFF* file) {
    std::uint16_t value = 0;
    if (TIFFGetField(file, TIFFTAG_ORIENTATION, &value) != 0 && value != 0) return value <= 8 ? value : 1;
    std::uint32_t count = 0;
    void* packet = nullptr;
    if (TIFFGetField(file, TIFFTAG_XMLPACKET, &count, &packet) == 0 || packet == nullptr) return 0;
    return xmp_orientation({static_cast<const std::uint8_t*>(packet), count});
}

}  // namespace

Decoded tiff(Bytes file) {
    Source source{file, 0};
    const std::unique_ptr<TIFF, void (*)(TIFF*)> opened(open(source), TIFFClose);
    if (!opened) throw broken("it is not a whole TIFF file");
    const Layout of = layout(opened.get());
    const int turned = orientation(opened.get());
    const auto directories = TIFFNumberOfDirectories(opened.get());
    if (directories > 1) throw frames(directories);
    const Rows rows = read(opened.get(), of);
    Decoded decoded{blank(of.width, of.height), turned};
    std::uint8_t* out = decoded.image.rgb.data();
    for (std::size_t y = 0; y < of.height; ++y)
        for (std::size_t x = 0; x < of.width; ++x, out += 3) put(of, rows, x, y, out);
    return decoded;
}

}  // namespace hemf::formats
