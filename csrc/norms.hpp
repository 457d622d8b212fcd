// Squared norms of the gradients of single images, in double precision, without copies in double precision.
#pragma once

#include <cstddef>

namespace dpdt {

// Adds to out[i] the sum of the squares of row i.
void add_squared_norms(const float* rows, std::size_t count, std::size_t length, double* out, std::size_t num_threads);

// One axis of a convolution: its input's and output's length, and how the kernel moves along it.
struct KernelAxis {
    std::size_t input;
    std::size_t output;
    std::size_t kernel;
    std::size_t stride;
    std::size_t padding;
    std::size_t dilation;
};

struct ConvolutionShape {
    std::size_t images;
    std::size_t groups;
    std::size_t channels;  // of a group, of the input
    std::size_t outputs;   // of a group
    KernelAxis rows;
    KernelAxis columns;
};

// out[i] = squared norm of image i's gradient of a convolution's weight, without that gradient: the sum over all pairs
// of places of (products of the output's gradients) (products of the input's patches), each patch product a sum of
// products of pixels over the kernel's shifts. Where the terms g_t x_t cancel, `rounding` times the sum of their norms
// is added, squared: what a float32 sum of them may be off.
//
// x: (images, groups * channels, rows.input, columns.input); gy: (images, groups * outputs, rows.output,
// columns.output); both in C order. Products of float32 numbers are exact in double precision, so a processor with
// fused multiply-add gives the same bits as one without.
void weight_squared_norms(const ConvolutionShape& shape, const float* x, const float* gy, double rounding, double* out,
                          std::size_t num_threads);

}  // namespace dpdt
