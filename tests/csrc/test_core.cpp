// Tests of the core that need no Python, to be run under the sanitizers: core_tests FILE...
// Each FILE is a good JPEG or PNG; its damaged copies must end in a picture or an ImageError, and never in anything
// else.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <stdexcept>

#include "codec.hpp"
#include "file.hpp"
#include "normalise.hpp"
#include "pipeline.hpp"
#include "pool.hpp"
#include "recipe.hpp"

namespace {

std::size_t checks = 0;

void check(bool good, const char* what, int line) {
    ++checks;
    if (good) return;
    std::fprintf(stderr, "line %d: %s\n", line, what);
    std::exit(1);
}

#define CHECK(condition) check(condition, #condition, __LINE__)

template <class T>
std::vector<T> noise(std::size_t count) {
    std::mt19937 random(7);
    std::vector<T> values(count);
    for (T& value : values) value = static_cast<T>(random());
    return values;
}

// A picture or an ImageError; anything else ends the program.
bool survives(const dpdt::Bytes& bytes) {
    try {
        const dpdt::Image image = dpdt::decode(bytes.data(), bytes.size(), 1'000'000);
        return image.height > 0 && image.width > 0;
    } catch (const dpdt::ImageError& error) {
        return error.reason() != dpdt::Reason::none && error.what()[0] != '\0';
    }
}

void test_damaged_copies(const char* path) {
    const dpdt::File file(path);
    const dpdt::Bytes good = file.read(file.size());
    CHECK(dpdt::decode(good.data(), good.size()).height > 0);
    for (std::size_t size = 0; size < good.size(); size += 1 + size / 64) {
        CHECK(survives({good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size)}));
    }
    std::mt19937 random(11);
    for (int round = 0; round < 1500; ++round) {
        dpdt::Bytes damaged = good;
        const std::size_t reach = round % 2 == 0 ? damaged.size() : std::min<std::size_t>(damaged.size(), 200);
        for (int change = 0; change <= round % 4; ++change) {
            damaged[random() % reach] = static_cast<std::uint8_t>(random());
        }
        CHECK(survives(damaged));
    }
}

template <class T>
void test_resampling_of_every_shape() {
    const std::size_t sides[] = {1, 2, 3, 7, 16, 17, 33, 64};
    for (const std::size_t height : sides) {
        for (const std::size_t width : sides) {
            const std::vector<T> pixels = noise<T>(height * width);
            for (const std::size_t rows : sides) {
                for (const std::size_t columns : sides) {
                    for (const auto how : {dpdt::Resampling::area, dpdt::Resampling::paper}) {
                        std::vector<T> out(rows * columns);
                        dpdt::resample(dpdt::View<T>{pixels.data(), height, width}, how, out.data(), rows, columns);
                        CHECK(rows != height || columns != width || out == pixels);  // the same size changes nothing
                    }
                }
            }
        }
    }
}

void test_largest_sums() {  // 65535 rows of the largest value: the 32-bit sums are just full
    const std::vector<std::uint16_t> column(65535, std::numeric_limits<std::uint16_t>::max());
    for (const std::size_t target : {1U, 2U, 4096U}) {
        std::vector<std::uint16_t> out(target);
        dpdt::resample(dpdt::View<std::uint16_t>{column.data(), 65535, 1}, dpdt::Resampling::area, out.data(), target,
                       1);
        CHECK(out.front() == 65535 && out.back() == 65535);
        dpdt::resample(dpdt::View<std::uint16_t>{column.data(), 1, 65535}, dpdt::Resampling::area, out.data(), 1,
                       target);
        CHECK(out.front() == 65535 && out.back() == 65535);
    }
}

void test_normalising() {
    const std::vector<std::uint16_t> pixels = noise<std::uint16_t>(1000);
    std::vector<std::uint8_t> out(1000);
    dpdt::stretch(dpdt::View<std::uint16_t>{pixels.data(), 10, 100}, out.data(), false, true);
    const std::vector<std::uint16_t> flat(1000, 7);
    bool refused = false;
    try {
        dpdt::stretch(dpdt::View<std::uint16_t>{flat.data(), 10, 100}, out.data(), false, false);
    } catch (const dpdt::ImageError& error) {
        refused = error.reason() == dpdt::Reason::constant;
    }
    CHECK(refused);
}

void test_pool() {
    std::atomic<std::size_t> sum{0};
    dpdt::run_parallel(1000, 8, [&](std::size_t i) { sum += i; }, [] {});
    CHECK(sum == 499'500);

    std::atomic<std::size_t> begun{0};
    bool carried = false;
    try {
        const auto task = [&](std::size_t i) {
            ++begun;
            if (i == 10) throw std::runtime_error("ten");
        };
        dpdt::run_parallel(1'000'000, 4, task, [] {});
    } catch (const std::runtime_error& error) {
        carried = std::string(error.what()) == "ten";
    }
    CHECK(carried);
    CHECK(begun < 1'000'000);

    sum = 0;
    for (const std::size_t num_threads : {0, 1, 8}) {
        dpdt::share_out(1000, num_threads, [&](std::size_t i) { sum += i; });
    }
    CHECK(sum == 3 * 499'500);
}

void test_many_files(int count, char** files) {
    std::vector<std::string> paths(files, files + count);
    paths.emplace_back("/nowhere/at/all.png");
    dpdt::Pipeline pipeline;
    pipeline.recipe = {dpdt::Resampling::paper, true, 31, 17};
    pipeline.num_threads = 4;
    std::vector<std::uint8_t> out(paths.size() * 31 * 17);
    const auto results = pipeline.process_all(paths, out.data(), [](std::size_t) {});
    for (std::size_t i = 0; i + 1 < results.size(); ++i) CHECK(results[i].reason == dpdt::Reason::none);
    CHECK(results.back().reason == dpdt::Reason::missing);
}

}  // namespace

int main(int count, char** arguments) {
    test_resampling_of_every_shape<std::uint8_t>();
    test_resampling_of_every_shape<std::uint16_t>();
    test_largest_sums();
    test_normalising();
    test_pool();
    test_many_files(count - 1, arguments + 1);
    for (int i = 1; i < count; ++i) test_damaged_copies(arguments[i]);
    std::printf("%zu checks passed\n", checks);
    return 0;
}
