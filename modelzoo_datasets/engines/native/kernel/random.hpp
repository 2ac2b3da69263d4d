// The random numbers of torch's CPU generator: uniform numbers and masks bit for bit, normal ones to float rounding.
//
// A model trained here must draw the same numbers as in plain PyTorch. So every call takes the same words of the
// Mersenne Twister, in the same order and number, as torch's own call. The loops are plain, and a compiler vectorizes
// them at -O3 without intrinsics; -ffast-math and its parts are neither needed nor allowed.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "../../kernel/mt19937.hpp"

namespace zoo {

namespace random_detail {

inline uint32_t float_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float bits_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// The natural logarithm of a normal positive number, within 1 ulp.
inline float logarithm(float x) {
  // x = 2^exponent (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)); these are the bits of the lower end.
  const int32_t lowest = 0x3f3504f3;
  const int32_t bits = static_cast<int32_t>(float_bits(x));
  const int32_t exponent = (bits - lowest) >> 23;
  const float f = bits_float(static_cast<uint32_t>(bits - exponent * (1 << 23))) - 1.0f;  // exact
  // Minimax of (log(1 + f) - f + f²/2) / f³; the relative error of the logarithm is 7.5e-10.
  float p = 0.0674664033f;
  p = p * f - 0.116756518f;
  p = p * f + 0.118881623f;
  p = p * f - 0.124055889f;
  p = p * f + 0.142195524f;
  p = p * f - 0.166679959f;
  p = p * f + 0.200021187f;
  p = p * f - 0.250000096f;
  p = p * f + 0.333333126f;
  // log(2) in two parts; the first is so short that its products with exponents are exact.
  const float e = static_cast<float>(exponent);
  const float square = f * f;
  const float small = e * -2.12194440e-4f + square * f * p;
  return e * 0.693359375f + (f + (small - 0.5f * square));
}

// The square root of a nonnegative number, within 1 ulp. std::sqrt may set errno, which keeps a loop from being
// vectorized.
inline float square_root(float x) {
  float inverse = bits_float(0x5f3759dfu - (float_bits(x) >> 1));                       // 1 / sqrt(x) within 4 %
  for (int step = 0; step < 2; ++step) inverse *= 1.5f - 0.5f * x * inverse * inverse;  // Newton: within 5e-6
  const float root = x * inverse;
  return root + 0.5f * inverse * (x - root * root);
}

struct SineCosine {
  float sine, cosine;
};

// Sine and cosine of an angle in [0, 2 pi], within 1.6 ulp, and within 1e-7 close to where they cross zero.
inline SineCosine sine_cosine(float angle) {
  const int32_t quarter = static_cast<int32_t>(angle * 0.636619772f + 0.5f);  // nearest multiple of pi / 2
  const float q = static_cast<float>(quarter);
  // pi / 2 in three parts; the first two are so short that their products with 0 to 4 are exact.
  const float r = ((angle - q * 1.5703125f) - q * 4.837512969970703125e-4f) - q * 7.54978995489188216e-8f;
  const float z = r * r;  // r is in [-pi / 4, pi / 4]; relative errors of the polynomials are 3.8e-9 and 1.2e-10
  const float s = r + r * z * ((-1.95146319e-4f * z + 8.33215605e-3f) * z - 0.166666545f);
  const float c = 1.0f - 0.5f * z + z * z * ((2.44324129e-5f * z - 1.38873099e-3f) * z + 4.16666456e-2f);
  // Each quarter turn swaps sine and cosine; the sine is negative in quarters 2 and 3, the cosine in 1 and 2.
  const bool odd = quarter & 1;
  const uint32_t sine_sign = (static_cast<uint32_t>(quarter) & 2u) << 30;
  const uint32_t cosine_sign = (static_cast<uint32_t>(quarter + 1) & 2u) << 30;
  return {bits_float(float_bits(odd ? c : s) ^ sine_sign), bits_float(float_bits(odd ? s : c) ^ cosine_sign)};
}

constexpr size_t BLOCK = 16;        // normal numbers that torch draws together
constexpr size_t HALF = BLOCK / 2;  // number i of a block and number i + 8 are a pair
constexpr size_t GROUP = 4;         // blocks at a time, enough to fill any vector
constexpr float TWO_PI = 6.28318531f;

// Turn pairs of uniform numbers below 1 into pairs of independent normal ones (Box-Muller), in place.
inline void box_muller(float* first, float* second) {
  for (size_t i = 0; i < GROUP * HALF; ++i) {
    const float radius = square_root(-2.0f * logarithm(1.0f - first[i]));
    // torch rounds the angle to float. Adding a zero ensures this here too: otherwise a compiler could fuse the
    // unrounded product with the next subtraction, which moves normal numbers by up to 1e-6.
    const float angle = TWO_PI * second[i] + 0.0f;
    const SineCosine direction = sine_cosine(angle);
    first[i] = radius * direction.cosine;
    second[i] = radius * direction.sine;
  }
}

// Turn `blocks` times 16 uniform numbers into normal ones, in place.
inline void fill_normals(float* values, size_t blocks) {
  for (size_t done = 0; done < blocks; done += GROUP) {
    float first[GROUP * HALF] = {}, second[GROUP * HALF] = {};  // the last group may be partly zeros
    const size_t group = blocks - done < GROUP ? blocks - done : GROUP;
    float* const block = values + done * BLOCK;
    for (size_t b = 0; b < group; ++b) {
      std::memcpy(first + b * HALF, block + b * BLOCK, HALF * sizeof(float));
      std::memcpy(second + b * HALF, block + b * BLOCK + HALF, HALF * sizeof(float));
    }
    box_muller(first, second);
    for (size_t b = 0; b < group; ++b) {
      std::memcpy(block + b * BLOCK, first + b * HALF, HALF * sizeof(float));
      std::memcpy(block + b * BLOCK + HALF, second + b * HALF, HALF * sizeof(float));
    }
  }
}

}  // namespace random_detail

// The stream of torch.Generator().manual_seed(seed): the same calls in the same order give the same numbers.
class TorchGenerator {
public:
  // torch seeds the twister with the low 32 bits of any seed.
  explicit TorchGenerator(uint64_t seed) {
    uint32_t* const state = words_ + WORDS;
    state[0] = static_cast<uint32_t>(seed);
    for (uint32_t i = 1; i < WORDS; ++i) state[i] = mt19937::seed_word(state[i - 1], i);
  }

  // torch.rand: float32 in [0, 1), multiples of 2^-24.
  void uniforms(float* out, size_t n) {
    draw(out, n, [](uint32_t word) { return static_cast<float>(mantissa(word)) * 0x1p-24f; });
  }

  // torch.rand(...) >= p, as 0 or 1: the mask of dropout. p is in [0, 1], a float as in torch.
  void keep_mask(uint8_t* out, size_t n, float p) {
    const int32_t threshold = static_cast<int32_t>(std::ceil(p * 0x1p24f));  // p * 2^24 is exact
    draw(out, n, [threshold](uint32_t word) { return static_cast<uint8_t>(mantissa(word) >= threshold); });
  }

  // torch.randn of a tensor of n numbers: 16 or more come in blocks of 16, fewer one by one.
  void normals(float* out, size_t n) {
    using random_detail::BLOCK;
    if (n < BLOCK) {
      for (size_t i = 0; i < n; ++i) out[i] = static_cast<float>(next_normal());
      return;
    }
    const size_t rest = n % BLOCK, whole = n - rest;
    for (size_t first = 0; first < whole; first += PIECE) {
      const size_t size = whole - first < PIECE ? whole - first : PIECE;
      uniforms(out + first, size);
      random_detail::fill_normals(out + first, size / BLOCK);
    }
    if (rest == 0) return;
    // torch draws the rest, then replaces the last 16 numbers, the rest among them, by new ones.
    uniforms(out + whole, rest);
    uniforms(out + n - BLOCK, BLOCK);
    random_detail::fill_normals(out + n - BLOCK, 1);
  }

  // The next 32 bits.
  uint32_t next_word() {
    if (used_ == WORDS) refill();
    return mt19937::temper(words_[WORDS + used_++]);
  }

private:
  static constexpr size_t WORDS = mt19937::WORDS, SHIFT = mt19937::SHIFT;
  static constexpr size_t PIECE = 2048;  // normal numbers at a time, which stay in the fastest cache

  // The previous state and the current one, so that every new word is one formula of earlier words, without wrapping.
  alignas(64) uint32_t words_[2 * WORDS];
  size_t used_ = WORDS;  // words of the current state; all at first, since torch twists before the first number
  bool has_spare_ = false;
  double spare_ = 0.0;  // the second number of the last pair drawn one by one, which torch returns next time

  // The 24 low bits, from which torch makes a float; signed, since one instruction converts them.
  static int32_t mantissa(uint32_t word) { return static_cast<int32_t>(word & 0xffffffu); }

  // The next 624 words of the twister.
  void refill() {
    std::memcpy(words_, words_ + WORDS, WORDS * sizeof(uint32_t));
    uint32_t* const next = words_ + WORDS;
    for (size_t i = 0; i < WORDS; ++i) next[i] = words_[i + SHIFT] ^ mt19937::twist(words_[i], words_[i + 1]);
    used_ = 0;
  }

  // Write `convert` of each of the next n words.
  template <class Value, class Convert> void draw(Value* out, size_t n, Convert convert) {
    while (n > 0) {
      if (used_ == WORDS) refill();
      const size_t count = n < WORDS - used_ ? n : WORDS - used_;
      const uint32_t* const words = words_ + WORDS + used_;
      for (size_t i = 0; i < count; ++i) out[i] = convert(mt19937::temper(words[i]));
      used_ += count;
      out += count;
      n -= count;
    }
  }

  // A double in [0, 1) from the 53 low bits of two words.
  double next_double() {
    const uint64_t high = next_word();
    const uint64_t both = high << 32 | next_word();
    return static_cast<double>(both & ((uint64_t{1} << 53) - 1)) * 0x1p-53;
  }

  // Box-Muller in double precision, a pair at a time. Draws of blocks or uniform numbers do not change the spare.
  double next_normal() {
    if (has_spare_) {
      has_spare_ = false;
      return spare_;
    }
    const double angle = 2.0 * 3.14159265358979323846 * next_double();
    const double radius = std::sqrt(-2.0 * std::log1p(-next_double()));
    spare_ = radius * std::sin(angle);
    has_spare_ = true;
    return radius * std::cos(angle);
  }
};

}  // namespace zoo
