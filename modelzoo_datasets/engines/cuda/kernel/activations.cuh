// Activations with the values of torch. Saturation is exact: a slope is exactly 0 wherever torch's is, since Adam turns
// any gradient, however small, into a step of full size.
#pragma once
#include "portable.cuh"

enum Activation { IDENTITY, TANH, RELU, SIGMOID, GELU };

struct Activated {
  float value, slope;
};

DEVICE Activated activate(int kind, float x) {
  if (kind == TANH) {
    const float y = tanhf(x);
    return {y, 1.0f - y * y};
  }
  if (kind == RELU) {
    if (x <= 0.0f) return {0.0f, 0.0f};
    return {x, 1.0f};  // a NaN stays a NaN
  }
  if (kind == SIGMOID) {
    const float y = 1.0f / (1.0f + expf(-x));
    return {y, (1.0f - y) * y};
  }
  if (kind == GELU) {
    const float cumulative = 0.5f * (1.0f + erff(x * 0.70710678118654752f));
    const float density = 0.39894228040143268f * expf(-0.5f * x * x);
    return {x * cumulative, cumulative + x * density};
  }
  return {x, 1.0f};
}
