#include "resample_area.hpp"

#include <algorithm>
#include <numeric>

#include "simd.hpp"

namespace dpdt {
namespace {

// Source pixels of one output pixel: begin..end, of which the first and the last have weights of their own.
struct Span {
    std::uint32_t begin;
    std::uint32_t end;
    std::uint32_t first_weight;
    std::uint32_t last_weight;
};

struct Axis {
    std::uint32_t inner_weight;
    std::uint32_t total;  // sum of a span's weights
    std::vector<Span> spans;
};

// In units of 1/out of a source pixel, source pixel i covers [i * out, (i + 1) * out) and output pixel j covers
// [j * in, (j + 1) * in): all overlaps are integers.
Axis shrinking_axis(std::uint32_t in, std::uint32_t out) {
    const std::uint32_t divisor = std::gcd(in, out);
    const std::uint64_t length = in / divisor;
    const std::uint64_t step = out / divisor;
    Axis axis{static_cast<std::uint32_t>(step), static_cast<std::uint32_t>(length), {}};
    for (std::uint64_t j = 0; j < out; ++j) {
        const std::uint64_t low = j * length;
        const std::uint64_t high = low + length;
        const std::uint64_t begin = low / step;
        const std::uint64_t end = (high + step - 1) / step;
        const std::uint64_t first = std::min((begin + 1) * step, high) - low;
        const std::uint64_t last = end - begin == 1 ? 0 : high - (end - 1) * step;
        axis.spans.push_back({static_cast<std::uint32_t>(begin), static_cast<std::uint32_t>(end),
                              static_cast<std::uint32_t>(first), static_cast<std::uint32_t>(last)});
    }
    return axis;
}

// The centre of output pixel j lies at ((2j + 1) * in - out) / (2 * out), in source pixels; outside of the outermost
// centres the edge pixel is repeated.
Axis growing_axis(std::uint32_t in, std::uint32_t out) {
    const std::int64_t unit = 2 * static_cast<std::int64_t>(out);
    Axis axis{0, static_cast<std::uint32_t>(unit), {}};
    for (std::int64_t j = 0; j < out; ++j) {
        const std::int64_t last = static_cast<std::int64_t>(in - 1) * unit;
        const std::int64_t centre = std::clamp<std::int64_t>((2 * j + 1) * in - out, 0, last);
        const auto begin = static_cast<std::uint32_t>(centre / unit);
        const auto weight = static_cast<std::uint32_t>(centre % unit);
        const std::uint32_t count = weight == 0 ? 1 : 2;
        axis.spans.push_back({begin, begin + count, static_cast<std::uint32_t>(unit) - weight, weight});
    }
    return axis;
}

Axis make_axis(std::size_t in, std::size_t out) {
    const auto source = static_cast<std::uint32_t>(in);
    const auto target = static_cast<std::uint32_t>(out);
    return out <= in ? shrinking_axis(source, target) : growing_axis(source, target);
}

template <class T>
inline void add_row_loop(const T* __restrict row, std::uint32_t* __restrict sum, std::size_t width) {
    for (std::size_t x = 0; x < width; ++x) sum[x] += row[x];
}

template <class T>
inline void add_weighted_loop(const T* __restrict row, std::uint32_t* __restrict sum, std::size_t width,
                              std::uint32_t weight) {
    for (std::size_t x = 0; x < width; ++x) sum[x] += weight * row[x];
}

DPDT_WIDE void add_row(const std::uint8_t* row, std::uint32_t* sum, std::size_t width) {
    add_row_loop(row, sum, width);
}
DPDT_WIDE void add_row(const std::uint16_t* row, std::uint32_t* sum, std::size_t width) {
    add_row_loop(row, sum, width);
}
DPDT_WIDE void add_weighted(const std::uint8_t* row, std::uint32_t* sum, std::size_t width, std::uint32_t weight) {
    add_weighted_loop(row, sum, width, weight);
}
DPDT_WIDE void add_weighted(const std::uint16_t* row, std::uint32_t* sum, std::size_t width, std::uint32_t weight) {
    add_weighted_loop(row, sum, width, weight);
}
DPDT_WIDE void scale(std::uint32_t* sum, std::size_t width, std::uint32_t weight) {
    for (std::size_t x = 0; x < width; ++x) sum[x] *= weight;
}

// Weighted sum of a span's rows. Every partial sum is at most total * 65535 < 2^32.
template <class T>
void sum_rows(View<T> source, const Axis& axis, const Span& span, std::uint32_t* sum) {
    std::fill(sum, sum + source.width, 0U);
    if (span.end - span.begin > 2) {
        for (std::uint32_t y = span.begin + 1; y + 1 < span.end; ++y) add_row(source.row(y), sum, source.width);
        if (axis.inner_weight != 1) scale(sum, source.width, axis.inner_weight);
    }
    add_weighted(source.row(span.begin), sum, source.width, span.first_weight);
    if (span.last_weight != 0) add_weighted(source.row(span.end - 1), sum, source.width, span.last_weight);
}

std::uint64_t sum_columns(const std::uint32_t* sum, const Axis& axis, const Span& span) {
    std::uint64_t inner = 0;
    for (std::uint32_t x = span.begin + 1; x + 1 < span.end; ++x) inner += sum[x];
    return inner * axis.inner_weight + std::uint64_t{sum[span.begin]} * span.first_weight +
           std::uint64_t{sum[span.end - 1]} * span.last_weight;
}

// round(value / total), half up: by a reciprocal, whose estimate is off by one at most, and then made exact.
class Divider {
  public:
    explicit Divider(std::uint64_t total) : total_(total), inverse_(1.0 / static_cast<double>(total)) {}

    std::uint64_t operator()(std::uint64_t value) const {
        const std::uint64_t number = value + total_ / 2;
        const auto estimate =
            static_cast<std::int64_t>(static_cast<double>(static_cast<std::int64_t>(number)) * inverse_);
        const auto rest = static_cast<std::int64_t>(number) - estimate * static_cast<std::int64_t>(total_);
        const std::int64_t above = rest >= static_cast<std::int64_t>(total_) ? 1 : 0;
        const std::int64_t below = rest < 0 ? 1 : 0;
        return static_cast<std::uint64_t>(estimate + above - below);
    }

  private:
    std::uint64_t total_;
    double inverse_;
};

}  // namespace

template <class T>
void resample_area(View<T> source, T* out, std::size_t out_height, std::size_t out_width) {
    const Axis rows = make_axis(source.height, out_height);
    const Axis columns = make_axis(source.width, out_width);
    const Divider divide(std::uint64_t{rows.total} * columns.total);
    std::vector<std::uint32_t> sum(source.width);
    for (std::size_t y = 0; y < out_height; ++y) {
        sum_rows(source, rows, rows.spans[y], sum.data());
        T* const target = out + y * out_width;
        for (std::size_t x = 0; x < out_width; ++x) {
            target[x] = static_cast<T>(divide(sum_columns(sum.data(), columns, columns.spans[x])));
        }
    }
}

template void resample_area(View<std::uint8_t>, std::uint8_t*, std::size_t, std::size_t);
template void resample_area(View<std::uint16_t>, std::uint16_t*, std::size_t, std::size_t);

}  // namespace dpdt
