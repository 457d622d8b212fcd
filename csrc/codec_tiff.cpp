#include "codec_tiff.hpp"

#include <tiffio.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>

namespace dpdt {
namespace {

struct Source {
    const std::uint8_t* data;
    toff_t size;
    toff_t position;
    bool ended;  // more was asked for than there is
};

tmsize_t on_read(thandle_t user, void* buffer, tmsize_t count) {
    Source& source = *static_cast<Source*>(user);
    const toff_t left = source.size - std::min(source.position, source.size);
    const toff_t given = std::min(static_cast<toff_t>(count), left);
    if (given < static_cast<toff_t>(count)) source.ended = true;
    std::memcpy(buffer, source.data + source.size - left, given);
    source.position += given;
    return static_cast<tmsize_t>(given);
}

tmsize_t on_write(thandle_t, void*, tmsize_t) { return 0; }

toff_t on_seek(thandle_t user, toff_t place, int from) {
    Source& source = *static_cast<Source*>(user);
    const toff_t start = from == SEEK_CUR ? source.position : from == SEEK_END ? source.size : 0;
    source.position = start + place;
    return source.position;
}

int on_close(thandle_t) { return 0; }

toff_t on_size(thandle_t user) { return static_cast<Source*>(user)->size; }

struct Close {
    void operator()(TIFF* tiff) const { TIFFClose(tiff); }
};
using Tiff = std::unique_ptr<TIFF, Close>;

[[noreturn]] void fail(const Source& source) {
    if (source.ended) throw ImageError(Reason::truncated, "the TIFF data end too early");
    throw ImageError(Reason::unreadable, "damaged TIFF data");
}

Tiff open(Source& source) {
    static const bool silent = [] {
        TIFFSetErrorHandler(nullptr);
        TIFFSetWarningHandler(nullptr);
        return true;
    }();
    static_cast<void>(silent);
    Tiff tiff(
        TIFFClientOpen("picture", "rm", &source, on_read, on_write, on_seek, on_close, on_size, nullptr, nullptr));
    if (!tiff) fail(source);
    return tiff;
}

template <class T>
T field(TIFF* tiff, std::uint32_t tag, T otherwise) {
    T value{};
    return TIFFGetFieldDefaulted(tiff, tag, &value) == 1 ? value : otherwise;
}

void check_kind(TIFF* tiff, std::uint16_t bits, std::uint16_t samples, std::uint16_t photometric) {
    const auto refuse = [](const std::string& what) {
        throw ImageError(Reason::unsupported, "a TIFF picture " + what);
    };
    if (TIFFNumberOfDirectories(tiff) != 1) refuse("of several pages");
    if (TIFFIsTiled(tiff) != 0) refuse("in tiles");
    if (bits != 8 && bits != 16) refuse("of " + std::to_string(bits) + " bits a sample");
    if (field<std::uint16_t>(tiff, TIFFTAG_SAMPLEFORMAT, SAMPLEFORMAT_UINT) != SAMPLEFORMAT_UINT) {
        refuse("of samples that are signed or no whole numbers");
    }
    const bool is_gray = photometric == PHOTOMETRIC_MINISBLACK || photometric == PHOTOMETRIC_MINISWHITE;
    if (!is_gray && photometric != PHOTOMETRIC_RGB) refuse("that is neither gray nor RGB");
    if (samples < (is_gray ? 1 : 3) || samples > (is_gray ? 2 : 4)) {
        refuse("of " + std::to_string(samples) + " samples a pixel");
    }
    if (samples > 1 && field<std::uint16_t>(tiff, TIFFTAG_PLANARCONFIG, PLANARCONFIG_CONTIG) != PLANARCONFIG_CONTIG) {
        refuse("in planes");
    }
}

template <class T>
Samples<T> read_pixels(TIFF* tiff, const Source& source, const Image& image, std::size_t samples, bool white_is_zero) {
    std::vector<T> line(image.width * samples);
    if (TIFFScanlineSize64(tiff) != line.size() * sizeof(T)) fail(source);
    Samples<T> pixels(image.height * image.width);
    for (std::size_t y = 0; y < image.height; ++y) {
        if (TIFFReadScanline(tiff, line.data(), static_cast<std::uint32_t>(y), 0) != 1) fail(source);
        T* const row = pixels.data() + y * image.width;
        for (std::size_t x = 0; x < image.width; ++x) {
            const T* const pixel = line.data() + x * samples;
            const T value = samples < 3 ? pixel[0] : gray<T>(pixel[0], pixel[1], pixel[2]);
            row[x] = white_is_zero ? static_cast<T>(std::numeric_limits<T>::max() - value) : value;
        }
    }
    return pixels;
}

}  // namespace

Image decode_tiff(const std::uint8_t* data, std::size_t size, std::size_t max_pixels) {
    Source source{data, size, 0, false};
    const Tiff tiff = open(source);
    const auto width = field<std::uint32_t>(tiff.get(), TIFFTAG_IMAGEWIDTH, 0);
    const auto height = field<std::uint32_t>(tiff.get(), TIFFTAG_IMAGELENGTH, 0);
    check_size(height, width, max_pixels);
    const auto bits = field<std::uint16_t>(tiff.get(), TIFFTAG_BITSPERSAMPLE, 1);
    const auto samples = field<std::uint16_t>(tiff.get(), TIFFTAG_SAMPLESPERPIXEL, 1);
    const auto photometric = field<std::uint16_t>(tiff.get(), TIFFTAG_PHOTOMETRIC, PHOTOMETRIC_MINISBLACK);
    check_kind(tiff.get(), bits, samples, photometric);
    Image image;
    image.set_size(height, width);
    image.bits = bits;
    const auto across = field<float>(tiff.get(), TIFFTAG_XRESOLUTION, 0);
    const auto down = field<float>(tiff.get(), TIFFTAG_YRESOLUTION, 0);
    if (across > 0 && down > 0 && across < 1e6F && down < 1e6F) {
        image.pixel_aspect =
            pixel_aspect_of(static_cast<std::uint32_t>(1000 * across), static_cast<std::uint32_t>(1000 * down));
    }
    const bool white_is_zero = photometric == PHOTOMETRIC_MINISWHITE;
    if (bits == 8) {
        image.pixels = read_pixels<std::uint8_t>(tiff.get(), source, image, samples, white_is_zero);
    } else {
        image.pixels = read_pixels<std::uint16_t>(tiff.get(), source, image, samples, white_is_zero);
    }
    return image;
}

std::string tiff_version() {
    const std::string text = TIFFGetVersion();  // "LIBTIFF, Version 4.5.0\nCopyright …"
    const std::size_t start = text.rfind(' ', text.find('\n'));
    return "libtiff " + text.substr(start + 1, text.find('\n') - start - 1);
}

}  // namespace dpdt
