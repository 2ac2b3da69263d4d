// SGD with momentum, Adam and AdamW, with the arithmetic of torch.optim.
#pragma once
#include <cmath>
#include <cstdint>

namespace zoo {

enum OptimizerKind : int32_t { SGD = 0, ADAM = 1, ADAMW = 2 };

// The hyperparameters of one step.
struct Rates {
  double lr, momentum;  // beta 1 for Adam
  double weight_decay;  // L2 for SGD and Adam, decoupled for AdamW
};

constexpr double BETA2 = 0.999, EPSILON = 1e-8;  // torch's defaults

// Update n parameters w with gradient g and moments m and v; `step` counts from 1.
inline void optimizer_step(OptimizerKind kind, const Rates& rates, int64_t step, int n, float* __restrict w,
                           const float* __restrict g, float* __restrict m, float* __restrict v) {
  const float decay = float(rates.weight_decay), lr = float(rates.lr), momentum = float(rates.momentum);
  if (kind == SGD) {
    for (int i = 0; i < n; i++) {
      const float slope = g[i] + decay * w[i];
      m[i] = step == 1 ? slope : momentum * m[i] + slope;
      w[i] -= lr * m[i];
    }
    return;
  }
  const float size = float(rates.lr / (1 - std::pow(rates.momentum, double(step))));
  const float root = float(std::sqrt(1 - std::pow(BETA2, double(step))));
  const float shrink = kind == ADAMW ? float(1 - rates.lr * rates.weight_decay) : 1.f;
  const float l2 = kind == ADAM ? decay : 0.f, one_minus_beta1 = float(1 - rates.momentum);
  constexpr float BETA2_FLOAT = float(BETA2), ONE_MINUS_BETA2 = float(1 - BETA2), TINY = float(EPSILON);
  for (int i = 0; i < n; i++) {
    const float before = shrink * w[i], slope = g[i] + l2 * before;
    m[i] += one_minus_beta1 * (slope - m[i]);
    v[i] = BETA2_FLOAT * v[i] + ONE_MINUS_BETA2 * slope * slope;
    w[i] = before - size * m[i] / (std::sqrt(v[i]) / root + TINY);
  }
}

}  // namespace zoo
