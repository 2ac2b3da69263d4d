// Definitions that make the same source a CUDA kernel and, for tests, a plain C++ program.
//
// Every phase of the kernel is a loop `for (int i = thread(); i < n; i += threads())`, and `barrier()` separates
// phases. With one thread such a loop does everything, and there is nothing to wait for. If BLOCK_THREADS is defined, a
// block is that many threads of the CPU, so that a sanitizer can find missing barriers.
#pragma once

#ifdef __CUDACC__  // nvcc, and NVRTC, which has no standard headers

#define DEVICE __device__ __forceinline__
DEVICE int thread() { return threadIdx.x; }
DEVICE int threads() { return blockDim.x; }
DEVICE int block() { return blockIdx.x; }
DEVICE void barrier() { __syncthreads(); }

#else

#include <math.h>

#define DEVICE inline
static int current_block = 0;
DEVICE int block() { return current_block; }
DEVICE int min(int a, int b) { return a < b ? a : b; }  // CUDA has its own

#ifdef BLOCK_THREADS
#include <pthread.h>
static thread_local int current_thread = 0;
static pthread_barrier_t block_barrier;
DEVICE int thread() { return current_thread; }
DEVICE int threads() { return BLOCK_THREADS; }
DEVICE void barrier() { pthread_barrier_wait(&block_barrier); }
#else
DEVICE int thread() { return 0; }
DEVICE int threads() { return 1; }
DEVICE void barrier() {}
#endif

#endif
