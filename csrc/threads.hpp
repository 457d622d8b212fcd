// How many threads this process may use.
#pragma once

#include <cstddef>

namespace dpdt {

// Cores given to this process: the affinity mask (taskset, Slurm's cpusets), and a cgroup's CPU quota (containers) or
// SLURM_CPUS_PER_TASK where it is smaller. At least 1.
std::size_t available_threads();

}  // namespace dpdt
