#include "codec_jpeg_ls.hpp"

#include <charls/charls.h>

#include <memory>
#include <new>

namespace dpdt {
namespace {

struct Destroy {
    void operator()(charls_jpegls_decoder* decoder) const { charls_jpegls_decoder_destroy(decoder); }
};

struct Stream {
    const std::uint8_t* data;
    std::size_t size;
};

void check(charls_jpegls_errc code, const Stream& stream) {
    if (code == charls_jpegls_errc::success) return;
    const std::string detail = std::string(" (CharLS: ") + charls_get_error_message(code) + ")";
    switch (code) {
        case charls_jpegls_errc::not_enough_memory:
            throw std::bad_alloc();
        case charls_jpegls_errc::source_buffer_too_small:
            throw ImageError(Reason::truncated, "the JPEG-LS data end too early" + detail);
        case charls_jpegls_errc::parameter_value_not_supported:
        case charls_jpegls_errc::encoding_not_supported:
        case charls_jpegls_errc::color_transform_not_supported:
        case charls_jpegls_errc::bit_depth_for_transform_not_supported:
            throw ImageError(Reason::unsupported, "a kind of JPEG-LS that is not supported" + detail);
        default:
            if (!has_end_marker(stream.data, stream.size)) {
                throw ImageError(Reason::truncated, "the JPEG-LS data end too early" + detail);
            }
            throw ImageError(Reason::unreadable, "damaged JPEG-LS data" + detail);
    }
}

template <class T>
Samples<T> read_pixels(charls_jpegls_decoder* decoder, const Stream& stream, std::size_t count) {
    std::size_t bytes = 0;
    check(charls_jpegls_decoder_get_destination_size(decoder, 0, &bytes), stream);
    if (bytes != count * sizeof(T)) throw ImageError(Reason::unreadable, "JPEG-LS data of an unexpected size");
    Samples<T> pixels(count);
    check(charls_jpegls_decoder_decode_to_buffer(decoder, pixels.data(), bytes, 0), stream);
    return pixels;
}

}  // namespace

Image decode_jpeg_ls(const std::uint8_t* data, std::size_t size, const DecodeOptions& options) {
    const std::unique_ptr<charls_jpegls_decoder, Destroy> decoder(charls_jpegls_decoder_create());
    if (!decoder) throw std::bad_alloc();
    const Stream stream{data, size};
    check(charls_jpegls_decoder_set_source_buffer(decoder.get(), data, size), stream);
    check(charls_jpegls_decoder_read_header(decoder.get()), stream);
    charls_frame_info info{};
    check(charls_jpegls_decoder_get_frame_info(decoder.get(), &info), stream);
    check_size(info.height, info.width, options.max_pixels);
    if (info.component_count != 1) throw ImageError(Reason::unsupported, "JPEG-LS of several components");
    Image image;
    image.set_size(info.height, info.width);
    image.bits = info.bits_per_sample;
    const std::size_t count = image.height * image.width;
    if (image.bits <= 8) {
        image.pixels = read_pixels<std::uint8_t>(decoder.get(), stream, count);
    } else {
        image.pixels = read_pixels<std::uint16_t>(decoder.get(), stream, count);
    }
    return image;
}

std::string jpeg_ls_version() { return std::string("CharLS ") + charls_get_version_string(); }

}  // namespace dpdt
