// Vectors of 4, 8 or 16 floats as extensions of the compiler, for any instruction set.
//
// No value ever crosses lanes, and the order of sums is the same for every width: the width changes the speed alone.
#pragma once
#include <cstdint>
#include <cstring>

#define ZOO_INLINE static inline __attribute__((always_inline))
#define ZOO_UNROLL_FOR(...) _Pragma("GCC unroll 64") for (__VA_ARGS__)

namespace zoo {

#if defined(__AVX512F__)
constexpr int WIDEST = 16;
#else
constexpr int WIDEST = 8;
#endif
#if defined(__AVX512VL__) || defined(__aarch64__)
constexpr int REGISTERS = 32;
#else
constexpr int REGISTERS = 16;
#endif

template <int LANES> struct Lanes;
template <> struct Lanes<4> {
  typedef float Floats __attribute__((vector_size(16)));
  typedef int32_t Ints __attribute__((vector_size(16)));
};
template <> struct Lanes<8> {
  typedef float Floats __attribute__((vector_size(32)));
  typedef int32_t Ints __attribute__((vector_size(32)));
};
template <> struct Lanes<16> {
  typedef float Floats __attribute__((vector_size(64)));
  typedef int32_t Ints __attribute__((vector_size(64)));
};
template <int LANES> using Floats = typename Lanes<LANES>::Floats;
template <int LANES> using Ints = typename Lanes<LANES>::Ints;

// Addresses need not be aligned: memcpy of a whole vector is one unaligned load or store.
template <class V, class T> ZOO_INLINE V load(const T* from) {
  V value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
template <class V, class T> ZOO_INLINE void store(T* to, V value) { std::memcpy(to, &value, sizeof value); }

template <class V> ZOO_INLINE V splat(float x) { return x - V{}; }  // x - 0 is x, and folds to one broadcast
template <class V> ZOO_INLINE V splat_int(int32_t x) { return x - V{}; }

template <class V> ZOO_INLINE V vec_sqrt(V x) {
  for (int i = 0; i < int(sizeof(V) / sizeof(float)); i++) x[i] = __builtin_sqrtf(x[i]);
  return x;
}

constexpr int round_up(int n, int step) { return (n + step - 1) / step * step; }

// The lanes of a vector for n values side by side: as many as possible without many idle ones.
constexpr int lanes_for(int n) {
  return n <= 4 ? 4 : (n <= 8 || WIDEST == 8 || round_up(n, 16) > round_up(n, 8)) ? 8 : 16;
}

}  // namespace zoo
