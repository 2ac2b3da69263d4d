// The random numbers of torch's CPU generator: uniforms and masks to the bit, normals to float rounding.
//
// A model trained here has to draw what it draws in plain PyTorch, so the streams are torch's, call by call: the same
// words of the Mersenne Twister, taken in the same order and number. Loops are plain ones over whole vectors, without
// intrinsics, that a compiler vectorises at -O3; neither -ffast-math nor its parts are needed, nor allowed here.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace zoo {

namespace random_detail {

inline uint32_t bits_of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline float float_of(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// The natural logarithm of a normal positive number, within 1 ulp.
inline float logarithm(float x) {
    // x = 2^exponent (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)), whose lower end these bits are.
    const int32_t lowest = 0x3f3504f3;
    const int32_t bits = static_cast<int32_t>(bits_of(x));
    const int32_t exponent = (bits - lowest) >> 23;
    const float f = float_of(static_cast<uint32_t>(bits - exponent * (1 << 23))) - 1.0f;  // exact
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
    // log(2) in two parts, the first so short that its products with exponents are exact.
    const float e = static_cast<float>(exponent);
    const float square = f * f;
    const float small = e * -2.12194440e-4f + square * f * p;
    return e * 0.693359375f + (f + (small - 0.5f * square));
}

// The square root of a number that is not negative, within 1 ulp. std::sqrt may set errno, which keeps a loop scalar.
inline float square_root(float x) {
    float inverse = float_of(0x5f3759dfu - (bits_of(x) >> 1));  // 1 / sqrt(x) within 4 %
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
    // pi / 2 in three parts, of which the first two are so short that their products with 0 to 4 are exact.
    const float r = ((angle - q * 1.5703125f) - q * 4.837512969970703125e-4f) - q * 7.54978995489188216e-8f;
    const float z = r * r;  // r is in [-pi / 4, pi / 4]; relative errors of the polynomials are 3.8e-9 and 1.2e-10
    const float s = r + r * z * ((-1.95146319e-4f * z + 8.33215605e-3f) * z - 0.166666545f);
    const float c = 1.0f - 0.5f * z + z * z * ((2.44324129e-5f * z - 1.38873099e-3f) * z + 4.16666456e-2f);
    // Each quarter turn swaps the two; the sine is negative in the quarters 2 and 3, the cosine in 1 and 2.
    const bool odd = quarter & 1;
    const uint32_t sine_sign = (static_cast<uint32_t>(quarter) & 2u) << 30;
    const uint32_t cosine_sign = (static_cast<uint32_t>(quarter + 1) & 2u) << 30;
    return {float_of(bits_of(odd ? c : s) ^ sine_sign), float_of(bits_of(odd ? s : c) ^ cosine_sign)};
}

constexpr size_t kBlock = 16;         // normals that torch makes together
constexpr size_t kHalf = kBlock / 2;  // number i of a block and number i + 8 are a pair
constexpr size_t kGroup = 4;          // blocks at a time, so that any vector is filled
constexpr float kTwoPi = 6.28318531f;

// Pairs of uniforms -> pairs of independent normals (Box-Muller), in place. All numbers are below 1.
inline void box_muller(float* first, float* second) {
    for (size_t i = 0; i < kGroup * kHalf; ++i) {
        const float radius = square_root(-2.0f * logarithm(1.0f - first[i]));
        // torch rounds the angle to float. Adding a zero makes sure of it here too: else a compiler might fuse this
        // product, unrounded, with the subtraction that comes next, and normals could be 1e-6 away.
        const float angle = kTwoPi * second[i] + 0.0f;
        const SineCosine direction = sine_cosine(angle);
        first[i] = radius * direction.cosine;
        second[i] = radius * direction.sine;
    }
}

// `blocks` times 16 uniforms -> normals, in place.
inline void normals_of_blocks(float* values, size_t blocks) {
    for (size_t done = 0; done < blocks; done += kGroup) {
        float first[kGroup * kHalf] = {}, second[kGroup * kHalf] = {};  // a last group may be partly zeros
        const size_t group = blocks - done < kGroup ? blocks - done : kGroup;
        float* const block = values + done * kBlock;
        for (size_t b = 0; b < group; ++b) {
            std::memcpy(first + b * kHalf, block + b * kBlock, kHalf * sizeof(float));
            std::memcpy(second + b * kHalf, block + b * kBlock + kHalf, kHalf * sizeof(float));
        }
        box_muller(first, second);
        for (size_t b = 0; b < group; ++b) {
            std::memcpy(block + b * kBlock, first + b * kHalf, kHalf * sizeof(float));
            std::memcpy(block + b * kBlock + kHalf, second + b * kHalf, kHalf * sizeof(float));
        }
    }
}

}  // namespace random_detail

// The stream of torch.Generator().manual_seed(seed): calls here and there in the same order give the same numbers.
class TorchGenerator {
public:
    // torch seeds the twister with the low 32 bits, whatever the seed.
    explicit TorchGenerator(uint64_t seed) {
        uint32_t* const state = words_ + kState;
        state[0] = static_cast<uint32_t>(seed);
        for (uint32_t i = 1; i < kState; ++i) state[i] = 1812433253u * (state[i - 1] ^ (state[i - 1] >> 30)) + i;
    }

    // torch.rand: float32 in [0, 1), multiples of 2^-24.
    void uniforms(float* out, size_t n) {
        draw(out, n, [](uint32_t word) { return static_cast<float>(mantissa(word)) * 0x1p-24f; });
    }

    // torch.rand(...) >= p, as 0 or 1: which entries dropout keeps. p, in [0, 1], is a float there as well.
    void keep_mask(uint8_t* out, size_t n, float p) {
        const int32_t least = static_cast<int32_t>(std::ceil(p * 0x1p24f));  // p * 2^24 is exact
        draw(out, n, [least](uint32_t word) { return static_cast<uint8_t>(mantissa(word) >= least); });
    }

    // torch.randn of a tensor of n numbers: 16 and more are made in blocks of 16, fewer one by one.
    void normals(float* out, size_t n) {
        using random_detail::kBlock;
        if (n < kBlock) {
            for (size_t i = 0; i < n; ++i) out[i] = static_cast<float>(next_normal());
            return;
        }
        const size_t rest = n % kBlock, whole = n - rest;
        for (size_t first = 0; first < whole; first += kPiece) {
            const size_t size = whole - first < kPiece ? whole - first : kPiece;
            uniforms(out + first, size);
            random_detail::normals_of_blocks(out + first, size / kBlock);
        }
        if (rest == 0) return;
        // torch draws the rest, and then the last 16 once more: the rest is thrown away, and part of the last block.
        uniforms(out + whole, rest);
        uniforms(out + n - kBlock, kBlock);
        random_detail::normals_of_blocks(out + n - kBlock, 1);
    }

    // The next 32 bits.
    uint32_t next_word() {
        if (used_ == kState) refill();
        return tempered(words_[kState + used_++]);
    }

private:
    static constexpr size_t kState = 624, kShift = 397;  // of MT19937
    static constexpr size_t kPiece = 2048;               // normals at a time, which stay in the fastest cache

    // The state before the last one and the last one: so every word is one formula of earlier ones, without wrapping.
    alignas(64) uint32_t words_[2 * kState];
    size_t used_ = kState;  // of the last state; it begins used up, since torch twists before the first number
    bool has_spare_ = false;
    double spare_ = 0.0;  // the other normal of the last pair made one by one, kept by torch until it is asked for

    static uint32_t tempered(uint32_t word) {
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c5680u;
        word ^= (word << 15) & 0xefc60000u;
        return word ^ (word >> 18);
    }

    // The 24 low bits, of which torch makes a float; signed, since that is converted by one instruction.
    static int32_t mantissa(uint32_t word) { return static_cast<int32_t>(word & 0xffffffu); }

    // The next 624 words of the twister.
    void refill() {
        std::memcpy(words_, words_ + kState, kState * sizeof(uint32_t));
        uint32_t* const next = words_ + kState;
        for (size_t i = 0; i < kState; ++i) {
            const uint32_t mixed = (words_[i] & 0x80000000u) | (words_[i + 1] & 0x7fffffffu);
            const uint32_t odd = 0u - (mixed & 1u);  // all ones or zero
            next[i] = words_[i + kShift] ^ (mixed >> 1) ^ (odd & 0x9908b0dfu);
        }
        used_ = 0;
    }

    // of_word of each of the next n words.
    template <class Value, class OfWord>
    void draw(Value* out, size_t n, OfWord of_word) {
        while (n > 0) {
            if (used_ == kState) refill();
            const size_t count = n < kState - used_ ? n : kState - used_;
            const uint32_t* const words = words_ + kState + used_;
            for (size_t i = 0; i < count; ++i) out[i] = of_word(tempered(words[i]));
            used_ += count;
            out += count;
            n -= count;
        }
    }

    // A double in [0, 1) of the 53 low bits of two words.
    double next_double() {
        const uint64_t high = next_word();
        const uint64_t both = high << 32 | next_word();
        return static_cast<double>(both & ((uint64_t{1} << 53) - 1)) * 0x1p-53;
    }

    // Box-Muller in double precision, a pair at a time. Drawing blocks or uniforms in between leaves the spare alone.
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
