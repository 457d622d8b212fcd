#include "codec.hpp"

#include <cctype>
#include <cstring>

#include "codec_jpeg.hpp"
#include "codec_png.hpp"

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

}  // namespace

Format detect_format(const std::uint8_t* data, std::size_t size) {
    if (starts_with(data, size, "\x89PNG\r\n\x1a\n", 8)) return Format::png;
    if (starts_with(data, size, "\xff\xd8\xff", 3)) return Format::jpeg;
    if (size >= magic_bytes && std::memcmp(data + 128, "DICM", 4) == 0) return Format::dicom;
    if (is_bare_dicom(data, size)) return Format::dicom;
    return Format::unknown;
}

const char* format_name(Format format) {
    switch (format) {
        case Format::jpeg:
            return "jpeg";
        case Format::png:
            return "png";
        case Format::dicom:
            return "dicom";
        case Format::unknown:
            break;
    }
    return "unknown";
}

Image decode(const std::uint8_t* data, std::size_t size, const DecodeOptions& options) {
    if (size == 0) throw ImageError(Reason::empty, "the file has 0 bytes");
    switch (detect_format(data, size)) {
        case Format::jpeg:
            return decode_jpeg(data, size, options);
        case Format::png:
            return decode_png(data, size, options);
        case Format::dicom:
            throw ImageError(Reason::dicom, "a DICOM file: its pixels are read through pydicom");
        case Format::unknown:
            break;
    }
    throw ImageError(Reason::unsupported, "its first bytes are not those of a JPEG, PNG or DICOM file");
}

}  // namespace dpdt
