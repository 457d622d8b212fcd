#include "threads.hpp"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
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

// The group's path below the mount of cgroup v2 (line "0::/path") or of v1's cpu controller ("1:cpu,cpuacct:/path").
std::string group_path(bool version2) {
    std::ifstream file("/proc/self/cgroup");
    for (std::string line; std::getline(file, line);) {
        const std::size_t first = line.find(':');
        const std::size_t second = line.find(':', first + 1);
        if (second == std::string::npos) continue;
        const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
        if (version2 ? controllers == ",," : controllers.find(",cpu,") != std::string::npos) {
            return line.substr(second + 1);
        }
    }
    return "";
}

// CPU time over wall time that one group may use; 0 where there is no limit ("max", or -1).
double group_cores(const std::string& folder, bool version2) {
    double quota = 0;
    double period = 0;
    if (version2) {
        std::ifstream(folder + "/cpu.max") >> quota >> period;
    } else {
        std::ifstream(folder + "/cpu.cfs_quota_us") >> quota;
        std::ifstream(folder + "/cpu.cfs_period_us") >> period;
    }
    return quota > 0 && period > 0 ? quota / period : 0;
}

// The smallest limit on the way from the process's group to the root, rounded up; 0 where there is none.
std::size_t quota_threads() {
    double smallest = 0;
    for (const bool version2 : {true, false}) {
        const std::string mount = version2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu";
        std::string path = group_path(version2);
        for (;;) {
            const double cores = group_cores(mount + path, version2);
            if (cores > 0) smallest = smallest > 0 ? std::min(smallest, cores) : cores;
            if (path.empty() || path == "/") break;
            path.erase(path.find_last_of('/'));
        }
    }
    return static_cast<std::size_t>(std::ceil(smallest));
}

// What Slurm gave to this task; 0 outside of it. A site without cpusets has no other limit.
std::size_t slurm_threads() {
    const char* const text = std::getenv("SLURM_CPUS_PER_TASK");
    const long count = text == nullptr ? 0 : std::strtol(text, nullptr, 10);
    return count > 0 ? static_cast<std::size_t>(count) : 0;
}

}  // namespace

std::size_t available_threads() {
    std::size_t threads = affinity_threads();
    for (const std::size_t limit : {quota_threads(), slurm_threads()}) {
        if (limit > 0) threads = std::min(threads, limit);
    }
    return threads;
}

}  // namespace dpdt
