// One frame of a DICOM file: its bytes, and what the header says about them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

#include "codec.hpp"

namespace dpdt {

enum class FrameCodec { plain, rle, jpeg, jpeg_lossless, jpeg_ls, jpeg2000 };

// What the header says. One sample a pixel.
struct FrameLayout {
    FrameCodec codec = FrameCodec::plain;
    std::size_t rows = 0;
    std::size_t columns = 0;
    int bits_allocated = 0;  // 8 or 16
    int bits_stored = 0;     // 1 to bits_allocated
    int high_bit = 0;        // bits_stored - 1 to bits_allocated - 1; of plain and RLE pixels
    bool is_signed = false;
    bool big_endian = false;  // of plain pixels
};

// Throws std::invalid_argument for an unknown name.
FrameCodec frame_codec_of(const std::string& name);

// The stored values. Signed ones are two's complement in the type of `pixels`; bits that do not belong to a value are
// cleared, or copies of its sign. A stream whose precision is not bits_stored, or whose signedness is not is_signed, is
// read as it is and then taken for what the header says, with a warning counted.
// Throws ImageError; std::invalid_argument if the layout is out of its ranges.
Image decode_frame(const std::uint8_t* data, std::size_t size, const FrameLayout& layout, const DecodeOptions& options);

// Names and versions of the libraries behind it.
std::map<std::string, std::string> frame_codec_versions();

}  // namespace dpdt
