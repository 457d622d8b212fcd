#include "codec_jpeg2000.hpp"

#include <openjpeg.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>

namespace dpdt {
namespace {

struct Source {
    const std::uint8_t* data;
    std::size_t size;
    std::size_t position;
    bool ended;  // more was asked for than there is
};

OPJ_SIZE_T on_read(void* buffer, OPJ_SIZE_T count, void* user) {
    Source& source = *static_cast<Source*>(user);
    const std::size_t given = std::min<std::size_t>(count, source.size - source.position);
    if (given < count) source.ended = true;
    if (given == 0) return static_cast<OPJ_SIZE_T>(-1);
    std::memcpy(buffer, source.data + source.position, given);
    source.position += given;
    return given;
}

OPJ_OFF_T on_skip(OPJ_OFF_T count, void* user) {
    Source& source = *static_cast<Source*>(user);
    if (count < 0) return -1;
    const auto left = static_cast<OPJ_OFF_T>(source.size - source.position);
    if (count > left) source.ended = true;
    const OPJ_OFF_T moved = std::min(count, left);
    source.position += static_cast<std::size_t>(moved);
    return moved;
}

OPJ_BOOL on_seek(OPJ_OFF_T position, void* user) {
    Source& source = *static_cast<Source*>(user);
    if (position < 0 || static_cast<std::size_t>(position) > source.size) return OPJ_FALSE;
    source.position = static_cast<std::size_t>(position);
    return OPJ_TRUE;
}

void on_error(const char* message, void* user) {
    std::string& text = *static_cast<std::string*>(user);
    if (!text.empty()) return;  // the first one says why, the later ones what else that broke
    text = message;
    while (!text.empty() && text.back() == '\n') text.pop_back();
}

// Owns OpenJPEG's state.
class Decompressor {
  public:
    Decompressor(const std::uint8_t* data, std::size_t size) : source_{data, size, 0, false} {
        const bool boxes = size >= 12 && std::memcmp(data + 4, "jP  ", 4) == 0;
        codec_.reset(opj_create_decompress(boxes ? OPJ_CODEC_JP2 : OPJ_CODEC_J2K));
        stream_.reset(opj_stream_create(std::min<std::size_t>(size, std::size_t{1} << 20), OPJ_TRUE));
        if (!codec_ || !stream_) throw std::bad_alloc();
        opj_set_error_handler(codec_.get(), on_error, &message_);
        opj_stream_set_user_data(stream_.get(), &source_, nullptr);
        opj_stream_set_user_data_length(stream_.get(), size);
        opj_stream_set_read_function(stream_.get(), on_read);
        opj_stream_set_skip_function(stream_.get(), on_skip);
        opj_stream_set_seek_function(stream_.get(), on_seek);
        opj_dparameters_t parameters;
        opj_set_default_decoder_parameters(&parameters);
        if (!opj_setup_decoder(codec_.get(), &parameters)) fail();
        if (!opj_decoder_set_strict_mode(codec_.get(), OPJ_TRUE)) fail();
    }

    const opj_image_t& read_header() {
        opj_image_t* image = nullptr;
        const bool good = opj_read_header(stream_.get(), codec_.get(), &image) != 0;
        image_.reset(image);
        if (!good || image == nullptr) fail();
        return *image;
    }

    // How often the picture was halved when it was made.
    unsigned num_halvings() const {
        opj_codestream_info_v2_t* info = opj_get_cstr_info(codec_.get());
        unsigned resolutions = 1;
        if (info != nullptr && info->m_default_tile_info.tccp_info != nullptr) {
            resolutions = info->m_default_tile_info.tccp_info[0].numresolutions;
        }
        opj_destroy_cstr_info(&info);
        return std::max(1U, resolutions) - 1;
    }

    opj_image_t& decode(unsigned halvings) {
        if (halvings > 0 && !opj_set_decoded_resolution_factor(codec_.get(), halvings)) fail();
        if (!opj_decode(codec_.get(), stream_.get(), image_.get())) fail();
        if (!opj_end_decompress(codec_.get(), stream_.get())) fail();
        return *image_;
    }

    // Without it something is missing, though perhaps not of the smaller picture that was asked for.
    bool has_end() const { return has_end_marker(source_.data, source_.size); }

  private:
    [[noreturn]] void fail() const {
        const std::string detail = " (OpenJPEG: " + (message_.empty() ? "no message" : message_) + ")";
        if (source_.ended || !has_end())
            throw ImageError(Reason::truncated, "the JPEG 2000 data end too early" + detail);
        throw ImageError(Reason::unreadable, "damaged JPEG 2000 data" + detail);
    }

    struct Destroy {
        void operator()(opj_codec_t* codec) const { opj_destroy_codec(codec); }
        void operator()(opj_image_t* image) const { opj_image_destroy(image); }
    };
    struct DestroyStream {
        void operator()(opj_stream_t* stream) const { opj_stream_destroy(stream); }
    };

    Source source_;
    std::string message_;
    std::unique_ptr<opj_codec_t, Destroy> codec_;
    std::unique_ptr<opj_stream_t, DestroyStream> stream_;
    std::unique_ptr<opj_image_t, Destroy> image_;
};

// The most halvings that leave enough, which is an eighth less than asked for: the wavelet's smaller pictures are
// smoother than libjpeg's (53 dB or more from the full picture where the target is 1.8 times smaller; measured on real
// radiographs).
unsigned halvings_for(std::size_t height, std::size_t width, unsigned most, const DecodeOptions& options) {
    constexpr std::size_t longest = 32767;  // longer grids would overflow the sums of resampling
    if (!options.reducible() || std::max(height, width) > longest) return 0;
    const auto enough = [&](unsigned halvings) {
        return 8 * (height >> halvings) >= 7 * options.min_height && 8 * (width >> halvings) >= 7 * options.min_width;
    };
    unsigned halvings = 0;
    while (halvings < most && enough(halvings + 1)) ++halvings;
    return halvings;
}

// The samples of the smaller picture are those of every 2^n-th pixel, smoothed: sample i lies on the centre of pixel
// 2^n * i. In units of half a pixel.
Grid grid_of(std::size_t full, unsigned halvings) {
    const std::int64_t pixel = std::int64_t{2} << halvings;
    return {1 - pixel / 2, pixel, 2 * static_cast<std::int64_t>(full)};
}

// OpenJPEG's 32 bits a sample are returned to the system piece by piece as they are read: ten megapixels are never
// there twice. The component's values are lost.
template <class T>
Samples<T> take_samples(const opj_image_comp_t& component, std::size_t count) {
    constexpr std::size_t piece = std::size_t{1} << 18;
    Samples<T> pixels(count);
    for (std::size_t start = 0; start < count; start += piece) {
        const std::size_t end = std::min(count, start + piece);
        for (std::size_t i = start; i < end; ++i) pixels[i] = static_cast<T>(component.data[i]);
        give_back(component.data + start, (end - start) * sizeof(*component.data));
    }
    return pixels;
}

}  // namespace

Image decode_jpeg2000(const std::uint8_t* data, std::size_t size, bool as_signed, const DecodeOptions& options) {
    Decompressor jpeg2000(data, size);
    const opj_image_t& header = jpeg2000.read_header();
    if (header.numcomps != 1) throw ImageError(Reason::unsupported, "JPEG 2000 of several components");
    const std::size_t full_height = header.y1 - header.y0;
    const std::size_t full_width = header.x1 - header.x0;
    check_size(full_height, full_width, options.max_pixels);
    const opj_image_comp_t& sampling = header.comps[0];
    if (sampling.dx != 1 || sampling.dy != 1) throw ImageError(Reason::unsupported, "JPEG 2000 with subsampling");
    if (sampling.prec > 16) throw ImageError(Reason::unsupported, "JPEG 2000 of more than 16 bits");

    const bool at_origin = header.x0 == 0 && header.y0 == 0;
    const unsigned most = at_origin ? jpeg2000.num_halvings() : 0;
    const unsigned halvings = halvings_for(full_height, full_width, std::min(most, options.max_halvings), options);
    free_kept_memory();
    opj_image_t& decoded = jpeg2000.decode(halvings);
    const opj_image_comp_t& component = decoded.comps[0];
    if (component.data == nullptr) throw ImageError(Reason::unreadable, "JPEG 2000 data without pixels");
    Image image;
    image.set_size(full_height, full_width);
    image.height = component.h;
    image.width = component.w;
    image.halvings = halvings;
    if (halvings > 0) {
        image.rows = grid_of(full_height, halvings);
        image.columns = grid_of(full_width, halvings);
    }
    image.bits = static_cast<int>(component.prec);
    if ((component.sgnd != 0) != as_signed) ++image.warnings;
    if (!jpeg2000.has_end()) ++image.warnings;
    const std::size_t count = image.height * image.width;
    if (image.bits <= 8) {
        image.pixels = take_samples<std::uint8_t>(component, count);
    } else {
        image.pixels = take_samples<std::uint16_t>(component, count);
    }
    return image;
}

Image decode_bare_jpeg2000(const std::uint8_t* data, std::size_t size, std::size_t max_pixels) {
    DecodeOptions options;
    options.max_pixels = max_pixels;
    if (Decompressor(data, size).read_header().comps[0].sgnd != 0) {
        throw ImageError(Reason::unsupported, "JPEG 2000 of signed samples without DICOM around it");
    }
    return decode_jpeg2000(data, size, false, options);
}

std::string jpeg2000_version() { return std::string("OpenJPEG ") + opj_version(); }

}  // namespace dpdt
