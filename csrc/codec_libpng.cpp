#include "codec_libpng.hpp"

#include <png.h>

#include <csetjmp>
#include <cstdio>
#include <cstring>

#include "png_chunks.hpp"

namespace dpdt {
namespace {

// What libpng's callbacks need to know.
struct Source {
    const std::uint8_t* data;
    std::size_t size;
    std::size_t position;
    std::size_t warnings;
    bool truncated;
    char message[256];
};

[[noreturn]] void on_error(png_structp png, png_const_charp message) {
    Source& source = *static_cast<Source*>(png_get_error_ptr(png));
    std::snprintf(source.message, sizeof(source.message), "%s", message);
    png_longjmp(png, 1);
}

void on_warning(png_structp png, png_const_charp) { ++static_cast<Source*>(png_get_error_ptr(png))->warnings; }

void on_read(png_structp png, png_bytep out, std::size_t count) {
    Source& source = *static_cast<Source*>(png_get_io_ptr(png));
    if (count > source.size - source.position) {
        source.truncated = true;
        png_error(png, "unexpected end of file");
    }
    std::memcpy(out, source.data + source.position, count);
    source.position += count;
}

// Owns libpng's state. A longjmp out of libpng always lands in the method that called it, which holds nothing that
// needs a destructor and turns it into an exception.
class Reader {
  public:
    Reader(const std::uint8_t* data, std::size_t size)
        : source_{data, size, 0, 0, false, {}},
          png_(png_create_read_struct(PNG_LIBPNG_VER_STRING, &source_, on_error, on_warning)),
          info_(png_ == nullptr ? nullptr : png_create_info_struct(png_)) {
        if (info_ == nullptr) {
            png_destroy_read_struct(&png_, nullptr, nullptr);
            throw std::bad_alloc();
        }
        png_set_read_fn(png_, &source_, on_read);
        png_set_user_limits(png_, PNG_UINT_31_MAX, PNG_UINT_31_MAX);  // check_size has the limits
    }
    ~Reader() { png_destroy_read_struct(&png_, &info_, nullptr); }
    Reader(const Reader&) = delete;
    Reader& operator=(const Reader&) = delete;

    void read_header() {
        if (setjmp(png_jmpbuf(png_)) != 0) fail();
        png_read_info(png_, info_);
    }

    // Asks for gray or RGB samples of 8 or 16 bits, without alpha, in this machine's byte order.
    void set_output() {
        if (setjmp(png_jmpbuf(png_)) != 0) fail();
        if (png_get_color_type(png_, info_) == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(png_);
        if (png_get_color_type(png_, info_) == PNG_COLOR_TYPE_GRAY) png_set_expand_gray_1_2_4_to_8(png_);
        png_set_strip_alpha(png_);
        if (png_get_bit_depth(png_, info_) == 16 && is_little_endian()) png_set_swap(png_);
        png_read_update_info(png_, info_);
    }

    void read_row(png_bytep row) {
        if (setjmp(png_jmpbuf(png_)) != 0) fail();
        png_read_row(png_, row, nullptr);
    }

    void finish() {
        if (setjmp(png_jmpbuf(png_)) != 0) fail();
        png_read_end(png_, nullptr);
        if (source_.position < source_.size) ++source_.warnings;
    }

    std::size_t height() const { return png_get_image_height(png_, info_); }
    std::size_t width() const { return png_get_image_width(png_, info_); }
    std::size_t channels() const { return png_get_channels(png_, info_); }
    std::size_t row_bytes() const { return png_get_rowbytes(png_, info_); }
    double pixel_aspect() const {
        png_uint_32 across = 0;
        png_uint_32 down = 0;
        int unit = 0;
        png_get_pHYs(png_, info_, &across, &down, &unit);
        return pixel_aspect_of(across, down);
    }
    int bits() const { return png_get_bit_depth(png_, info_); }
    bool interlaced() const { return png_get_interlace_type(png_, info_) != PNG_INTERLACE_NONE; }
    std::size_t warnings() const { return source_.warnings; }

  private:
    static bool is_little_endian() {
        const std::uint16_t one = 1;
        std::uint8_t first = 0;
        std::memcpy(&first, &one, 1);
        return first == 1;
    }

    [[noreturn]] void fail() const {
        const std::string detail = std::string(" (libpng: ") + source_.message + ")";
        if (source_.truncated) throw ImageError(Reason::truncated, "the PNG data end too early" + detail);
        throw ImageError(Reason::unreadable, "damaged PNG data" + detail);
    }

    Source source_;
    png_structp png_;
    png_infop info_;
};

template <class T>
void to_gray(const T* row, T* out, std::size_t width, std::size_t channels, std::size_t step) {
    for (std::size_t x = 0; x < width; ++x, out += step, row += channels) {
        *out = channels == 1 ? row[0] : gray<T>(row[0], row[1], row[2]);
    }
}

// The seven passes of Adam7 are small pictures; each one's pixels go to where they lie in the large one.
template <class T>
void read_passes(Reader& png, T* pixels, T* row) {
    const auto height = static_cast<png_uint_32>(png.height());
    const auto width = static_cast<png_uint_32>(png.width());
    for (int pass = 0; pass < PNG_INTERLACE_ADAM7_PASSES; ++pass) {
        const std::size_t columns = PNG_PASS_COLS(width, pass);
        const std::size_t rows = columns == 0 ? 0 : PNG_PASS_ROWS(height, pass);
        const std::size_t step = PNG_COL_FROM_PASS_COL(1U, pass) - PNG_COL_FROM_PASS_COL(0U, pass);
        for (std::size_t y = 0; y < rows; ++y) {
            png.read_row(reinterpret_cast<png_bytep>(row));
            const std::size_t to = PNG_ROW_FROM_PASS_ROW(y, pass) * width + PNG_COL_FROM_PASS_COL(0U, pass);
            to_gray(row, pixels + to, columns, png.channels(), step);
        }
    }
}

template <class T>
Samples<T> read_pixels(Reader& png) {
    const std::size_t height = png.height();
    const std::size_t width = png.width();
    const std::size_t channels = png.channels();
    if (png.row_bytes() != width * channels * sizeof(T)) {
        throw ImageError(Reason::unsupported, "an unexpected row length in PNG data");
    }
    Samples<T> pixels(height * width);
    Samples<T> row(width * channels);
    if (png.interlaced()) {
        read_passes(png, pixels.data(), row.data());
    } else if (channels == 1) {
        for (std::size_t y = 0; y < height; ++y) png.read_row(reinterpret_cast<png_bytep>(pixels.data() + y * width));
    } else {
        for (std::size_t y = 0; y < height; ++y) {
            png.read_row(reinterpret_cast<png_bytep>(row.data()));
            to_gray(row.data(), pixels.data() + y * width, width, channels, 1);
        }
    }
    return pixels;
}

}  // namespace

Image decode_libpng(const std::uint8_t* data, std::size_t size, std::size_t max_pixels) {
    Reader png(data, size);
    png.read_header();
    check_size(png.height(), png.width(), max_pixels);
    check_plausible(png.height(), png.width() * png.channels() * static_cast<std::size_t>(png.bits()), size);
    Image image;
    image.set_size(png.height(), png.width());
    image.bits = png.bits();
    image.pixel_aspect = png.pixel_aspect();
    png.set_output();
    if (image.bits == 16) {
        image.pixels = read_pixels<std::uint16_t>(png);
    } else {
        image.pixels = read_pixels<std::uint8_t>(png);
    }
    png.finish();
    image.warnings = png.warnings();
    return image;
}

std::string libpng_version() { return std::string("libpng ") + png_get_libpng_ver(nullptr); }

}  // namespace dpdt
