#include "codec_jpeg.hpp"

// jpeglib.h needs FILE and size_t declared before it.
#include <csetjmp>
#include <cstdio>
//
#include <jerror.h>
#include <jpeglib.h>

namespace dpdt {
namespace {

constexpr int max_scans = 500;  // a progressive picture has about ten; thousands are an attack on time

struct Errors {
    jpeg_error_mgr base;  // first, so that libjpeg's pointer to it is a pointer to this
    jpeg_progress_mgr progress;
    std::jmp_buf jump;
    std::size_t warnings;
    bool truncated;
    bool too_many_scans;
    char message[JMSG_LENGTH_MAX];
};

Errors& errors_of(j_common_ptr info) { return *reinterpret_cast<Errors*>(info->err); }

[[noreturn]] void on_error(j_common_ptr info) {
    Errors& errors = errors_of(info);
    errors.base.format_message(info, errors.message);
    std::longjmp(errors.jump, 1);
}

// libjpeg goes on after a warning and fills what is missing with grey. Only those that leave pixels alone are accepted.
void on_message(j_common_ptr info, int level) {
    if (level >= 0) return;
    Errors& errors = errors_of(info);
    switch (errors.base.msg_code) {
        case JWRN_EXTRANEOUS_DATA:
        case JWRN_ADOBE_XFORM:
        case JWRN_JFIF_MAJOR:
        case JWRN_BOGUS_PROGRESSION:
            ++errors.warnings;
            return;
        case JWRN_JPEG_EOF:
            errors.truncated = true;
            break;
        default:
            break;
    }
    on_error(info);
}

void on_output(j_common_ptr) {}

void on_progress(j_common_ptr info) {
    if (reinterpret_cast<j_decompress_ptr>(info)->input_scan_number <= max_scans) return;
    errors_of(info).too_many_scans = true;
    on_error(info);
}

// Owns libjpeg's state. A longjmp out of libjpeg always lands in the method that called it, which holds nothing that
// needs a destructor and turns it into an exception.
class Decompressor {
  public:
    Decompressor() : info_(), errors_() {
        info_.err = jpeg_std_error(&errors_.base);
        errors_.base.error_exit = on_error;
        errors_.base.emit_message = on_message;
        errors_.base.output_message = on_output;
        if (setjmp(errors_.jump) != 0) fail();
        jpeg_create_decompress(&info_);
        errors_.progress.progress_monitor = on_progress;
        info_.progress = &errors_.progress;
    }
    ~Decompressor() { jpeg_destroy_decompress(&info_); }
    Decompressor(const Decompressor&) = delete;
    Decompressor& operator=(const Decompressor&) = delete;

    void read_header(const std::uint8_t* data, std::size_t size) {
        if (setjmp(errors_.jump) != 0) fail();
        jpeg_mem_src(&info_, data, size);
        jpeg_read_header(&info_, TRUE);
    }

    void start() {
        if (setjmp(errors_.jump) != 0) fail();
        jpeg_start_decompress(&info_);
    }

    void read_row(JSAMPROW row) {
        if (setjmp(errors_.jump) != 0) fail();
        jpeg_read_scanlines(&info_, &row, 1);
    }

    void read_rows(JSAMPROW rows, std::size_t width) {
        if (setjmp(errors_.jump) != 0) fail();
        while (info_.output_scanline < info_.output_height) {
            JSAMPROW row = rows + static_cast<std::size_t>(info_.output_scanline) * width;
            jpeg_read_scanlines(&info_, &row, 1);
        }
    }

    // Reads on to the end-of-image marker: a file that lacks it is truncated.
    void finish() {
        if (setjmp(errors_.jump) != 0) fail();
        jpeg_finish_decompress(&info_);
        if (info_.src->bytes_in_buffer > 0) ++errors_.warnings;
    }

    jpeg_decompress_struct& info() { return info_; }
    std::size_t warnings() const { return errors_.warnings; }

  private:
    [[noreturn]] void fail() const {
        const std::string detail = std::string(" (libjpeg: ") + errors_.message + ")";
        if (errors_.truncated) throw ImageError(Reason::truncated, "the JPEG data end too early" + detail);
        if (errors_.too_many_scans) throw ImageError(Reason::too_large, "a JPEG of more than 500 scans");
        switch (errors_.base.msg_code) {
            case JERR_BAD_PRECISION:
            case JERR_SOF_UNSUPPORTED:
            case JERR_ARITH_NOTIMPL:
            case JERR_CONVERSION_NOTIMPL:
            case JERR_CCIR601_NOTIMPL:
                throw ImageError(Reason::unsupported, "a kind of JPEG that is not supported" + detail);
            default:
                throw ImageError(Reason::unreadable, "damaged JPEG data" + detail);
        }
    }

    jpeg_decompress_struct info_;
    Errors errors_;
};

// One row of CMYK to gray: each ink darkens what is left of the light. Adobe's files store the inks inverted, which
// libjpeg hands over as they are.
void cmyk_to_gray(const std::uint8_t* row, std::uint8_t* out, std::size_t width, bool inverted) {
    for (std::size_t x = 0; x < width; ++x) {
        std::uint32_t light[4];
        for (std::size_t ink = 0; ink < 4; ++ink) light[ink] = inverted ? row[4 * x + ink] : 255U - row[4 * x + ink];
        const auto shade = [&](std::size_t ink) { return (light[ink] * light[3] + 127U) / 255U; };
        out[x] = gray<std::uint8_t>(shade(0), shade(1), shade(2));
    }
}

}  // namespace

Image decode_jpeg(const std::uint8_t* data, std::size_t size, std::size_t max_pixels) {
    Decompressor jpeg;
    jpeg.read_header(data, size);
    jpeg_decompress_struct& info = jpeg.info();
    check_size(info.image_height, info.image_width, max_pixels);
    const bool cmyk = info.jpeg_color_space == JCS_CMYK || info.jpeg_color_space == JCS_YCCK;
    info.out_color_space = cmyk ? JCS_CMYK : JCS_GRAYSCALE;
    info.dct_method = JDCT_ISLOW;
    const bool adobe = info.saw_Adobe_marker != 0;

    jpeg.start();
    Image image;
    image.set_size(info.image_height, info.image_width);
    image.bits = 8;
    if (info.saw_JFIF_marker != 0) image.pixel_aspect = pixel_aspect_of(info.X_density, info.Y_density);
    Samples<std::uint8_t> pixels(image.height * image.width);
    if (cmyk) {
        std::vector<std::uint8_t> row(4 * image.width);
        for (std::size_t y = 0; y < image.height; ++y) {
            jpeg.read_row(row.data());
            cmyk_to_gray(row.data(), pixels.data() + y * image.width, image.width, adobe);
        }
    } else {
        jpeg.read_rows(pixels.data(), image.width);
    }
    jpeg.finish();
    image.warnings = jpeg.warnings();
    image.pixels = std::move(pixels);
    return image;
}

std::string jpeg_version() {
#ifdef LIBJPEG_TURBO_VERSION
#define DPDT_TEXT(value) #value
#define DPDT_QUOTE(value) DPDT_TEXT(value)
    return "libjpeg-turbo " DPDT_QUOTE(LIBJPEG_TURBO_VERSION);
#undef DPDT_QUOTE
#undef DPDT_TEXT
#else
    return "libjpeg " + std::to_string(JPEG_LIB_VERSION);
#endif
}

}  // namespace dpdt
