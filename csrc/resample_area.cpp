#include "resample_area.hpp"

#include <algorithm>
#include <numeric>

#include "simd.hpp"

namespace dpdt {
namespace {

// Source pixels of one output pixel: begin..end; the first and the last have separate weights.
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

// In units of 1/out of the grid's own, source pixel i covers [origin + i * pixel, origin + (i + 1) * pixel) * out and
// output pixel j covers [j * length, (j + 1) * length): all overlaps are integers. The outermost source pixels reach to
// the picture's edges.
Axis shrinking_axis(const Grid& grid, std::size_t in, std::size_t out) {
    const auto targets = static_cast<std::int64_t>(out);
    const auto last_source = static_cast<std::int64_t>(in) - 1;
    const std::int64_t divisor = std::gcd(std::gcd(grid.length, grid.pixel * targets), grid.origin * targets);
    const std::int64_t length = grid.length / divisor;
    const std::int64_t step = grid.pixel * targets / divisor;
    const std::int64_t origin = grid.origin * targets / divisor;
    Axis axis{static_cast<std::uint32_t>(step), static_cast<std::uint32_t>(length), {}};
    for (std::int64_t j = 0; j < targets; ++j) {
        const std::int64_t low = j * length - origin;
        const std::int64_t high = low + length;
        const std::int64_t begin = std::min(low / step, last_source);
        const std::int64_t end = std::clamp((high + step - 1) / step, begin + 1, last_source + 1);
        const std::int64_t first = end - begin == 1 ? length : (begin + 1) * step - low;
        const std::int64_t last = end - begin == 1 ? 0 : high - (end - 1) * step;
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

Axis make_axis(const Grid& grid, std::size_t in, std::size_t out) {
    if (out <= in) return shrinking_axis(grid, in, out);
    return growing_axis(static_cast<std::uint32_t>(in), static_cast<std::uint32_t>(out));
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

// The spans of the columns with the same number of weights each, so that no branch depends on the column: what a span
// lacks has weight 0.
class Columns {
  public:
    Columns(const Axis& axis, std::size_t width) {
        for (const Span& span : axis.spans) reach_ = std::max<std::size_t>(reach_, span.end - span.begin);
        weights_.resize(axis.spans.size() * reach_);
        for (std::size_t x = 0; x < axis.spans.size(); ++x) {
            const Span& span = axis.spans[x];
            const std::size_t start = std::min<std::size_t>(span.begin, width - reach_);
            std::uint32_t* const weights = weights_.data() + x * reach_ + (span.begin - start);
            const std::size_t count = span.end - span.begin;
            std::fill(weights, weights + count, axis.inner_weight);
            if (count > 1) weights[count - 1] = span.last_weight;
            weights[0] = span.first_weight;
            starts_.push_back(static_cast<std::uint32_t>(start));
        }
    }

    // Gives the weighted sum of each output pixel's columns to `write(x, sum)`.
    template <class Write>
    void sum_all(const std::uint32_t* sum, const Write& write) const {
        switch (reach_) {
            case 1:
                return sum_each<1>(sum, write);
            case 2:
                return sum_each<2>(sum, write);
            case 3:
                return sum_each<3>(sum, write);
            case 4:
                return sum_each<4>(sum, write);
            case 5:
                return sum_each<5>(sum, write);
            case 6:
                return sum_each<6>(sum, write);
            case 7:
                return sum_each<7>(sum, write);
            case 8:
                return sum_each<8>(sum, write);
            default:
                return sum_each<0>(sum, write);
        }
    }

  private:
    template <std::size_t Reach, class Write>  // 0: known only now
    void sum_each(const std::uint32_t* sum, const Write& write) const {
        const std::size_t reach = Reach == 0 ? reach_ : Reach;
        const std::uint32_t* weights = weights_.data();
        for (std::size_t x = 0; x < starts_.size(); ++x, weights += reach) {
            const std::uint32_t* const values = sum + starts_[x];
            std::uint64_t total = 0;
            for (std::size_t k = 0; k < reach; ++k) total += std::uint64_t{values[k]} * weights[k];
            write(x, total);
        }
    }

    std::size_t reach_ = 1;
    std::vector<std::uint32_t> starts_;
    std::vector<std::uint32_t> weights_;
};

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

// Two source pixels an output pixel on both axes, as for 1024 pixels to 512: the same as below, at once.
template <class T>
inline void halve_loop(const std::uint32_t* __restrict sum, T* __restrict out, std::size_t out_width) {
    for (std::size_t x = 0; x < out_width; ++x) out[x] = static_cast<T>((sum[2 * x] + sum[2 * x + 1] + 2) >> 2);
}

DPDT_WIDE void halve(const std::uint32_t* sum, std::uint8_t* out, std::size_t out_width) {
    halve_loop(sum, out, out_width);
}
DPDT_WIDE void halve(const std::uint32_t* sum, std::uint16_t* out, std::size_t out_width) {
    halve_loop(sum, out, out_width);
}

}  // namespace

template <class T>
void resample_area(View<T> source, T* out, std::size_t out_height, std::size_t out_width) {
    const Axis rows = make_axis(source.rows, source.height, out_height);
    const Axis columns = make_axis(source.columns, source.width, out_width);
    const Divider divide(std::uint64_t{rows.total} * columns.total);
    const bool half = rows.total == 2 && columns.total == 2 && rows.inner_weight == 1 && columns.inner_weight == 1;
    const Columns sum_columns(columns, source.width);
    std::vector<std::uint32_t> sum(source.width);
    for (std::size_t y = 0; y < out_height; ++y) {
        sum_rows(source, rows, rows.spans[y], sum.data());
        T* const target = out + y * out_width;
        if (half) {
            halve(sum.data(), target, out_width);
            continue;
        }
        sum_columns.sum_all(sum.data(),
                            [&](std::size_t x, std::uint64_t value) { target[x] = static_cast<T>(divide(value)); });
    }
}

template void resample_area(View<std::uint8_t>, std::uint8_t*, std::size_t, std::size_t);
template void resample_area(View<std::uint16_t>, std::uint16_t*, std::size_t, std::size_t);

}  // namespace dpdt
