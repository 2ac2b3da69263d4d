// Variational dropout (1701.05369) in the form of the published sparsified twins.
//
// A weight w has the variance alpha w^2 with log alpha = log sigma^2 - 2 log|w|, clamped to a bound. Formulas, bounds
// and penalty are those of architectures/variational.py, differentiated by hand.
#pragma once
#include "activations.hpp"

namespace zoo {

struct Alpha {  // how many numbers of a stage are noisy, how many there are, and the bound of log alpha
  int noisy, all;
  float bound;
};

template <class S> constexpr Alpha stage_alpha() {  // the bias of a linear layer is not noisy
  return {S::LINEAR ? S::O * S::PATCH : S::PARAMETERS, S::PARAMETERS, S::LINEAR ? 10.f : 8.f};
}

constexpr float TINY_WEIGHT = 1e-15f, K1 = 0.63576f, K2 = 1.8732f, K3 = 1.48695f;

template <class V> struct LogAlpha {
  V value, inside;  // inside: 1 where the value is not clamped, else 0
};
template <class V> ZOO_INLINE LogAlpha<V> log_alpha(V w, V log_sigma2, float bound) {
  const V free = log_sigma2 - 2.f * vec_log(magnitude(w) + TINY_WEIGHT);
  const V low = free < -bound ? splat<V>(-bound) : free, clamped = low > bound ? splat<V>(bound) : low;
  return {clamped, clamped == free ? splat<V>(1.f) : V{}};
}

// The numbers of a stage are a multiple of 4; biases of linear layers keep a variance of 0.
inline void variances(const Alpha& a, const float* w, const float* log_sigma2, float* variance) {
  using V = Floats<4>;
  for (int i = 0; i < a.noisy; i += 4) {
    const V weight = load<V>(w + i);
    store(variance + i, vec_exp(log_alpha(weight, load<V>(log_sigma2 + i), a.bound).value) * (weight * weight));
  }
}

// Given the gradients by w as a mean and by its variance: add to the former the effect of w through alpha, and compute
// the gradient by log sigma^2. Both include `weight` times the penalty -[K1 sigmoid(K2 + K3 log alpha) - log(1 +
// 1/alpha) / 2 - K1].
inline void through_alpha(const Alpha& a, float weight, const float* w, const float* log_sigma2,
                          const float* variance_gradient, float* gradient, float* log_sigma2_gradient) {
  using V = Floats<4>;
  for (int i = 0; i < a.noisy; i += 4) {
    const V mean = load<V>(w + i), slope = load<V>(variance_gradient + i);
    const auto la = log_alpha(mean, load<V>(log_sigma2 + i), a.bound);
    const V alpha = vec_exp(la.value), rise = vec_sigmoid(K2 + K3 * la.value);
    const V penalty = -(K1 * K3) * rise * (1.f - rise) - 0.5f * vec_sigmoid(-la.value);
    const V through = la.inside * (slope * alpha * (mean * mean) + weight * penalty);
    const V sign = mean > 0.f ? splat<V>(1.f) : mean < 0.f ? splat<V>(-1.f) : V{};
    const V alpha_slope = -2.f * sign / (magnitude(mean) + TINY_WEIGHT);  // the derivative of log alpha by w
    store(log_sigma2_gradient + i, through);
    store(gradient + i, load<V>(gradient + i) + slope * (2.f * alpha * mean) + through * alpha_slope);
  }
}

}  // namespace zoo
