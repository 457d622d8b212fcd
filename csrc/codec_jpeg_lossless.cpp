#include "codec_jpeg_lossless.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

namespace dpdt {
namespace {

enum Marker : std::uint8_t {
    start_of_frame_lossless = 0xC3,
    huffman_tables = 0xC4,
    first_restart = 0xD0,
    last_restart = 0xD7,
    start_of_image = 0xD8,
    end_of_image = 0xD9,
    start_of_scan = 0xDA,
    restart_interval = 0xDD,
};

[[noreturn]] void damaged(const std::string& what) {
    throw ImageError(Reason::unreadable, "damaged lossless JPEG data (" + what + ")");
}

[[noreturn]] void cut() { throw ImageError(Reason::truncated, "the lossless JPEG data end too early"); }

// Bytes of a marker segment or of the whole file, never read past the end.
class Bytes {
  public:
    Bytes(const std::uint8_t* data, std::size_t size) : next_(data), end_(data + size) {}

    std::size_t left() const { return static_cast<std::size_t>(end_ - next_); }
    const std::uint8_t* position() const { return next_; }

    std::uint8_t byte() {
        if (next_ == end_) cut();
        return *next_++;
    }
    std::size_t word() {
        const std::size_t high = byte();
        return high << 8 | byte();
    }
    Bytes take(std::size_t count) {
        if (count > left()) cut();
        next_ += count;
        return Bytes(next_ - count, count);
    }

  private:
    const std::uint8_t* next_;
    const std::uint8_t* end_;
};

// Length and value of each Huffman code, found by the next 16 bits.
class HuffmanTable {
  public:
    explicit HuffmanTable(Bytes& segment) : entries_(std::size_t{1} << 16) {
        std::array<std::uint8_t, 16> counts;
        for (std::uint8_t& count : counts) count = segment.byte();
        std::size_t code = 0;  // left-justified in 16 bits
        for (unsigned length = 1; length <= 16; ++length) {
            for (unsigned i = 0; i < counts[length - 1]; ++i) {
                const std::uint8_t value = segment.byte();
                const std::size_t span = std::size_t{1} << (16 - length);
                if (value > 16) damaged("a difference of more than 16 bits");
                if (code + span > entries_.size()) damaged("too many Huffman codes");
                const Entry entry{static_cast<std::uint8_t>(length), value};
                std::fill_n(entries_.begin() + static_cast<std::ptrdiff_t>(code), span, entry);
                code += span;
            }
        }
    }

    struct Entry {
        std::uint8_t length = 0;  // 0: no such code
        std::uint8_t value = 0;
    };
    Entry find(std::uint32_t next_bits) const { return entries_[next_bits]; }

  private:
    std::vector<Entry> entries_;
};

// The entropy-coded bits. Behind their end come zeros, which are counted.
class Bits {
  public:
    Bits(const std::uint8_t* data, const std::uint8_t* end) : next_(data), end_(end) {}

    std::int32_t difference(const HuffmanTable& table) {
        fill();
        const auto entry = table.find(peek(16));
        if (entry.length == 0) damaged("no such Huffman code");
        drop(entry.length);
        if (entry.value == 0) return 0;
        if (entry.value == 16) return 32768;
        const std::uint32_t bits = peek(entry.value);
        drop(entry.value);
        const std::uint32_t half = 1U << (entry.value - 1);
        const auto value = static_cast<std::int32_t>(bits);
        return bits < half ? value - static_cast<std::int32_t>(2 * half - 1) : value;
    }

    // Whether more bits were taken than there were.
    bool overrun() const { return invented_ > available_; }

    // Drops what is left before the next marker, and returns that marker.
    std::uint8_t marker() {
        available_ = invented_ = 0;
        buffer_ = 0;
        while (end_ - next_ >= 2 && !(next_[0] == 0xFF && next_[1] != 0 && next_[1] != 0xFF)) ++next_;
        if (end_ - next_ < 2) cut();
        next_ += 2;
        return next_[-1];
    }

    const std::uint8_t* position() const { return next_; }

  private:
    void fill() {  // to more than 32 bits: a code and its difference take 31 at most
        while (available_ <= 48) {
            std::uint8_t byte = 0;
            if (next_ != end_ && next_[0] != 0xFF) {
                byte = *next_++;
            } else if (end_ - next_ >= 2 && next_[1] == 0) {
                byte = 0xFF;
                next_ += 2;
            } else {
                invented_ += 8;
            }
            buffer_ |= std::uint64_t{byte} << (56 - available_);
            available_ += 8;
        }
    }
    std::uint32_t peek(unsigned count) const { return static_cast<std::uint32_t>(buffer_ >> (64 - count)); }
    void drop(unsigned count) {
        buffer_ <<= count;
        available_ -= count;
    }

    const std::uint8_t* next_;
    const std::uint8_t* end_;
    std::uint64_t buffer_ = 0;
    unsigned available_ = 0;  // bits in the buffer
    unsigned invented_ = 0;   // of them, and of those taken before, such as lie behind the end
};

struct Frame {
    int precision;
    std::size_t height;
    std::size_t width;
    std::uint8_t component;
};

struct Scan {
    int predictor;
    int shift;
    const HuffmanTable* table;
    std::size_t rows_per_restart;  // 0: none
};

// What the headers said before the pixels begin.
class Reader {
  public:
    Reader(const std::uint8_t* data, std::size_t size) : bytes_(data, size), end_(data + size) {}

    Image read(const DecodeOptions& options) {
        if (bytes_.word() != (0xFF00U | start_of_image)) damaged("no start of image");
        for (;;) {
            const std::uint8_t marker = next_marker();
            if (marker == end_of_image) damaged("no pixels");
            const std::size_t length = bytes_.word();
            if (length < 2) damaged("a segment without a length");
            Bytes segment = bytes_.take(length - 2);
            if (marker == start_of_scan) return read_scan(segment);
            read_segment(marker, segment, options);
        }
    }

  private:
    std::uint8_t next_marker() {
        if (bytes_.byte() != 0xFF) damaged("bytes between its segments");
        std::uint8_t marker = 0xFF;
        while (marker == 0xFF) marker = bytes_.byte();
        return marker;
    }

    void read_segment(std::uint8_t marker, Bytes& segment, const DecodeOptions& options) {
        if (marker == huffman_tables) {
            while (segment.left() > 0) {
                const std::uint8_t place = segment.byte();
                if (place > 3) damaged("a Huffman table of a class or number that does not exist");
                tables_[place].emplace(segment);
            }
        } else if (marker == restart_interval) {
            restart_pixels_ = segment.word();
        } else if (marker == start_of_frame_lossless) {
            read_frame(segment, options);
        } else if (marker >= 0xC0 && marker <= 0xCF && marker != 0xC8 && marker != 0xCC) {
            throw ImageError(Reason::unsupported, "a JPEG process that is not the lossless one with Huffman codes");
        }
    }

    void read_frame(Bytes& segment, const DecodeOptions& options) {
        Frame frame{};
        frame.precision = segment.byte();
        frame.height = segment.word();
        frame.width = segment.word();
        const std::uint8_t components = segment.byte();
        if (components != 1) throw ImageError(Reason::unsupported, "lossless JPEG of several components");
        frame.component = segment.byte();
        if (frame.precision < 2 || frame.precision > 16) damaged("a precision that is not 2 to 16");
        check_size(frame.height, frame.width, options.max_pixels);
        frame_ = frame;
    }

    Image read_scan(Bytes& segment) {
        if (!frame_) damaged("pixels before the frame's header");
        if (segment.byte() != 1 || segment.byte() != frame_->component) damaged("a scan of another component");
        const std::size_t table = segment.byte() >> 4;
        const int predictor = segment.byte();
        segment.byte();
        const int shift = segment.byte() & 15;
        if (table > 3 || !tables_[table]) damaged("no Huffman table");
        if (predictor < 1 || predictor > 7) damaged("a predictor that is not 1 to 7");
        if (shift >= frame_->precision) damaged("a point transform that leaves no bits");
        if (restart_pixels_ % frame_->width != 0) damaged("a restart interval that is not whole rows");
        // A pixel takes one bit at least.
        if (frame_->height * frame_->width / 8 > bytes_.left()) cut();
        const Scan scan{predictor, shift, &*tables_[table], restart_pixels_ / frame_->width};
        Image image;
        image.set_size(frame_->height, frame_->width);
        image.bits = frame_->precision;
        if (frame_->precision <= 8) {
            image.pixels = read_pixels<std::uint8_t>(scan);
        } else {
            image.pixels = read_pixels<std::uint16_t>(scan);
        }
        return image;
    }

    template <class T>
    Samples<T> read_pixels(const Scan& scan) {
        const std::size_t width = frame_->width;
        Samples<T> pixels(frame_->height * width);
        Bits bits(bytes_.position(), end_);
        std::uint8_t restart = first_restart;
        for (std::size_t y = 0; y < frame_->height; ++y) {
            const bool begins = y == 0 || (scan.rows_per_restart != 0 && y % scan.rows_per_restart == 0);
            if (begins && y > 0) {
                if (bits.marker() != restart) damaged("a restart marker out of order");
                restart =
                    restart == last_restart ? std::uint8_t{first_restart} : static_cast<std::uint8_t>(restart + 1);
            }
            read_row(bits, scan, begins, pixels.data() + y * width);
            if (bits.overrun()) cut();
        }
        if (bits.marker() != end_of_image) damaged("no end of image after the last pixel");
        if (scan.shift > 0) {
            for (T& pixel : pixels) pixel = static_cast<T>(pixel << scan.shift);
        }
        return pixels;
    }

    // Arithmetic is modulo 2^16, and the values fit T (or the data are damaged, and their high bits are dropped).
    template <class T>
    void read_row(Bits& bits, const Scan& scan, bool first, T* row) const {
        const std::size_t width = frame_->width;
        const int start = 1 << (frame_->precision - scan.shift - 1);
        row[0] =
            static_cast<T>((first ? start : row[-static_cast<std::ptrdiff_t>(width)]) + bits.difference(*scan.table));
        const T* const above = row - (first ? 0 : width);
        const auto each = [&](const auto& predict) {
            for (std::size_t x = 1; x < width; ++x) {
                row[x] = static_cast<T>(predict(x) + bits.difference(*scan.table));
            }
        };
        const auto left = [&](std::size_t x) { return int{row[x - 1]}; };
        const auto over = [&](std::size_t x) { return int{above[x]}; };
        const auto corner = [&](std::size_t x) { return int{above[x - 1]}; };
        switch (first ? 1 : scan.predictor) {
            case 1:
                return each(left);
            case 2:
                return each(over);
            case 3:
                return each(corner);
            case 4:
                return each([&](std::size_t x) { return left(x) + over(x) - corner(x); });
            case 5:
                return each([&](std::size_t x) { return left(x) + ((over(x) - corner(x)) >> 1); });
            case 6:
                return each([&](std::size_t x) { return over(x) + ((left(x) - corner(x)) >> 1); });
            default:
                return each([&](std::size_t x) { return (left(x) + over(x)) >> 1; });
        }
    }

    Bytes bytes_;
    const std::uint8_t* end_;
    std::array<std::optional<HuffmanTable>, 4> tables_;
    std::optional<Frame> frame_;
    std::size_t restart_pixels_ = 0;
};

}  // namespace

Image decode_jpeg_lossless(const std::uint8_t* data, std::size_t size, const DecodeOptions& options) {
    return Reader(data, size).read(options);
}

}  // namespace dpdt
