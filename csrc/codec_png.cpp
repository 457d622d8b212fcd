#include "codec_png.hpp"

#include <libdeflate.h>

#include <cstring>
#include <memory>
#include <new>

#include "codec_libpng.hpp"
#include "png_chunks.hpp"
#include "png_filter.hpp"

namespace dpdt {
namespace {

// Colour pictures above it are read row by row through libpng, so that a thread's memory stays bounded.
constexpr std::size_t max_colour_bytes = std::size_t{32} << 20;

struct FreeDecompressor {
    void operator()(libdeflate_decompressor* pointer) const { libdeflate_free_decompressor(pointer); }
};

// Inflates exactly `count` bytes, or tells that the data hold something else.
bool inflate(const Bytes& deflated, std::uint8_t* out, std::size_t count) {
    const std::unique_ptr<libdeflate_decompressor, FreeDecompressor> inflater(libdeflate_alloc_decompressor());
    if (!inflater) throw std::bad_alloc();
    return libdeflate_zlib_decompress(inflater.get(), deflated.data(), deflated.size(), out, count, nullptr) ==
           LIBDEFLATE_SUCCESS;
}

template <class T>
T sample(const std::uint8_t* bytes) {
    if constexpr (sizeof(T) == 1) return *bytes;
    return static_cast<T>(bytes[0] << 8 | bytes[sizeof(T) - 1]);
}

template <class T>
void to_gray(const std::uint8_t* bytes, std::size_t channels, T* out, std::size_t count) {
    const std::size_t step = channels * sizeof(T);
    for (std::size_t i = 0; i < count; ++i, bytes += step) {
        const T first = sample<T>(bytes);
        out[i] = channels < 3 ? first : gray<T>(first, sample<T>(bytes + sizeof(T)), sample<T>(bytes + 2 * sizeof(T)));
    }
}

// Pixels at the file's depth; none if something is wrong with the data.
template <class T>
bool read_pixels(const PlainPng& png, Samples<T>& pixels) {
    const std::size_t raw_bytes = png.height * (png.row_bytes() + 1);
    Samples<T> raw((raw_bytes + sizeof(T) - 1) / sizeof(T));  // of T: gray pixels take the place of their filtered rows
    auto* const bytes = reinterpret_cast<std::uint8_t*>(raw.data());
    const FilteredRows rows{bytes, png.height, png.row_bytes(), png.pixel_bytes()};
    if (!inflate(png.deflated, bytes, raw_bytes) || !has_valid_filters(rows)) return false;
    const std::size_t count = png.height * png.width;
    if (png.channels == 1) {
        undo_gray_filters(rows, bytes);
        raw.resize(count);
        pixels = std::move(raw);
    } else {
        undo_filters(rows, bytes);
        pixels.resize(count);
        to_gray(bytes, png.channels, pixels.data(), count);
    }
    return true;
}

bool decode_plain(const PlainPng& png, Image& image) {
    image.set_size(png.height, png.width);
    image.bits = static_cast<int>(8 * png.sample_bytes);
    image.warnings = png.rest ? 1 : 0;
    image.pixel_aspect = png.pixel_aspect;
    if (png.sample_bytes == 2) return read_pixels(png, image.pixels.emplace<Samples<std::uint16_t>>());
    return read_pixels(png, image.pixels.emplace<Samples<std::uint8_t>>());
}

}  // namespace

Image decode_png(const std::uint8_t* data, std::size_t size, std::size_t max_pixels) {
    if (const auto png = read_plain_png(data, size, max_pixels)) {
        const bool small = png->channels == 1 || png->height * png->row_bytes() <= max_colour_bytes;
        Image image;
        if (small && decode_plain(*png, image)) return image;
    }
    return decode_libpng(data, size, max_pixels);  // another kind, or something is wrong: libpng says what
}

std::string png_version() { return libpng_version(); }

std::string inflate_version() { return "libdeflate " LIBDEFLATE_VERSION_STRING; }

}  // namespace dpdt
