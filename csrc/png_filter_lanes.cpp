#include "png_filter_lanes.hpp"

#ifdef DPDT_FILTER_LANES

#include <emmintrin.h>

#include <algorithm>
#include <cstring>
#include <vector>

namespace dpdt {
namespace {

constexpr std::size_t lanes = 8;

using Square = __m128i[lanes];  // eight steps (or rows) of eight lanes of 16 bits

__m128i absolute(__m128i value) { return _mm_max_epi16(value, _mm_sub_epi16(_mm_setzero_si128(), value)); }

__m128i choose(__m128i mask, __m128i yes, __m128i no) {
    return _mm_xor_si128(no, _mm_and_si128(mask, _mm_xor_si128(yes, no)));
}

// What each lane's filter is, as masks.
struct Filters {
    __m128i sub;
    __m128i up;
    __m128i average;
    __m128i paeth;

    explicit Filters(__m128i numbers)
        : sub(_mm_cmpeq_epi16(numbers, _mm_set1_epi16(1))),
          up(_mm_cmpeq_epi16(numbers, _mm_set1_epi16(2))),
          average(_mm_cmpeq_epi16(numbers, _mm_set1_epi16(3))),
          paeth(_mm_cmpeq_epi16(numbers, _mm_set1_epi16(4))) {}
};

// The state of eight rows: bytes in lanes of 16 bits.
struct Chain {
    __m128i left = _mm_setzero_si128();
    __m128i corner = _mm_setzero_si128();

    // `first` holds the pixel above lane 0 in lane 0, and 0 elsewhere.
    __m128i step(const Filters& filters, __m128i raw, __m128i first) {
        const __m128i above = _mm_or_si128(_mm_slli_si128(left, 2), first);
        const __m128i rise = _mm_sub_epi16(above, corner);
        const __m128i run = _mm_sub_epi16(left, corner);
        const __m128i to_left = absolute(rise);
        const __m128i to_above = absolute(run);
        const __m128i nearest = _mm_min_epi16(_mm_min_epi16(to_left, to_above), absolute(_mm_add_epi16(rise, run)));
        const __m128i paeth =
            choose(_mm_cmpeq_epi16(nearest, to_left), left, choose(_mm_cmpeq_epi16(nearest, to_above), above, corner));
        const __m128i average = _mm_srli_epi16(_mm_add_epi16(left, above), 1);
        const __m128i simple = _mm_or_si128(_mm_and_si128(filters.sub, left), _mm_and_si128(filters.up, above));
        const __m128i mixed =
            _mm_or_si128(_mm_and_si128(filters.average, average), _mm_and_si128(filters.paeth, paeth));
        corner = above;
        left = _mm_and_si128(_mm_add_epi16(raw, _mm_or_si128(simple, mixed)), _mm_set1_epi16(255));
        return left;
    }
};

void transpose(Square& v) {
    Square a;
    Square b;
    for (std::size_t i = 0; i < 4; ++i) {
        a[2 * i] = _mm_unpacklo_epi16(v[i], v[i + 4]);
        a[2 * i + 1] = _mm_unpackhi_epi16(v[i], v[i + 4]);
    }
    for (std::size_t i = 0; i < 4; ++i) {
        b[2 * i] = _mm_unpacklo_epi16(a[i], a[i + 4]);
        b[2 * i + 1] = _mm_unpackhi_epi16(a[i], a[i + 4]);
    }
    for (std::size_t i = 0; i < 4; ++i) {
        v[2 * i] = _mm_unpacklo_epi16(b[i], b[i + 4]);
        v[2 * i + 1] = _mm_unpackhi_epi16(b[i], b[i + 4]);
    }
}

// Row k's samples from `rows + k * stride - k * sample_bytes` on, as lane k of eight steps.
template <std::size_t SampleBytes>
void load(const std::uint8_t* rows, std::size_t stride, Square& steps) {
    for (std::size_t k = 0; k < lanes; ++k) {
        const std::uint8_t* const row = rows + k * (stride - SampleBytes);
        if constexpr (SampleBytes == 2) {
            steps[k] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(row));
        } else {
            const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(row));
            steps[k] = _mm_unpacklo_epi8(eight, _mm_setzero_si128());
        }
    }
    transpose(steps);
}

template <std::size_t SampleBytes>
void store(Square& steps, std::uint8_t* rows, std::size_t stride) {
    transpose(steps);
    for (std::size_t k = 0; k < lanes; ++k) {
        std::uint8_t* const row = rows + k * (stride - SampleBytes);
        if constexpr (SampleBytes == 2) {
            _mm_storeu_si128(reinterpret_cast<__m128i*>(row), steps[k]);
        } else {
            _mm_storel_epi64(reinterpret_cast<__m128i*>(row), _mm_packus_epi16(steps[k], steps[k]));
        }
    }
}

__m128i lane0(__m128i value) { return _mm_and_si128(value, _mm_setr_epi16(-1, 0, 0, 0, 0, 0, 0, 0)); }

// Rows in work: row 0 is the one above them, zeros are left of all, and right of them is room for what the lanes that
// are ahead write there.
class Bench {
  public:
    Bench(std::size_t num_rows, std::size_t row_bytes)
        : num_rows_(num_rows), stride_(row_bytes + left_ + right_), bytes_((num_rows + 1) * stride_) {}

    std::uint8_t* row(std::size_t number) { return bytes_.data() + number * stride_ + left_; }
    std::size_t stride() const { return stride_; }
    std::size_t num_rows() const { return num_rows_; }

  private:
    static constexpr std::size_t left_ = 32;
    static constexpr std::size_t right_ = 96;
    std::size_t num_rows_;
    std::size_t stride_;
    std::vector<std::uint8_t> bytes_;
};

// Filters of eight rows; rows past the last one have none.
Filters filters_of(const FilteredRows& rows, std::size_t first) {
    alignas(16) std::int16_t numbers[lanes] = {};
    for (std::size_t k = 0; k < lanes && first + k < rows.height; ++k) numbers[k] = *rows.row(first + k);
    return Filters(_mm_load_si128(reinterpret_cast<const __m128i*>(numbers)));
}

// Two bytes a sample: the high bytes are one chain and the low ones another.
void undo_wide(const FilteredRows& rows, std::size_t first, Bench& bench) {
    const Filters filters = filters_of(rows, first);
    const __m128i low_byte = _mm_set1_epi16(255);
    Chain high;
    Chain low;
    for (std::size_t t = 0; t < rows.row_bytes / 2 + lanes - 1; t += lanes) {
        Square steps;
        load<2>(bench.row(1) + 2 * t, bench.stride(), steps);
        __m128i above = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bench.row(0) + 2 * t));
        for (__m128i& step : steps) {
            const __m128i over = lane0(above);
            const __m128i a = high.step(filters, _mm_and_si128(step, low_byte), _mm_and_si128(over, low_byte));
            const __m128i b = low.step(filters, _mm_srli_epi16(step, 8), _mm_srli_epi16(over, 8));
            step = _mm_or_si128(a, _mm_slli_epi16(b, 8));
            above = _mm_srli_si128(above, 2);
        }
        store<2>(steps, bench.row(1) + 2 * t, bench.stride());
    }
}

// One byte a sample: rows 1 to 8 and, sixteen columns behind them, rows 9 to 16.
void undo_narrow(const FilteredRows& rows, std::size_t first, Bench& bench) {
    constexpr std::size_t lag = 2 * lanes;
    const Filters filters[] = {filters_of(rows, first), filters_of(rows, first + lanes)};
    const std::size_t end = rows.row_bytes + lanes - 1;
    Chain ahead;
    Chain behind;
    const auto eight_above = [&](std::size_t row, std::size_t column) {
        const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(bench.row(row) + column));
        return _mm_unpacklo_epi8(eight, _mm_setzero_si128());
    };
    for (std::size_t t = 0; t < end + lag; t += lanes) {
        const bool both = t >= lag;
        const std::size_t late = both ? t - lag : 0;
        Square steps[2];
        load<1>(bench.row(1) + t, bench.stride(), steps[0]);
        load<1>(bench.row(1 + lanes) + late, bench.stride(), steps[1]);
        __m128i above = eight_above(0, t);
        __m128i above_late = eight_above(lanes, late);
        for (std::size_t s = 0; s < lanes; ++s) {
            steps[0][s] = ahead.step(filters[0], steps[0][s], lane0(above));
            steps[1][s] = behind.step(filters[1], steps[1][s], lane0(above_late));
            above = _mm_srli_si128(above, 2);
            above_late = _mm_srli_si128(above_late, 2);
        }
        store<1>(steps[0], bench.row(1) + t, bench.stride());
        if (both) {
            store<1>(steps[1], bench.row(1 + lanes) + late, bench.stride());
        } else {
            behind = Chain();
        }
    }
}

void copy_swapped(const std::uint8_t* source, std::size_t count, std::uint8_t* out) {
    std::size_t i = 0;
    for (; i + 16 <= count; i += 16) {
        const __m128i value = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + i));
        const __m128i swapped = _mm_or_si128(_mm_slli_epi16(value, 8), _mm_srli_epi16(value, 8));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), swapped);
    }
    for (; i < count; i += 2) {
        const std::uint8_t high = source[i];
        out[i] = source[i + 1];
        out[i + 1] = high;
    }
}

}  // namespace

void undo_filters_in_lanes(const FilteredRows& rows, std::uint8_t* out) {
    const bool wide = rows.pixel_bytes == 2;
    Bench bench(wide ? lanes : 2 * lanes, rows.row_bytes);
    for (std::size_t y = 0; y < rows.height; y += bench.num_rows()) {
        const std::size_t count = std::min(bench.num_rows(), rows.height - y);
        for (std::size_t k = 0; k < count; ++k) std::memcpy(bench.row(k + 1), rows.row(y + k) + 1, rows.row_bytes);
        wide ? undo_wide(rows, y, bench) : undo_narrow(rows, y, bench);
        for (std::size_t k = 0; k < count; ++k, out += rows.row_bytes) {
            if (wide) {
                copy_swapped(bench.row(k + 1), rows.row_bytes, out);
            } else {
                std::memcpy(out, bench.row(k + 1), rows.row_bytes);
            }
        }
        std::memcpy(bench.row(0), bench.row(bench.num_rows()), rows.row_bytes);
    }
}

}  // namespace dpdt

#endif
