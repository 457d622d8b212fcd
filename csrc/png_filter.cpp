#include "png_filter.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "png_filter_lanes.hpp"

namespace dpdt {
namespace {

enum Filter : std::uint8_t { none = 0, sub = 1, up = 2, average = 3, paeth = 4 };

std::uint8_t paeth_of(int left, int above, int corner) {
    const int to_left = std::abs(above - corner);
    const int to_above = std::abs(left - corner);
    const int to_corner = std::abs(left + above - 2 * corner);
    if (to_left <= to_above && to_left <= to_corner) return static_cast<std::uint8_t>(left);
    return static_cast<std::uint8_t>(to_above <= to_corner ? above : corner);
}

// One row with the size of a pixel known when compiled: its bytes are independent of each other.
template <std::size_t N>
void undo_row(Filter filter, const std::uint8_t* row, const std::uint8_t* above, std::uint8_t* out, std::size_t count) {
    std::array<std::uint8_t, N> left{};
    std::array<std::uint8_t, N> corner{};
    const auto each = [&](const auto& predict) {
        for (std::size_t x = 0; x < count; x += N) {
            for (std::size_t i = 0; i < N; ++i) {
                const std::uint8_t over = above[x + i];
                left[i] = static_cast<std::uint8_t>(row[x + i] + predict(left[i], over, corner[i]));
                corner[i] = over;
                out[x + i] = left[i];
            }
        }
    };
    switch (filter) {
        case none:
            std::memmove(out, row, count);
            return;
        case sub:
            return each([](int a, int, int) { return a; });
        case up:
            return each([](int, int b, int) { return b; });
        case average:
            return each([](int a, int b, int) { return (a + b) / 2; });
        case paeth:
            return each([](int a, int b, int c) { return paeth_of(a, b, c); });
    }
}

template <std::size_t N>
void undo_rows(const FilteredRows& rows, std::uint8_t* out) {
    const std::vector<std::uint8_t> zeros(rows.row_bytes);
    const std::uint8_t* above = zeros.data();
    for (std::size_t y = 0; y < rows.height; ++y, out += rows.row_bytes) {
        const std::uint8_t* const row = rows.row(y);
        undo_row<N>(static_cast<Filter>(row[0]), row + 1, above, out, rows.row_bytes);
        above = out;
    }
}

}  // namespace

bool has_valid_filters(const FilteredRows& rows) {
    for (std::size_t y = 0; y < rows.height; ++y) {
        if (*rows.row(y) > paeth) return false;
    }
    return true;
}

void undo_filters(const FilteredRows& rows, std::uint8_t* out) {
    switch (rows.pixel_bytes) {
        case 1:
            return undo_rows<1>(rows, out);
        case 2:
            return undo_rows<2>(rows, out);
        case 3:
            return undo_rows<3>(rows, out);
        case 4:
            return undo_rows<4>(rows, out);
        case 6:
            return undo_rows<6>(rows, out);
        default:
            return undo_rows<8>(rows, out);
    }
}

void undo_gray_filters(const FilteredRows& rows, std::uint8_t* out) {
#ifdef DPDT_FILTER_LANES
    undo_filters_in_lanes(rows, out);
#else
    undo_filters(rows, out);
    if (rows.pixel_bytes == 2) {
        for (std::size_t i = 0; i < rows.height * rows.row_bytes; i += 2) {
            const auto value = static_cast<std::uint16_t>(out[i] << 8 | out[i + 1]);
            std::memcpy(out + i, &value, 2);
        }
    }
#endif
}

}  // namespace dpdt
