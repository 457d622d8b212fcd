#include "reduced.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "resample_area.hpp"
#include "simd.hpp"

namespace dpdt {
namespace {

using Value = std::uint16_t;

constexpr double max_error = 255.0 * 255.0 / 31622.8;  // mean squared, of 8 bits: 45 dB

// How much of what the filters move is error: in the picture, and at the ends of its range, where the rounding of the
// wavelet's values comes to it (in levels of the file).
constexpr double median_weight = 0.8;
constexpr double mean_weight = 2.0;
constexpr double end_weight = 2.0;
constexpr double rounding = 0.4;

struct Rows {  // three neighbours
    const Value* above;
    const Value* here;
    const Value* below;
};

inline void sort(Value& a, Value& b) {
    const Value low = a < b ? a : b;
    b = a < b ? b : a;
    a = low;
}

// Source: N. Devillard, Fast median search: an ANSI C implementation (1998), after J. L. Smith.
inline Value median_of(Value a, Value b, Value c, Value d, Value e, Value f, Value g, Value h, Value i) {
    sort(b, c), sort(e, f), sort(h, i), sort(a, b), sort(d, e), sort(g, h);
    sort(b, c), sort(e, f), sort(h, i), sort(a, d), sort(f, i), sort(e, h);
    sort(d, g), sort(b, e), sort(c, f), sort(e, h), sort(e, c), sort(g, e);
    sort(e, c);
    return e;
}

DPDT_WIDE void median(const Rows& rows, Value* __restrict out, std::size_t end) {
    const Value *const a = rows.above, *const b = rows.here, *const c = rows.below;
    for (std::size_t x = 1; x < end; ++x) {
        out[x] = median_of(a[x - 1], a[x], a[x + 1], b[x - 1], b[x], b[x + 1], c[x - 1], c[x], c[x + 1]);
    }
}

DPDT_WIDE void mean(const Rows& rows, Value* __restrict out, std::size_t end) {
    const Value *const a = rows.above, *const b = rows.here, *const c = rows.below;
    for (std::size_t x = 1; x < end; ++x) {
        const std::uint32_t around = std::uint32_t{a[x]} + c[x] + b[x - 1] + b[x + 1];
        out[x] = static_cast<Value>((4U * b[x] + around + 4U) >> 3);
    }
}

// The pixels at the picture's edge stay as they are.
void filter_all(View<Value> source, Value* out, void (*filter)(const Rows&, Value*, std::size_t)) {
    for (std::size_t y = 0; y < source.height; ++y) {
        const Value* const row = source.row(y);
        Value* const target = out + y * source.width;
        if (y == 0 || y + 1 == source.height || source.width < 3) {
            std::copy(row, row + source.width, target);
            continue;
        }
        target[0] = row[0];
        target[source.width - 1] = row[source.width - 1];
        filter({source.row(y - 1), row, source.row(y + 1)}, target, source.width - 1);
    }
}

// As fine as 16 bits allow, so that the rounding of the results is no matter. Returns what a level of the file becomes.
template <class T>
Value take_finely(View<T> source, Value* out) {
    const std::size_t count = source.height * source.width;
    const std::uint32_t high = *std::max_element(source.data, source.data + count);
    int shift = 0;
    while (shift < 8 && (high << (shift + 1)) <= 65535U) ++shift;
    for (std::size_t i = 0; i < count; ++i) out[i] = static_cast<Value>(source.data[i] << shift);
    return static_cast<Value>(1U << shift);
}

struct Ends {
    double low;
    double high;
};

Ends ends_of(const Samples<Value>& values) {
    const auto [low, high] = std::minmax_element(values.begin(), values.end());
    return {static_cast<double>(*low), static_cast<double>(*high)};
}

// Mean of f(first, second) squared.
template <class F>
double mean_square(const Samples<Value>& first, const Samples<Value>& second, const F& f) {
    double sum = 0;
    for (std::size_t i = 0; i < first.size(); ++i) {
        const double value = f(static_cast<double>(first[i]), static_cast<double>(second[i]));
        sum += value * value;
    }
    return sum / static_cast<double>(first.size());
}

}  // namespace

template <class T>
bool is_faithful(View<T> source, std::size_t height, std::size_t width) {
    if (source.halvings == 0) return true;
    Samples<Value> fine(source.height * source.width);
    Samples<Value> filtered(fine.size());
    const double level = take_finely(source, fine.data());
    const View<Value> view(fine.data(), source.height, source.width, source.rows, source.columns);
    const View<Value> filtered_view(filtered.data(), source.height, source.width, source.rows, source.columns);
    Samples<Value> plain(height * width);
    Samples<Value> sharp(plain.size());
    Samples<Value> smooth(plain.size());
    resample_area(view, plain.data(), height, width);
    filter_all(view, filtered.data(), median);
    resample_area(filtered_view, sharp.data(), height, width);
    filter_all(view, filtered.data(), mean);
    resample_area(filtered_view, smooth.data(), height, width);

    const auto difference = [](double a, double b) { return a - b; };
    const Ends ends = ends_of(plain);
    const Ends sharp_ends = ends_of(sharp);
    const Ends smooth_ends = ends_of(smooth);
    const double range = ends.high - ends.low;
    if (range <= 0) return false;
    const auto moved = [&](double end, double one, double other) {
        return end_weight * (std::max(std::abs(end - one), std::abs(end - other)) + rounding * level);
    };
    const double low = moved(ends.low, sharp_ends.low, smooth_ends.low);
    const double high = moved(ends.high, sharp_ends.high, smooth_ends.high);
    // what moves with an end: a pixel by its distance from the other one
    const double above = mean_square(plain, plain, [&](double a, double) { return (a - ends.low) / range; });
    const double below = mean_square(plain, plain, [&](double a, double) { return (ends.high - a) / range; });
    const double error = median_weight * median_weight * mean_square(plain, sharp, difference) +
                         mean_weight * mean_weight * mean_square(plain, smooth, difference) + high * high * above +
                         low * low * below;
    return error * 255.0 * 255.0 < max_error * range * range;
}

template bool is_faithful(View<std::uint8_t>, std::size_t, std::size_t);
template bool is_faithful(View<std::uint16_t>, std::size_t, std::size_t);

}  // namespace dpdt
