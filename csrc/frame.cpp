#include "frame.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <type_traits>

#include "codec_jpeg.hpp"
#include "codec_jpeg2000.hpp"
#include "codec_jpeg_lossless.hpp"
#include "codec_jpeg_ls.hpp"
#include "codec_rle.hpp"

namespace dpdt {
namespace {

void check_layout(const FrameLayout& layout, const DecodeOptions& options) {
    const bool sizes = layout.bits_allocated == 8 || layout.bits_allocated == 16;
    const bool stored = layout.bits_stored >= 1 && layout.bits_stored <= layout.bits_allocated;
    const bool high = layout.high_bit >= layout.bits_stored - 1 && layout.high_bit < layout.bits_allocated;
    if (!sizes || !stored || !high) throw std::invalid_argument("bits: expected 8 or 16 allocated, stored within them");
    check_size(layout.rows, layout.columns, options.max_pixels);
}

template <class T>
Samples<T> plain_pixels(const std::uint8_t* data, std::size_t count, bool big_endian) {
    Samples<T> pixels(count);
    if constexpr (sizeof(T) == 1) {
        std::memcpy(pixels.data(), data, count);
    } else {
        const std::size_t high = big_endian ? 0 : 1;
        for (std::size_t i = 0; i < count; ++i) {
            pixels[i] = static_cast<T>(data[2 * i + high] << 8 | data[2 * i + (1 - high)]);
        }
    }
    return pixels;
}

Image decode_plain(const std::uint8_t* data, std::size_t size, const FrameLayout& layout) {
    const std::size_t count = layout.rows * layout.columns;
    const std::size_t expected = count * static_cast<std::size_t>(layout.bits_allocated / 8);
    if (size < expected) {
        throw ImageError(Reason::truncated,
                         std::to_string(size) + " bytes of pixels, expected " + std::to_string(expected));
    }
    Image image;
    image.set_size(layout.rows, layout.columns);
    if (layout.bits_allocated == 8) {
        image.pixels = plain_pixels<std::uint8_t>(data, count, false);
    } else {
        image.pixels = plain_pixels<std::uint16_t>(data, count, layout.big_endian);
    }
    return image;
}

// Keeps the bits low_bit … low_bit + bits - 1 of each value, and fills those above with zeros or the sign.
template <class T>
void take_bits(Samples<T>& pixels, int low_bit, int bits, bool is_signed) {
    const int width = static_cast<int>(8 * sizeof(T));
    if (bits == width) return;
    const int up = width - bits - low_bit;
    const int down = width - bits;
    if (is_signed) {
        using Signed = std::make_signed_t<T>;
        for (T& value : pixels) value = static_cast<T>(static_cast<Signed>(static_cast<T>(value << up)) >> down);
    } else {
        for (T& value : pixels) value = static_cast<T>(static_cast<T>(value << up) >> down);
    }
}

void check_same_size(const Image& image, const FrameLayout& layout) {
    if (image.file_height == layout.rows && image.file_width == layout.columns) return;
    const auto text = [](std::size_t width, std::size_t height) {
        return std::to_string(width) + "x" + std::to_string(height);
    };
    throw ImageError(Reason::unreadable, "the stream has " + text(image.file_width, image.file_height) +
                                             " pixels, the DICOM header says " + text(layout.columns, layout.rows));
}

// `bits` of the result: those of the stream where it says so, else those of the header.
Image decode_stream(const std::uint8_t* data, std::size_t size, const FrameLayout& layout,
                    const DecodeOptions& options) {
    switch (layout.codec) {
        case FrameCodec::plain:
            return decode_plain(data, size, layout);
        case FrameCodec::rle:
            return decode_rle(data, size, layout.rows, layout.columns, layout.bits_allocated / 8);
        case FrameCodec::jpeg:  // frames are padded to an even number of bytes
            return decode_jpeg(data, data[size - 1] == 0 ? size - 1 : size, options.max_pixels);
        case FrameCodec::jpeg_lossless:
            return decode_jpeg_lossless(data, size, options);
        case FrameCodec::jpeg_ls:
            return decode_jpeg_ls(data, size, options);
        case FrameCodec::jpeg2000:
            return decode_jpeg2000(data, size, layout.is_signed, options);
    }
    throw std::invalid_argument("codec");
}

}  // namespace

FrameCodec frame_codec_of(const std::string& name) {
    static const std::map<std::string, FrameCodec> codecs = {
        {"plain", FrameCodec::plain},     {"rle", FrameCodec::rle},
        {"jpeg", FrameCodec::jpeg},       {"jpeg_lossless", FrameCodec::jpeg_lossless},
        {"jpeg_ls", FrameCodec::jpeg_ls}, {"jpeg2000", FrameCodec::jpeg2000},
    };
    const auto found = codecs.find(name);
    if (found == codecs.end()) throw std::invalid_argument("codec: unknown name " + name);
    return found->second;
}

Image decode_frame(const std::uint8_t* data, std::size_t size, const FrameLayout& layout,
                   const DecodeOptions& options) {
    check_layout(layout, options);
    if (size == 0) throw ImageError(Reason::empty, "a frame of 0 bytes");
    Image image = decode_stream(data, size, layout, options);
    check_same_size(image, layout);
    const bool own_bits = layout.codec == FrameCodec::jpeg_ls || layout.codec == FrameCodec::jpeg2000;
    const bool coded = own_bits || layout.codec == FrameCodec::jpeg || layout.codec == FrameCodec::jpeg_lossless;
    if (coded && image.bits != layout.bits_stored) ++image.warnings;
    const int width = std::holds_alternative<Samples<std::uint8_t>>(image.pixels) ? 8 : 16;
    const int bits = own_bits ? image.bits : std::min(layout.bits_stored, width);
    const int low_bit = coded ? 0 : layout.high_bit + 1 - layout.bits_stored;
    std::visit([&](auto& pixels) { take_bits(pixels, low_bit, bits, layout.is_signed); }, image.pixels);
    image.bits = layout.bits_stored;
    return image;
}

std::map<std::string, std::string> frame_codec_versions() {
    return {{"jpeg2000", jpeg2000_version()}, {"jpeg_ls", jpeg_ls_version()}};
}

}  // namespace dpdt
