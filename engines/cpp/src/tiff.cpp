// TIFF by libtiff, of the layouts that Python reads: grey, palette, RGB and CMYK of up to 16 bits, JPEG inside
// included. hemf_export/images/tiff.py explains which page is the picture, which samples are read, and what
// MaxSampleValue means.
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
constexpr int most_bits = 16;
constexpr std::size_t most_pages = 10'000;

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
int ignore(TIFF*, void*, const char*, const char*, std::va_list) { return 1; }

TIFF* open(Source& source) {
    const std::unique_ptr<TIFFOpenOptions, void (*)(TIFFOpenOptions*)> options(TIFFOpenOptionsAlloc(),
                                                                               TIFFOpenOptionsFree);
    TIFFOpenOptionsSetErrorHandlerExtR(options.get(), ignore, nullptr);
    TIFFOpenOptionsSetWarningHandlerExtR(options.get(), ignore, nullptr);
    return TIFFClientOpenExt("image", "rm", &source, take, give, seek, close, size, nullptr, nullptr, options.get());
}
#else
TIFF* open(Source& source) {
    TIFFSetErrorHandler(nullptr);  // before 4.5 there is one for the whole program, which would print
    TIFFSetWarningHandler(nullptr);
    return TIFFClientOpen("image", "rm", &source, take, give, seek, close, size, nullptr, nullptr);
}
#endif

struct Layout {
    std::uint32_t width = 0, height = 0;
    std::uint16_t bits = 1, samples = 1, photometric = 0, planar = PLANARCONFIG_CONTIG, compression = 1, format = 1;
    std::uint16_t extra = 0;  // what the sample behind the colours is; 0 for none, or one without a meaning
    int stated = 0;           // bits that are used, where the file says so and they are fewer; else 0
    int used = 0;             // bits of white
    std::uint16_t* red = nullptr;
    std::uint16_t* green = nullptr;
    std::uint16_t* blue = nullptr;
};

Refused wrong_pixels(const Layout& of) {
    const char* kind = of.format == SAMPLEFORMAT_UINT              ? "uint"
                       : of.format == SAMPLEFORMAT_INT             ? "int"
                       : of.format == SAMPLEFORMAT_IEEEFP          ? "float"
                       : of.format == SAMPLEFORMAT_COMPLEXINT      ? "complex int"
                       : of.format == SAMPLEFORMAT_COMPLEXIEEEFP   ? "complex"
                                                                   : "unknown";
    return {" has " + std::string(kind) + std::to_string(of.bits) +
                " pixels; 8-bit or 16-bit unsigned are needed.",
            eight_or_sixteen};
}

Refused not_read(const Layout& of, const std::string& what) {
    return {" has " + std::to_string(of.bits) + " bits a sample and " + what + ": that is not read.",
            eight_or_sixteen};
}

int stated_bits(TIFF* file, int stored) {
    if (stored <= 8) return 0;  // the largest level of a dark picture, not a depth
    std::uint16_t number = 0;
    double largest = 0;
    if (TIFFGetField(file, TIFFTAG_MAXSAMPLEVALUE, &number) != 0)
        largest = number;
    else if (TIFFGetField(file, TIFFTAG_SMAXSAMPLEVALUE, &largest) == 0)
        return 0;
    for (int bits = 1; bits < stored && bits <= most_bits; ++bits)
        if (largest == static_cast<double>((1U << bits) - 1)) return bits;
    return 0;
}

bool is_grey(const Layout& of) {
    return of.samples == 1 &&
           (of.photometric == PHOTOMETRIC_MINISBLACK || of.photometric == PHOTOMETRIC_MINISWHITE);
}

// Samples that Pillow doesn't unpack, and Python does by itself.
bool is_packed(const Layout& of) {
    const bool ours = is_grey(of) || (of.photometric == PHOTOMETRIC_RGB && of.samples >= 3);
    const bool small = of.bits == 1 || of.bits == 2 || of.bits == 4;
    const bool known = of.bits == 8 || of.bits == 16 || (of.samples == 1 && small);
    return ours && (of.format == SAMPLEFORMAT_INT || !known);
}

void check_samples(const Layout& of) {
    const bool grey = is_grey(of), is_signed = of.format == SAMPLEFORMAT_INT;
    const bool integers = of.format == SAMPLEFORMAT_UINT ||
                          (is_signed && grey && (of.bits == 8 || of.bits == 16 || of.bits == 32));
    if (!integers || (of.bits > most_bits && !(grey && of.bits == 32))) throw wrong_pixels(of);
    if (is_signed && of.bits <= most_bits && of.stated == 0) throw wrong_pixels(of);
    const bool associated = of.samples > 3 && of.extra == EXTRASAMPLE_ASSOCALPHA;
    const bool separate = of.planar == PLANARCONFIG_SEPARATE;
    const bool colours = of.photometric == PHOTOMETRIC_RGB && of.samples >= 3;
    if (of.stated != 0 && colours && ((of.bits == 16 && separate) || associated))
        throw not_read(of, "a MaxSampleValue, with colours in planes or multiplied by alpha");
}

void check_packing(TIFF* file, const Layout& of) {
    if (!is_grey(of) && (of.samples > 3 || of.planar == PLANARCONFIG_SEPARATE))
        throw not_read(of, "colours in planes or with alpha");
    if (of.compression == COMPRESSION_JPEG || of.compression == COMPRESSION_OJPEG)
        throw not_read(of, "JPEG compression");
    const std::uint16_t of_bytes[] = {COMPRESSION_NONE,     COMPRESSION_LZW,  COMPRESSION_ADOBE_DEFLATE,
                                      COMPRESSION_DEFLATE,  COMPRESSION_LZMA, COMPRESSION_PACKBITS,
                                      std::uint16_t{50000}};  // Zstandard, which old headers don't name
    bool known = false;
    for (const std::uint16_t one : of_bytes) known = known || one == of.compression;
    if (!known) throw not_read(of, "the compression " + std::to_string(of.compression));
    std::uint16_t predictor = 1, fill_order = FILLORDER_MSB2LSB;
    const bool predicts = of.compression != COMPRESSION_NONE && of.compression != COMPRESSION_PACKBITS;
    if (predicts) TIFFGetField(file, TIFFTAG_PREDICTOR, &predictor);
    TIFFGetFieldDefaulted(file, TIFFTAG_FILLORDER, &fill_order);
    if (predictor > 1 || fill_order != FILLORDER_MSB2LSB)
        throw not_read(of, "a predictor, or its bits in reverse order");
    if (of.compression == COMPRESSION_NONE && of.bits > 8 && of.bits < 16 && TIFFIsTiled(file) == 0) {
        std::uint64_t held = 0;
        for (std::uint32_t strip = 0; strip < TIFFNumberOfStrips(file); ++strip)
            held += static_cast<std::uint64_t>(TIFFRawStripSize(file, strip));
        const std::uint64_t places = std::uint64_t{of.width} * of.samples;
        if (held == places * of.height * 2 && held > (places * of.bits + 7) / 8 * of.height)
            throw not_read(of, "two bytes for each");
    }
}

Layout layout(TIFF* file) {
    Layout of;
    if (TIFFGetField(file, TIFFTAG_IMAGEWIDTH, &of.width) == 0 ||
        TIFFGetField(file, TIFFTAG_IMAGELENGTH, &of.height) == 0)
        throw broken("it doesn't tell its size");
    check_size(of.width, of.height);
    TIFFGetFieldDefaulted(file, TIFFTAG_BITSPERSAMPLE, &of.bits);
    TIFFGetFieldDefaulted(file, TIFFTAG_SAMPLESPERPIXEL, &of.samples);
    TIFFGetFieldDefaulted(file, TIFFTAG_PLANARCONFIG, &of.planar);
    TIFFGetFieldDefaulted(file, TIFFTAG_COMPRESSION, &of.compression);
    TIFFGetFieldDefaulted(file, TIFFTAG_SAMPLEFORMAT, &of.format);
    const bool jpeg = of.compression == COMPRESSION_JPEG || of.compression == COMPRESSION_OJPEG;
    if (TIFFGetField(file, TIFFTAG_PHOTOMETRIC, &of.photometric) == 0 && !jpeg)
        throw Refused{" doesn't say whether black or white is zero.", eight_or_sixteen};
    of.stated = stated_bits(file, of.bits);
    of.used = of.bits < most_bits ? of.bits : most_bits;
    std::uint16_t count = 0;
    std::uint16_t* kinds = nullptr;
    if (TIFFGetField(file, TIFFTAG_EXTRASAMPLES, &count, &kinds) != 0 && count > 0) of.extra = kinds[0];
    if (of.photometric == PHOTOMETRIC_YCBCR && of.compression == COMPRESSION_JPEG) {
        TIFFSetField(file, TIFFTAG_JPEGCOLORMODE, JPEGCOLORMODE_RGB);  // libtiff converts as libjpeg does
        of.photometric = PHOTOMETRIC_RGB;
        of.stated = 0;
    }
    if (of.photometric == PHOTOMETRIC_PALETTE &&
        TIFFGetField(file, TIFFTAG_COLORMAP, &of.red, &of.green, &of.blue) == 0)
        throw broken("its palette is missing");
    check_samples(of);
    if (is_packed(of)) {
        check_packing(file, of);
        return of;
    }
    const bool grey = of.photometric == PHOTOMETRIC_MINISBLACK || of.photometric == PHOTOMETRIC_MINISWHITE;
    const bool indexed = of.photometric == PHOTOMETRIC_PALETTE;
    const bool small = of.bits == 1 || of.bits == 2 || of.bits == 4;
    const bool colours = (of.photometric == PHOTOMETRIC_RGB && of.samples >= 3) ||
                         (of.photometric == PHOTOMETRIC_SEPARATED && of.samples >= 4);
    const bool known = of.samples >= 1 && of.samples <= most_samples &&
                       (of.bits == 8 || (of.bits == 16 && (colours || is_grey(of))) ||
                        (small && of.samples == 1 && (grey || indexed))) &&
                       (grey || indexed ? of.samples <= 2 : colours);
    // White as zero is not inverted by Pillow where a second sample follows; one would not know what to show.
    const bool unclear = (of.samples == 2 && of.photometric == PHOTOMETRIC_MINISWHITE) ||
                         (of.samples == 2 && of.extra == EXTRASAMPLE_ASSOCALPHA);
    if (!known || unclear) {
        throw broken("unknown pixel mode (photometric " + std::to_string(of.photometric) + ", " +
                     std::to_string(of.samples) + " samples of " + std::to_string(of.bits) + " bits)");
    }
    return of;
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

// A sample of a pixel; those of 16 and 32 bits come in the machine's own order, negative ones as large ones.
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
    if (of.bits == 32) {
        std::uint32_t value = 0;
        std::memcpy(&value, row + place * 4, 4);
        return value;
    }
    const std::size_t bit = place * of.bits, first = bit / 8, behind = bit % 8 + of.bits;
    std::uint32_t value = 0;  // up to three bytes, of which the last may lie behind the row
    for (std::size_t byte = 0; byte < 3; ++byte)
        value = value << 8 | (byte * 8 < behind ? row[first + byte] : std::uint32_t{0});
    return value >> (24 - behind) & ((1U << of.bits) - 1);
}

// Settle what white is: what the file says, if its samples don't belie it.
void find_white(Layout& of, const Rows& rows) {
    const bool grey = is_grey(of), is_signed = of.format == SAMPLEFORMAT_INT;
    if (!grey && of.photometric != PHOTOMETRIC_RGB) return;
    if (of.stated == 0 && of.bits <= most_bits) return;
    std::uint32_t largest = 0;
    for (std::size_t y = 0; y < of.height; ++y) {
        for (std::size_t x = 0; x < of.width; ++x) {
            for (std::size_t channel = 0; channel < (grey ? 1U : 3U); ++channel) {
                const std::uint32_t value = sample(of, rows, x, y, channel);
                largest = value > largest ? value : largest;
            }
        }
    }
    const bool stated = of.stated != 0 && largest >> of.stated == 0;
    if (stated) of.used = of.stated;
    if (largest >> of.used != 0 || (is_signed && of.bits <= most_bits && !stated)) throw wrong_pixels(of);
}

void put(const Layout& of, const Rows& rows, std::size_t x, std::size_t y, std::uint8_t* out) {
    const auto high = [&](std::size_t channel) {
        const std::uint32_t value = sample(of, rows, x, y, channel);
        return of.used == 16 ? static_cast<std::uint8_t>(value >> 8) : eight_bits(value, of.used);
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
        std::uint8_t grey = eight_bits(sample(of, rows, x, y, 0), of.used);
        if (of.photometric == PHOTOMETRIC_MINISWHITE) grey = static_cast<std::uint8_t>(255 - grey);
        out[0] = out[1] = out[2] = grey;
    }
}

// The numbers of a file's directories, which are twice as long in BigTIFF.
struct Directories {
    Bytes file;
    bool big_endian = false, big = false;

    std::size_t width() const { return big ? 8 : 4; }

    std::uint64_t offset(std::size_t at) const {
        if (!big) return file.u32(at, big_endian);
        const std::uint64_t first = file.u32(at, big_endian), second = file.u32(at + 4, big_endian);
        return big_endian ? first << 32 | second : second << 32 | first;
    }

    // Whether an entry says that its page is a reduced copy or a mask of another.
    bool copy(std::size_t at) const {
        const std::uint32_t tag = file.u16(at, big_endian), kind = file.u16(at + 2, big_endian);
        if ((tag != TIFFTAG_SUBFILETYPE && tag != TIFFTAG_OSUBFILETYPE) || (kind != 3 && kind != 4)) return false;
        const std::size_t place = at + (big ? 12 : 8);
        const std::uint32_t value = kind == 3 ? file.u16(place, big_endian) : file.u32(place, big_endian);
        if (tag == TIFFTAG_OSUBFILETYPE) return value == OFILETYPE_REDUCEDIMAGE;
        return (value & (FILETYPE_REDUCEDIMAGE | FILETYPE_MASK)) != 0;
    }
};

struct Page {
    std::uint64_t offset = 0;
    bool copy = false;
};

std::vector<Page> pages(Bytes file) {
    const bool big = file.size > 3 && (file.data[2] == 43 || file.data[3] == 43);
    const Directories read{file, file.starts_with("MM", 2), big};
    const std::size_t counter = read.big ? 8 : 2, entry = read.big ? 20 : 12;
    std::vector<Page> all;
    if (!file.has(read.big ? 8 : 4, read.width())) throw truncated();
    for (std::uint64_t place = read.offset(read.big ? 8 : 4); place != 0;) {
        for (const Page& page : all)
            if (page.offset == place) return all;
        if (all.size() == most_pages) throw broken("more than " + std::to_string(most_pages) + " pages");
        if (place > file.size || !file.has(place, counter)) throw truncated();
        const std::uint64_t entries = read.big ? read.offset(place) : file.u16(place, read.big_endian);
        const std::size_t start = place + counter;
        if (entries > file.size / entry || !file.has(start, entries * entry + read.width())) throw truncated();
        Page page{place, false};
        for (std::size_t at = start; at < start + entries * entry; at += entry) page.copy = page.copy || read.copy(at);
        all.push_back(page);
        place = read.offset(start + entries * entry);
    }
    return all;
}

// Make the only page that is no copy of another the one that is read.
void choose(TIFF* file, Bytes content) {
    const std::vector<Page> all = pages(content);
    std::size_t originals = 0;
    const Page* chosen = all.empty() ? nullptr : &all.front();
    for (const Page& page : all) {
        if (!page.copy && originals++ == 0) chosen = &page;
    }
    const std::size_t count = originals == 0 ? all.size() : originals;
    if (count > 1) throw frames(count);
    if (chosen == nullptr) throw broken("it has no page");
    if (chosen != &all.front() && TIFFSetSubDirectory(file, chosen->offset) == 0)
        throw broken("its page can't be read");
    std::uint16_t below = 0;
    void* places = nullptr;
    if (originals == 0 && TIFFGetField(file, TIFFTAG_SUBIFD, &below, &places) != 0)
        throw Refused{" shows a preview; its picture is in a directory below, which is not read.",
                      eight_or_sixteen};
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
    if (file.starts_with("MM\0+", 4))
        throw Refused{" is a BigTIFF file with the highest byte first: that is not read.", eight_or_sixteen};
    Source source{file, 0};
    const std::unique_ptr<TIFF, void (*)(TIFF*)> opened(open(source), TIFFClose);
    if (!opened) throw broken("it is not a whole TIFF file");
    choose(opened.get(), file);
    Layout of = layout(opened.get());
    const int turned = orientation(opened.get());
    const Rows rows = read(opened.get(), of);
    find_white(of, rows);
    Decoded decoded{blank(of.width, of.height), turned};
    std::uint8_t* out = decoded.image.rgb.data();
    for (std::size_t y = 0; y < of.height; ++y)
        for (std::size_t x = 0; x < of.width; ++x, out += 3) put(of, rows, x, y, out);
    return decoded;
}

}  // namespace hemf::formats
