#include "norms.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "pool.hpp"
#include "simd.hpp"

namespace dpdt {
namespace {

constexpr std::size_t lanes = 8;
constexpr std::size_t tile_rows = 8;
constexpr std::size_t tile_vectors = 2;
constexpr std::size_t tile_columns = tile_vectors * lanes;

// Vectors as GCC and Clang know them: split where the processor has shorter ones, the same results everywhere.
typedef double Reals __attribute__((vector_size(8 * lanes)));
typedef double LooseReals __attribute__((vector_size(8 * lanes), aligned(8), may_alias));  // anywhere in an array
typedef float LooseSingles __attribute__((vector_size(4 * lanes), aligned(4), may_alias));

using Doubles = std::vector<double>;

inline double not_negative(double value) { return value < 0 ? 0 : value; }  // NaN stays NaN

std::size_t padded(std::size_t count) { return (count + tile_columns - 1) / tile_columns * tile_columns; }

// The sum of the squares of a row, in four chains of eight lanes.
DPDT_WIDEST double sum_of_squares(const float* row, std::size_t length) {
    Reals sums[4] = {};
    std::size_t i = 0;
    for (; i + 4 * lanes <= length; i += 4 * lanes) {
        for (std::size_t chain = 0; chain < 4; ++chain) {
            const LooseSingles& part = *reinterpret_cast<const LooseSingles*>(row + i + chain * lanes);
            const Reals values = __builtin_convertvector(part, Reals);
            sums[chain] += values * values;
        }
    }
    double total = 0;
    for (; i < length; ++i) total += static_cast<double>(row[i]) * static_cast<double>(row[i]);
    const Reals sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    for (std::size_t lane = 0; lane < lanes; ++lane) total += sum[lane];
    return total;
}

// products[s * stride + t] = sum over k of columns[k * stride + s] * columns[k * stride + t], for t >= s at least;
// stride is a multiple of tile_columns.
DPDT_WIDEST void multiply_columns(const double* columns, std::size_t count, std::size_t stride, double* products) {
    for (std::size_t s = 0; s < stride; s += tile_rows) {
        for (std::size_t t = s / tile_columns * tile_columns; t < stride; t += tile_columns) {
            Reals sums[tile_rows][tile_vectors] = {};
            for (std::size_t k = 0; k < count; ++k) {
                const double* const row = columns + k * stride;
                const LooseReals* const right = reinterpret_cast<const LooseReals*>(row + t);
                for (std::size_t i = 0; i < tile_rows; ++i) {
                    for (std::size_t j = 0; j < tile_vectors; ++j) sums[i][j] += right[j] * row[s + i];
                }
            }
            for (std::size_t i = 0; i < tile_rows; ++i) {
                LooseReals* const out = reinterpret_cast<LooseReals*>(products + (s + i) * stride + t);
                for (std::size_t j = 0; j < tile_vectors; ++j) out[j] = sums[i][j];
            }
        }
    }
}

// Along one axis, place p meets pixel p * stride + offset: number p + shift of the pixels that leave the same rest.
struct Meeting {
    std::size_t rest;
    std::ptrdiff_t shift;
    std::size_t first;  // of the places that meet a pixel
    std::size_t end;

    Meeting(const KernelAxis& axis, std::size_t tap) {
        const auto stride = static_cast<std::ptrdiff_t>(axis.stride);
        const auto offset =
            static_cast<std::ptrdiff_t>(tap * axis.dilation) - static_cast<std::ptrdiff_t>(axis.padding);
        rest = static_cast<std::size_t>((offset % stride + stride) % stride);
        shift = (offset - static_cast<std::ptrdiff_t>(rest)) / stride;
        const std::size_t pixels = axis.input > rest ? (axis.input - rest + axis.stride - 1) / axis.stride : 0;
        first = static_cast<std::size_t>(std::max<std::ptrdiff_t>(0, -shift));
        const auto last =
            std::min(static_cast<std::ptrdiff_t>(axis.output), static_cast<std::ptrdiff_t>(pixels) - shift);
        end = std::max(first, static_cast<std::size_t>(std::max<std::ptrdiff_t>(0, last)));
    }
};

// One thread's work on one group of one image.
class WeightNorm {
  public:
    explicit WeightNorm(const ConvolutionShape& shape) : shape_(shape) {}

    double operator()(const float* x, const float* gy, double rounding) {
        const std::size_t places = shape_.rows.output * shape_.columns.output;
        const std::size_t stride = padded(places);
        add_patch_products(x, stride);
        columns_.assign(shape_.outputs * stride, 0);
        for (std::size_t o = 0; o < shape_.outputs; ++o) {
            std::copy_n(gy + o * places, places, columns_.begin() + static_cast<std::ptrdiff_t>(o * stride));
        }
        products_.resize(stride * stride);
        multiply_columns(columns_.data(), shape_.outputs, stride, products_.data());
        double half = 0;
        double diagonal = 0;
        double terms = 0;
        for (std::size_t s = 0; s < places; ++s) {
            const double* const patches = patches_.data() + s * stride;
            const double* const products = products_.data() + s * stride;
            const double square = patches[s] * products[s];
            diagonal += square;
            terms += std::sqrt(not_negative(square));
            for (std::size_t t = s + 1; t < places; ++t) half += patches[t] * products[t];
        }
        const double off = rounding * terms;
        return not_negative(diagonal + 2 * half) + off * off;
    }

  private:
    // patches_[s * stride + t], t >= s: the product of the patches at places s and t.
    void add_patch_products(const float* x, std::size_t stride) {
        patches_.assign(stride * stride, 0);
        for (std::size_t down = 0; down < shape_.rows.stride; ++down) {
            for (std::size_t right = 0; right < shape_.columns.stride; ++right) add_part(x, stride, down, right);
        }
    }

    // The pixels whose row and column leave these rests on division by the strides.
    void add_part(const float* x, std::size_t stride, std::size_t down, std::size_t right) {
        const std::size_t high = (shape_.rows.input + shape_.rows.stride - 1 - down) / shape_.rows.stride;
        const std::size_t wide = (shape_.columns.input + shape_.columns.stride - 1 - right) / shape_.columns.stride;
        const std::size_t pixels = padded(high * wide);
        bool multiplied = false;
        for (std::size_t row = 0; row < shape_.rows.kernel; ++row) {
            const Meeting vertical(shape_.rows, row);
            if (vertical.rest != down) continue;
            for (std::size_t column = 0; column < shape_.columns.kernel; ++column) {
                const Meeting horizontal(shape_.columns, column);
                if (horizontal.rest != right) continue;
                if (!multiplied) multiply_pixels(x, down, right, high, wide);
                multiplied = true;
                add_shifted(vertical, horizontal, stride, pixels, wide);
            }
        }
    }

    void multiply_pixels(const float* x, std::size_t down, std::size_t right, std::size_t high, std::size_t wide) {
        const std::size_t pixels = padded(high * wide);
        columns_.assign(shape_.channels * pixels, 0);
        double* out = columns_.data();
        for (std::size_t c = 0; c < shape_.channels; ++c, out += pixels) {
            for (std::size_t r = 0; r < high; ++r) {
                const std::size_t line = (c * shape_.rows.input + r * shape_.rows.stride + down) * shape_.columns.input;
                const float* const from = x + line + right;
                for (std::size_t i = 0; i < wide; ++i) out[r * wide + i] = from[i * shape_.columns.stride];
            }
        }
        products_.resize(pixels * pixels);
        multiply_columns(columns_.data(), shape_.channels, pixels, products_.data());
    }

    // A shift keeps the order of places: products above the diagonal are enough.
    void add_shifted(const Meeting& vertical, const Meeting& horizontal, std::size_t stride, std::size_t pixels,
                     std::size_t wide) {
        const auto pixel = [&](std::size_t row, std::size_t column) {
            return (static_cast<std::ptrdiff_t>(row) + vertical.shift) * static_cast<std::ptrdiff_t>(wide) +
                   static_cast<std::ptrdiff_t>(column) + horizontal.shift;
        };
        const std::size_t width = shape_.columns.output;
        for (std::size_t r = vertical.first; r < vertical.end; ++r) {
            for (std::size_t c = horizontal.first; c < horizontal.end; ++c) {
                double* const to = patches_.data() + (r * width + c) * stride;
                const double* const from = products_.data() + pixel(r, c) * static_cast<std::ptrdiff_t>(pixels);
                for (std::size_t row = r; row < vertical.end; ++row) {
                    const std::size_t first = row == r ? c : horizontal.first;
                    const double* const source = from + pixel(row, first);
                    double* const target = to + row * width + first;
                    for (std::size_t i = 0; i < horizontal.end - first; ++i) target[i] += source[i];
                }
            }
        }
    }

    const ConvolutionShape& shape_;
    Doubles columns_;
    Doubles products_;
    Doubles patches_;
};

}  // namespace

void add_squared_norms(const float* rows, std::size_t count, std::size_t length, double* out, std::size_t num_threads) {
    constexpr std::size_t worth_a_thread = 1 << 15;
    const auto task = [&](std::size_t i) { out[i] += sum_of_squares(rows + i * length, length); };
    share_out(count, count * length < worth_a_thread ? 1 : num_threads, task);
}

void weight_squared_norms(const ConvolutionShape& shape, const float* x, const float* gy, double rounding, double* out,
                          std::size_t num_threads) {
    const std::size_t x_size = shape.channels * shape.rows.input * shape.columns.input;
    const std::size_t gy_size = shape.outputs * shape.rows.output * shape.columns.output;
    share_out(shape.images, num_threads, [&](std::size_t image) {
        WeightNorm norm(shape);
        double total = 0;
        for (std::size_t group = image * shape.groups; group < (image + 1) * shape.groups; ++group) {
            total += norm(x + group * x_size, gy + group * gy_size, rounding);
        }
        out[image] = total;
    });
}

}  // namespace dpdt
