#include "png_chunks.hpp"

#include <libdeflate.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <string_view>

namespace dpdt {
namespace {

constexpr std::size_t signature_bytes = 8;
constexpr std::size_t around_chunk = 12;         // length, name and checksum
constexpr std::size_t max_deflate_ratio = 1100;  // deflate cannot do better than 1032 : 1

std::uint32_t big_endian(const std::uint8_t* bytes) {
    return std::uint32_t{bytes[0]} << 24 | std::uint32_t{bytes[1]} << 16 | std::uint32_t{bytes[2]} << 8 | bytes[3];
}

struct Chunk {
    std::string_view name;
    const std::uint8_t* data;
    std::size_t size;

    bool critical() const { return (name[0] & 0x20) == 0; }
};

// Walks over the chunks; stops at the first one that is cut short or has a wrong checksum.
class Chunks {
  public:
    Chunks(const std::uint8_t* data, std::size_t size) : next_(data + signature_bytes), end_(data + size) {}

    std::optional<Chunk> next() {
        const auto left = static_cast<std::size_t>(end_ - next_);
        if (left < around_chunk) return {};
        const std::size_t size = big_endian(next_);
        if (size > left - around_chunk) return {};
        const Chunk chunk{{reinterpret_cast<const char*>(next_) + 4, 4}, next_ + 8, size};
        if (libdeflate_crc32(0, next_ + 4, size + 4) != big_endian(chunk.data + size)) return {};
        next_ += size + around_chunk;
        return chunk;
    }

    bool at_end() const { return next_ == end_; }

  private:
    const std::uint8_t* next_;
    const std::uint8_t* end_;
};

std::optional<PlainPng> read_header(const Chunk& chunk) {
    constexpr std::size_t channels_of[] = {1, 0, 3, 0, 2, 0, 4};
    if (chunk.name != "IHDR" || chunk.size != 13) return {};
    const std::uint8_t depth = chunk.data[8];
    const std::uint8_t kind = chunk.data[9];
    const bool usual = chunk.data[10] == 0 && chunk.data[11] == 0 && chunk.data[12] == 0;
    if (!usual || (depth != 8 && depth != 16) || kind > 6 || channels_of[kind] == 0) return {};
    return PlainPng{big_endian(chunk.data + 4), big_endian(chunk.data), channels_of[kind], depth / 8U, {}, false, 1.0};
}

void append(Bytes& bytes, const Chunk& chunk) {
    if (chunk.size == 0) return;
    const std::size_t before = bytes.size();
    bytes.resize(before + chunk.size);  // within what is reserved
    std::memcpy(bytes.data() + before, chunk.data, chunk.size);
}

}  // namespace

void check_plausible(std::size_t height, std::size_t row_bits, std::size_t size) {
    const std::size_t raw = height * (row_bits / 8 + 1);
    if (raw / max_deflate_ratio > size) {
        throw ImageError(Reason::truncated, "the header promises " + std::to_string(raw) + " bytes of pixels, which " +
                                                std::to_string(size) + " bytes of PNG cannot hold");
    }
}

std::optional<PlainPng> read_plain_png(const std::uint8_t* data, std::size_t size, std::size_t max_pixels) {
    if (size < signature_bytes) return {};
    Chunks chunks(data, size);
    std::optional<Chunk> chunk = chunks.next();
    std::optional<PlainPng> png = chunk ? read_header(*chunk) : std::nullopt;
    if (!png) return {};
    check_size(png->height, png->width, max_pixels);
    check_plausible(png->height, 8 * png->row_bytes(), size);
    png->deflated.reserve(size);
    bool ended = false;  // a chunk came after the IDATs
    while ((chunk = chunks.next())) {
        if (chunk->name == "IDAT") {
            if (ended) return {};
            append(png->deflated, *chunk);
            continue;
        }
        ended = !png->deflated.empty();
        if (chunk->name == "pHYs" && chunk->size == 9 && !ended) {
            png->pixel_aspect = pixel_aspect_of(big_endian(chunk->data), big_endian(chunk->data + 4));
        }
        if (chunk->name == "IEND") {
            png->rest = !chunks.at_end();
            return png;
        }
        if (chunk->critical() && chunk->name != "PLTE") return {};  // a palette is but a suggestion in RGB files
    }
    return {};
}

}  // namespace dpdt
