// The arithmetic peak of one core: independent chains of fused multiply-adds that never leave the registers.
//
//     g++ -O3 -march=native -o fma_peak fma_peak.cpp
//     ./fma_peak 0.5          runs for at least 0.5 s of CPU time and prints GFLOP per second of CPU time, float32
#include <cstdio>
#include <cstdlib>
#include <ctime>

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
constexpr int CHAINS = 12;  // more than latency times pipes, and with two constants they fit into 16 registers
constexpr long STEPS = 1'000'000;

typedef float Vector __attribute__((vector_size(LANES * sizeof(float))));

static double cpu_seconds() {
    timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return now.tv_sec + 1e-9 * now.tv_nsec;
}

int main(int count, char** arguments) {
    const double seconds = count > 1 ? std::atof(arguments[1]) : 0.5;
    const Vector factor = Vector{} + 0.9999f, summand = Vector{} + 1e-4f;
    Vector chains[CHAINS];
    for (int i = 0; i < CHAINS; i++) chains[i] = Vector{} + 1e-3f * i;
    const double begin = cpu_seconds();
    double spent = 0, flops = 0;
    while (spent < seconds) {
        for (long step = 0; step < STEPS; step++)
            for (int i = 0; i < CHAINS; i++) chains[i] = chains[i] * factor + summand;
        flops += 2.0 * STEPS * CHAINS * LANES;
        spent = cpu_seconds() - begin;
    }
    Vector sum{};
    for (int i = 0; i < CHAINS; i++) sum += chains[i];
    std::fprintf(stderr, "%g\n", sum[0]);  // without a use of them the chains would be left out
    std::printf("%.2f\n", flops / spent / 1e9);
}
