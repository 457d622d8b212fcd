#include "codec_rle.hpp"

#include <algorithm>
#include <string>

namespace dpdt {
namespace {

constexpr std::size_t header_bytes = 64;  // the number of segments and up to fifteen offsets

std::size_t little_endian(const std::uint8_t* bytes) {
    return std::size_t{bytes[0]} | std::size_t{bytes[1]} << 8 | std::size_t{bytes[2]} << 16 |
           std::size_t{bytes[3]} << 24;
}

// Unpacks `count` bytes from one segment and gives each, in turn, to `write`.
template <class Write>
void unpack(const std::uint8_t* data, const std::uint8_t* end, std::size_t count, const Write& write) {
    std::size_t done = 0;
    while (done < count) {
        if (data == end) throw ImageError(Reason::truncated, "an RLE segment ends before its last pixel");
        const std::uint8_t control = *data++;
        if (control == 128) continue;
        const bool run = control > 128;
        const std::size_t wanted = run ? 257U - control : control + 1U;
        const auto left = static_cast<std::size_t>(end - data);
        if (left < (run ? 1 : wanted)) throw ImageError(Reason::truncated, "an RLE segment ends within a run");
        const std::size_t length = std::min(wanted, count - done);  // an even length may need a byte more
        for (std::size_t i = 0; i < length; ++i) write(done + i, data[run ? 0 : i]);
        data += run ? 1 : wanted;
        done += length;
    }
}

template <class T>
Samples<T> read_segments(const std::uint8_t* data, std::size_t size, std::size_t count) {
    Samples<T> pixels(count);
    for (std::size_t segment = 0; segment < sizeof(T); ++segment) {
        const std::size_t start = little_endian(data + 4 + 4 * segment);
        const std::size_t next = segment + 1 < sizeof(T) ? little_endian(data + 8 + 4 * segment) : size;
        if (start < header_bytes || (segment + 1 < sizeof(T) && start > next)) {
            throw ImageError(Reason::unreadable, "damaged RLE data: a segment lies outside of the frame");
        }
        if (start > size || next > size) throw ImageError(Reason::truncated, "an RLE segment lies behind the end");
        const bool first = segment == 0;
        unpack(data + start, data + next, count, [&](std::size_t i, std::uint8_t byte) {
            pixels[i] = static_cast<T>(first ? byte : pixels[i] << 8 | byte);
        });
    }
    return pixels;
}

}  // namespace

Image decode_rle(const std::uint8_t* data, std::size_t size, std::size_t rows, std::size_t columns, int sample_bytes) {
    if (size < header_bytes) throw ImageError(Reason::truncated, "RLE data that end within their header");
    const std::size_t segments = little_endian(data);
    if (segments != static_cast<std::size_t>(sample_bytes)) {
        throw ImageError(Reason::unreadable, "damaged RLE data: " + std::to_string(segments) + " segments, expected " +
                                                 std::to_string(sample_bytes));
    }
    const std::size_t count = rows * columns;
    if (count / 128 > size) throw ImageError(Reason::truncated, "RLE data too short for the header's pixels");
    Image image;
    image.set_size(rows, columns);
    image.bits = 8 * sample_bytes;
    if (sample_bytes == 1) {
        image.pixels = read_segments<std::uint8_t>(data, size, count);
    } else {
        image.pixels = read_segments<std::uint16_t>(data, size, count);
    }
    return image;
}

}  // namespace dpdt
