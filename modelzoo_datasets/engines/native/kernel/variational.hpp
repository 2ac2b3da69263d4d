// Variational dropout (1701.05369) as the published sparsified twins have it: what the weights of a twin mean.
//
// A weight w has the variance alpha w^2 with log alpha = log sigma^2 - 2 log|w|, kept within a bound. The formulas, their
// bounds and the penalty are those of engines/variational.py, differentiated by hand.
#pragma once
#include "activations.hpp"

namespace zoo {

struct Alpha {  // of one stage: which of its numbers are noisy, and the bound of log alpha
  int noisy, all;
  float bound;
};

template <class S> constexpr Alpha alpha_of() {  // the bias of a linear layer is a plain one
  return {S::LINEAR ? S::O * S::PATCH : S::PARAMETERS, S::PARAMETERS, S::LINEAR ? 10.f : 8.f};
}

constexpr float TINY_WEIGHT = 1e-15f, K1 = 0.63576f, K2 = 1.8732f, K3 = 1.48695f;

template <class V> struct LogAlpha {
  V value, inside;  // inside: 1 where it is not clamped, else 0
};
template <class V> ZOO_INLINE LogAlpha<V> log_alpha(V w, V log_sigma2, float bound) {
  const V free = log_sigma2 - 2.f * log_of(magnitude(w) + TINY_WEIGHT);
  const V low = free < -bound ? splat<V>(-bound) : free, clamped = low > bound ? splat<V>(bound) : low;
  return {clamped, clamped == free ? splat<V>(1.f) : V{}};
}

// Numbers of a stage are multiples of 4; biases of linear layers keep a variance of 0.
inline void variances(const Alpha& a, const float* w, const float* log_sigma2, float* variance) {
  using V = Floats<4>;
  for (int i = 0; i < a.noisy; i += 4) {
    const V weight = load<V>(w + i);
    store(variance + i, exp_of(log_alpha(weight, load<V>(log_sigma2 + i), a.bound).value) * (weight * weight));
  }
}

// From the gradients of w as a mean and of its variance: adds to the first what w does through alpha, and gives that of
// log sigma^2; both with `weight` times the penalty -[K1 sigmoid(K2 + K3 log alpha) - log(1 + 1/alpha) / 2 - K1].
inline void through_alpha(const Alpha& a, float weight, const float* w, const float* log_sigma2, const float* of_variance,
                          float* gradient, float* of_log_sigma2) {
  using V = Floats<4>;
  for (int i = 0; i < a.noisy; i += 4) {
    const V mean = load<V>(w + i), slope = load<V>(of_variance + i);
    const auto la = log_alpha(mean, load<V>(log_sigma2 + i), a.bound);
    const V alpha = exp_of(la.value), rise = sigmoid_of(K2 + K3 * la.value);
    const V penalty = -(K1 * K3) * rise * (1.f - rise) - 0.5f * sigmoid_of(-la.value);
    const V through = la.inside * (slope * alpha * (mean * mean) + weight * penalty);
    const V sign = mean > 0.f ? splat<V>(1.f) : mean < 0.f ? splat<V>(-1.f) : V{};
    const V of_log_alpha = -2.f * sign / (magnitude(mean) + TINY_WEIGHT);  // how log alpha changes with w
    store(of_log_sigma2 + i, through);
    store(gradient + i, load<V>(gradient + i) + slope * (2.f * alpha * mean) + through * of_log_alpha);
  }
}

}  // namespace zoo
