// Activations and their derivatives on vectors, exact to the last bit or two, also where they saturate.
//
// Saturation must be exact: Adam turns any gradient, however small, into a step of full size. So a tanh that stays at 1
// - 1e-7 where the true one has rounded to 1 trains different models (the published `uniform` init starts at |x| = 35).
// All comparisons keep a NaN a NaN.
#pragma once
#include "vectors.hpp"

namespace zoo {

enum Activation : int32_t { NONE = 0, TANH = 1, RELU = 2, SIGMOID = 3, GELU = 4 };

// 2^n and e^r - 1, where x = n ln 2 + r and |r| <= ln 2 / 2; for |x| <= 88.
template <class V> struct Exponential {
  V power, rest;
};

template <class V> ZOO_INLINE Exponential<V> exponential(V x) {
  constexpr int LANES = sizeof(V) / 4;
  const V rounded = x * 1.44269504f + 12582912.f;  // 1.5 * 2^23: adding it rounds to an integer
  const V n = rounded - 12582912.f;
  V r = x - n * 0.693359375f;  // ln 2 in two parts; the first has few bits, so n times it is exact
  r = r + n * 2.12194440e-4f;
  V p = splat<V>(1.9875691500e-4f);  // e^r = 1 + r + r^2 p(r)
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const Ints<LANES> bits = ((Ints<LANES>)rounded << 23) + (127 << 23);  // the integer is in the low bits of `rounded`
  return {(V)bits, r * r * p + r};
}

// e^x; 0 below -87, where the result would not be a normal number.
template <class V> ZOO_INLINE V vec_exp(V x) {
  const auto e = exponential(x > 88.f ? splat<V>(88.f) : x);
  return x < -87.f ? V{} : e.power * e.rest + e.power;
}

// The logarithm of positive normal numbers: x = 2^n (1 + f) with |f| below 0.42, log x = n ln 2 + a series in
// s = f / (2 + f). random.hpp has a more accurate logarithm, which torch's normal numbers need.
template <class V> ZOO_INLINE V vec_log(V x) {
  constexpr int LANES = sizeof(V) / 4;
  const Ints<LANES> bits = (Ints<LANES>)x, exponent = (bits - 0x3f3504f3) >> 23;
  const V f = (V)(bits - (exponent << 23)) - 1.f, s = f / (2.f + f), z = s * s;
  const V n = __builtin_convertvector(exponent, V);
  const V rest = z * (0.66666667f + z * (0.4f + z * (0.28571430f + z * (0.22222228f + z * 0.18f))));
  return n * 0.693359375f + (n * -2.12194440e-4f + (2.f * s + s * rest));
}

template <class V> ZOO_INLINE V magnitude(V x) {
  constexpr int LANES = sizeof(V) / 4;
  return (V)((Ints<LANES>)x & 0x7fffffff);
}
template <class V> ZOO_INLINE V copy_sign(V x, V sign) {
  constexpr int LANES = sizeof(V) / 4;
  return (V)((Ints<LANES>)x | ((Ints<LANES>)sign & splat_int<Ints<LANES>>(INT32_MIN)));
}

// With u = e^(2|x|) - 1: u / (u + 2) where that is small, else 1 - 2 / (u + 2). Close to 1 the latter rounds only once,
// and so it is exactly 1 wherever the true value rounds to 1.
template <class V> ZOO_INLINE V vec_tanh(V x) {
  V a = 2.f * magnitude(x);
  a = a > 30.f ? splat<V>(30.f) : a;
  const auto e = exponential(a);
  const V u = e.power * e.rest + (e.power - 1.f);
  const V part = (a > 1.5f ? splat<V>(2.f) : u) / (u + 2.f);
  return copy_sign(a > 1.5f ? 1.f - part : part, x);
}

template <class V> ZOO_INLINE V vec_sigmoid(V x) { return 1.f / (1.f + vec_exp(-x)); }

// Chebyshev fits of erf(a) / a in a^2 on [0, 0.83], and of erfc(a) e^(a^2) in 1 / (1 + a / 2) on [0.88, 9.5], highest
// power first. The error of erf in float32 is below 1.3e-7.
constexpr float ERF_SMALL[] = {-1.040277550e-05f, 1.148483136e-04f, -8.509590506e-04f, 5.222500717e-03f,
                               -2.686586278e-02f, 1.128378851e-01f, -3.761263878e-01f, 1.128379167e+00f};
constexpr float ERF_LARGE[] = {-7.588413016e-02f, 3.580934451e-01f, -6.244894528e-01f, 4.212938407e-01f,
                               -1.182803335e-01f, 2.398592058e-01f, 2.335813720e-01f,  2.838570232e-01f,
                               2.819595445e-01f,  4.553156949e-06f};

template <class V> ZOO_INLINE V vec_erf(V x) {
  const V a = magnitude(x), square = x * x;
  V small = splat<V>(ERF_SMALL[0]);
  for (int i = 1; i < 8; i++) small = small * square + ERF_SMALL[i];
  const V t = 1.f / (1.f + 0.5f * a);
  V large = splat<V>(ERF_LARGE[0]);
  for (int i = 1; i < 10; i++) large = large * t + ERF_LARGE[i];
  large = copy_sign(1.f - vec_exp(-square) * large, x);
  return a < 0.9f ? small * x : large;
}

// y = f(x) and its derivative dy for n numbers, n a multiple of the lanes.
template <class V, class F> ZOO_INLINE void map_pairs(const F& f, float* y, float* dy, int n) {
  constexpr int LANES = sizeof(V) / 4;
  for (int i = 0; i < n; i += LANES) {
    V slope;
    const V value = f(load<V>(y + i), slope);
    store(y + i, value);
    store(dy + i, slope);
  }
}

// In place: y holds the inputs and gets the outputs; dy gets the derivatives. n is a multiple of the lanes.
template <int LANES> void activate(Activation kind, float* y, float* dy, int n) {
  using V = Floats<LANES>;
  switch (kind) {
    case TANH:
      return map_pairs<V>(
          [](V x, V& slope) {
            const V t = vec_tanh(x);
            slope = 1.f - t * t;
            return t;
          },
          y, dy, n);
    case RELU:
      return map_pairs<V>(
          [](V x, V& slope) {
            slope = x > 0.f ? splat<V>(1.f) : V{};
            return x < 0.f ? V{} : x;
          },
          y, dy, n);
    case SIGMOID:
      return map_pairs<V>(
          [](V x, V& slope) {
            const V s = vec_sigmoid(x);
            slope = s * (1.f - s);
            return s;
          },
          y, dy, n);
    case GELU:
      return map_pairs<V>(
          [](V x, V& slope) {
            const V share = 0.5f * (1.f + vec_erf(x * 0.70710678f));
            slope = share + x * (0.39894228f * vec_exp(-0.5f * x * x));
            return x * share;
          },
          y, dy, n);
    case NONE:
      for (int i = 0; i < n; i++) dy[i] = 1.f;
  }
}

}  // namespace zoo
