// How many threads this process may use.
#pragma once

#include <cstddef>

namespace dpdt {

// Cores given to this process: the affinity mask (taskset, Slurm's cpusets), and a cgroup's CPU quota where it is
// smaller (containers). At least 1.
std::size_t available_threads();

}  // namespace dpdt
