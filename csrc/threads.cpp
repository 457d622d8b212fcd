#include "threads.hpp"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <string>
#include <thread>

namespace dpdt {
namespace {

std::size_t affinity_threads() {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof(set), &set) == 0) {
        return static_cast<std::size_t>(std::max(1, CPU_COUNT(&set)));
    }
    return std::max(1U, std::thread::hardware_concurrency());  // more than 1024 cores: the mask does not fit
}

// Cores of the nearest limiting cgroup on the way to the root, rounded up; 0 where there is no limit.
std::size_t quota_threads() {
    std::ifstream membership("/proc/self/cgroup");
    std::string line;
    std::string folder;
    while (std::getline(membership, line)) {
        if (line.rfind("0::", 0) == 0) folder = line.substr(3);  // cgroup v2
    }
    double smallest = 0;
    for (;;) {
        std::ifstream file("/sys/fs/cgroup" + folder + "/cpu.max");
        double quota = 0;
        double period = 0;
        if (file >> quota >> period && quota > 0 && period > 0) {  // "max 100000" fails to parse: no limit
            const double cores = std::ceil(quota / period);
            smallest = smallest == 0 ? cores : std::min(smallest, cores);
        }
        if (folder.empty() || folder == "/") break;
        folder.erase(folder.find_last_of('/'));
    }
    return static_cast<std::size_t>(smallest);
}

}  // namespace

std::size_t available_threads() {
    const std::size_t quota = quota_threads();
    const std::size_t affinity = affinity_threads();
    return quota == 0 ? affinity : std::min(quota, affinity);
}

}  // namespace dpdt
