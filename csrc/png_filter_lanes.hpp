// The filters of gray PNG rows, eight or sixteen rows at once (x86-64).
#pragma once

#include "png_filter.hpp"

#if defined(__SSE2__) && defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define DPDT_FILTER_LANES

namespace dpdt {

// undo_gray_filters. A pixel needs its left neighbour and the three above, so a row cannot be vectorised; but row
// y + 1 can follow one pixel behind row y. Lane k of a vector is at column t - k of row k in step t: its left neighbour
// is its own last result, the pixel above is lane k - 1's last result, and the one above left is what was above before.
void undo_filters_in_lanes(const FilteredRows& rows, std::uint8_t* out);

}  // namespace dpdt

#endif
