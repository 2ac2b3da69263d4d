// Activations as torch has them. Saturated is saturated: where torch's slope is exactly 0, so is this one, since Adam
// makes a whole step of any gradient however small.
#pragma once
#include "portable.cuh"

enum Activation { kIdentity, kTanh, kRelu, kSigmoid, kGelu };

struct Activated {
    float value, slope;
};

DEVICE Activated activated(int kind, float x) {
    if (kind == kTanh) {
        const float y = tanhf(x);
        return {y, 1.0f - y * y};
    }
    if (kind == kRelu) {
        if (x <= 0.0f) return {0.0f, 0.0f};
        return {x, 1.0f};  // and NaN stays NaN
    }
    if (kind == kSigmoid) {
        const float y = 1.0f / (1.0f + expf(-x));
        return {y, (1.0f - y) * y};
    }
    if (kind == kGelu) {
        const float cumulative = 0.5f * (1.0f + erff(x * 0.70710678118654752f));
        const float density = 0.39894228040143268f * expf(-0.5f * x * x);
        return {x * cumulative, cumulative + x * density};
    }
    return {x, 1.0f};
}
