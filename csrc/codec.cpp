#include "codec.hpp"

#include <cctype>
#include <cstring>
#include <string>

#include "codec_jpeg.hpp"
#include "codec_jpeg2000.hpp"
#include "codec_png.hpp"
#include "codec_tiff.hpp"

namespace dpdt {
namespace {

bool starts_with(const std::uint8_t* data, std::size_t size, const char* magic, std::size_t length) {
    return size >= length && std::memcmp(data, magic, length) == 0;
}

// DICOM without the 128-byte preamble: it begins with a data element of group 0002 or 0008, either with an explicit
// VR (two capital letters) or with a short implicit length.
bool is_bare_dicom(const std::uint8_t* data, std::size_t size) {
    if (size < 12 || (data[0] != 2 && data[0] != 8) || data[1] != 0 || data[3] != 0) return false;
    const bool explicit_vr = std::isupper(data[4]) != 0 && std::isupper(data[5]) != 0;
    return explicit_vr || (data[6] == 0 && data[7] == 0);
}

struct Other {
    const char* magic;
    std::size_t length;
    std::size_t offset;
    const char* name;
};

// What is found in place of pictures, or is one of another kind.
constexpr Other others[] = {
    {"WEBP", 4, 8, "a WebP picture"},
    {"version https://git-lfs", 23, 0, "a Git LFS pointer: `git lfs pull` fetches the file itself"},
    {"GIF8", 4, 0, "a GIF picture"},
    {"BM", 2, 0, "a BMP picture"},
    {"\0\0\0\x0cJXL ", 8, 0, "a JPEG XL picture"},
    {"\xff\x0a", 2, 0, "a JPEG XL picture"},
    {"ftypheic", 8, 4, "a HEIC picture"},
    {"ftypavif", 8, 4, "an AVIF picture"},
    {"PK\3\4", 4, 0, "a ZIP archive"},
    {"\x1f\x8b", 2, 0, "a gzip archive"},
    {"%PDF", 4, 0, "a PDF document"},
};

// By the marker of its frame or of its presets (ITU-T T.87, C.1.1), behind any application's own segments.
bool is_jpeg_ls(const std::uint8_t* data, std::size_t size) {
    for (std::size_t place = 2; place + 4 <= size && data[place] == 0xFF;) {
        const std::uint8_t marker = data[place + 1];
        if (marker == 0xF7 || marker == 0xF8) return true;
        const bool before_frame = marker == 0xFE || (marker >= 0xE0 && marker <= 0xEF);
        if (!before_frame) return false;
        place += 2U + (std::size_t{data[place + 2]} << 8U | data[place + 3]);
    }
    return false;
}

// A page in place of a file: what a server answers that wants a login first.
bool is_html(const std::uint8_t* data, std::size_t size) {
    std::string text;
    for (std::size_t i = 0; i < size && text.size() < 9; ++i) {
        const bool before = text.empty() && (std::isspace(data[i]) != 0 || data[i] >= 0x80);  // or a byte order mark
        if (!before) text += static_cast<char>(std::tolower(data[i]));
    }
    return text == "<!doctype" || text.compare(0, 5, "<html") == 0;
}

std::string name_of(const std::uint8_t* data, std::size_t size) {
    for (const Other& other : others) {
        if (size < other.offset) continue;
        if (starts_with(data + other.offset, size - other.offset, other.magic, other.length)) return other.name;
    }
    return is_html(data, size) ? "an HTML page: the download answered with one" : "";
}

}  // namespace

Format detect_format(const std::uint8_t* data, std::size_t size) {
    if (starts_with(data, size, "\x89PNG\r\n\x1a\n", 8)) return Format::png;
    if (starts_with(data, size, "\xff\xd8\xff", 3)) return Format::jpeg;
    if (starts_with(data, size, "\0\0\0\x0cjP  ", 8)) return Format::jpeg2000;
    if (starts_with(data, size, "\xff\x4f\xff\x51", 4)) return Format::jpeg2000;
    if (size >= magic_bytes && std::memcmp(data + 128, "DICM", 4) == 0) return Format::dicom;
    for (const char* magic :
         {"II*\0", "MM\0*", "II+\0", "MM\0+"}) {  // behind DICOM, whose preamble may be a TIFF's head
        if (starts_with(data, size, magic, 4)) return Format::tiff;
    }
    if (is_bare_dicom(data, size)) return Format::dicom;
    return Format::unknown;
}

const char* format_name(Format format) {
    switch (format) {
        case Format::jpeg:
            return "jpeg";
        case Format::png:
            return "png";
        case Format::jpeg2000:
            return "jpeg2000";
        case Format::tiff:
            return "tiff";
        case Format::dicom:
            return "dicom";
        case Format::unknown:
            break;
    }
    return "unknown";
}

Image decode(const std::uint8_t* data, std::size_t size, std::size_t max_pixels) {
    if (size == 0) throw ImageError(Reason::empty, "the file has 0 bytes");
    switch (detect_format(data, size)) {
        case Format::jpeg:
            if (is_jpeg_ls(data, size)) {
                throw ImageError(Reason::unsupported,
                                 "no DICOM, PNG, JPEG, JPEG 2000 or TIFF file but a JPEG-LS picture");
            }
            return decode_jpeg(data, size, max_pixels);
        case Format::png:
            return decode_png(data, size, max_pixels);
        case Format::jpeg2000:
            return decode_bare_jpeg2000(data, size, max_pixels);
        case Format::tiff:
            return decode_tiff(data, size, max_pixels);
        case Format::dicom:
            throw ImageError(Reason::dicom, "a DICOM file: its pixels are read through pydicom");
        case Format::unknown:
            break;
    }
    const std::string name = name_of(data, size);
    if (name.empty()) {
        throw ImageError(Reason::unsupported,
                         "its first bytes are not those of a DICOM, PNG, JPEG, JPEG 2000 or TIFF file");
    }
    throw ImageError(Reason::unsupported, "no DICOM, PNG, JPEG, JPEG 2000 or TIFF file but " + name);
}

}  // namespace dpdt
