// Undoing the filters of PNG rows.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dpdt {

// Rows as they are deflated: a byte with the filter's number, 0 to 4, and then the row's bytes.
// Source: W3C, Portable Network Graphics (second edition), section 9.
struct FilteredRows {
    const std::uint8_t* data;
    std::size_t height;
    std::size_t row_bytes;    // without the filter's number
    std::size_t pixel_bytes;  // 1 to 8; row_bytes is a multiple of it

    const std::uint8_t* row(std::size_t y) const { return data + y * (row_bytes + 1); }
};

// Whether all numbers are those of filters.
bool has_valid_filters(const FilteredRows& rows);

// Writes the rows' bytes, one row after the other. `out` may be rows.data itself.
// REQUIRES: has_valid_filters(rows).
void undo_filters(const FilteredRows& rows, std::uint8_t* out);

// The same for gray pictures, several times as fast: pixel_bytes is 1 or 2, and samples of 2 bytes are written in this
// machine's order.
void undo_gray_filters(const FilteredRows& rows, std::uint8_t* out);

}  // namespace dpdt
