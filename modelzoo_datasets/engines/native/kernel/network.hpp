// A chain of stages as one network: forward, loss and backward for one image, within the nearest caches.
#pragma once
#include <algorithm>
#include <cmath>
#include <memory>
#include <tuple>

#include "activations.hpp"
#include "convolution.hpp"
#include "pooling.hpp"

namespace zoo {

constexpr int SLACK = 16;  // floats after every buffer that a whole vector may read or write

template <class S> struct Buffers {  // buffers of one stage for one image
  static constexpr int SIZE = round_up(S::OUTPUTS, 16) + SLACK;
  static constexpr int LANES = S::OUTPUTS % WIDEST == 0 ? WIDEST : S::LANES;  // divide its outputs
  alignas(64) float y[SIZE] = {}, dy[SIZE] = {}, g[SIZE] = {}, keep[SIZE] = {};
  alignas(64) float copies[S::COPIES + SLACK] = {};  // copies of its input
  alignas(64) int32_t winner[SIZE] = {};
};

template <class S> struct Tables {  // weights of a stage in the orders of the forward and the backward pass
  alignas(64) float forward[S::TABLE + SLACK] = {}, spread[S::SPREAD + SLACK] = {};

  void fill(const float* parameters) {
    S::fill_table(parameters, forward);
    S::fill_spread(parameters, spread);
  }
};

template <class S> struct NoiseBuffers {  // buffers of a variational stage
  Tables<S> variances;
  alignas(64) float squares[S::INPUTS + SLACK] = {}, dsquares[S::INPUTS + SLACK] = {};
  alignas(64) float draws[S::HC * S::WC * S::OP + SLACK] = {};
  alignas(64) float slope[Buffers<S>::SIZE] = {}, g[Buffers<S>::SIZE] = {};
};

// Properties of a model beside its weights, per stage.
struct StageOptions {
  const int32_t* activations;
  const float* dropouts;  // probability to drop
};

// Random numbers of one image, per stage: bytes [O][HO][WO] that are 1 where dropout keeps an output, and normal
// numbers [O][HC][WC] of variational dropout; null where there are none.
struct Draws {
  const uint8_t* const* keep;
  const float* const* noise;
};

template <class... S> struct Network {
  static constexpr int STAGES = sizeof...(S);
  template <int I> using Stage = std::tuple_element_t<I, std::tuple<S...>>;
  using Last = Stage<STAGES - 1>;
  static constexpr int INPUTS = Stage<0>::INPUTS, CLASSES = Last::O;
  static constexpr int PARAMETERS = (S::PARAMETERS + ...);
  static_assert(Last::PLACES == 1, "the last stage gives logits");

  template <int I> static constexpr int parameters_at() {
    if constexpr (I == 0) return 0;
    else return parameters_at<I - 1>() + Stage<I - 1>::PARAMETERS;
  }
  template <int I = 0, class F> static void each_stage(const F& f) {
    if constexpr (I < STAGES) {
      f(std::integral_constant<int, I>{});
      each_stage<I + 1>(f);
    }
  }

  std::tuple<Buffers<S>...> buffers;
  std::tuple<Tables<S>...> tables;
  std::unique_ptr<std::tuple<NoiseBuffers<S>...>> noise;  // only for twins in training

  void fill_tables(const float* parameters) {
    each_stage(
        [&](auto i) { std::get<decltype(i)::value>(tables).fill(parameters + parameters_at<decltype(i)::value>()); });
  }
  void fill_variances(const float* variances) {
    each_stage([&](auto i) {
      std::get<decltype(i)::value>(*noise).variances.fill(variances + parameters_at<decltype(i)::value>());
    });
  }

  template <int I> const float* input(const float* image) const {
    if constexpr (I == 0) return image;
    else return std::get<I - 1>(buffers).y;
  }

  // The logits of an image, in train mode with `draws`, in eval mode without them.
  template <bool NOISY = false>
  const float* forward(const float* image, const StageOptions& options, const Draws* draws) {
    each_stage([&](auto i) {
      constexpr int I = decltype(i)::value;
      using Here = Stage<I>;
      auto& b = std::get<I>(buffers);
      constexpr bool IS_NOISY = NOISY && Here::PARAMETERS > 0;
      typename Here::Noise stage_noise{};
      if constexpr (IS_NOISY) stage_noise = prepare_noise<I>(input<I>(image), draws->noise[I]);
      Here::template forward<IS_NOISY>({input<I>(image), std::get<I>(tables).forward, b.y, b.winner}, stage_noise);
      activate<Buffers<Here>::LANES>(Activation(options.activations[I]), b.y, b.dy, Here::OUTPUTS);
      if (draws != nullptr && draws->keep[I] != nullptr) drop<Here>(b, draws->keep[I], options.dropouts[I]);
    });
    return std::get<STAGES - 1>(buffers).y;
  }

  template <class Here> static void drop(Buffers<Here>& b, const uint8_t* mask, float p) {
    const float scale = float(1 / (1 - double(p)));
    for (int o = 0; o < Here::O; o++)
      for (int place = 0; place < Here::PLACES; place++)
        b.keep[place * Here::OP + o] = scale * float(mask[o * Here::PLACES + place]);
    for (int i = 0; i < Here::OUTPUTS; i++) {
      b.y[i] *= b.keep[i];
      b.dy[i] *= b.keep[i];
    }
  }

  template <int I> typename Stage<I>::Noise prepare_noise(const float* x, const float* draws) {
    using Here = Stage<I>;
    auto& n = std::get<I>(*noise);
    constexpr int PLACES = Here::HC * Here::WC;
    for (int k = 0; k < Here::INPUTS; k++) n.squares[k] = x[k] * x[k];
    for (int o = 0; o < Here::O; o++)
      for (int place = 0; place < PLACES; place++) n.draws[place * Here::OP + o] = draws[o * PLACES + place];
    return {n.squares, n.variances.forward, n.draws, n.slope};
  }

  // The cross entropy of the logits and the predicted class; its gradient, times share, is written to the last g.
  double loss(int label, float share, int& guess) {
    auto& b = std::get<STAGES - 1>(buffers);
    const float* z = b.y;
    guess = 0;
    for (int k = 1; k < CLASSES; k++)  // the first maximum; a NaN is larger than all numbers, as in torch
      if (z[k] > z[guess] || (std::isnan(z[k]) && !std::isnan(z[guess]))) guess = k;
    using V = Floats<Last::LANES>;
    for (int k = 0; k < Last::OP; k += Last::LANES) store(b.g + k, vec_exp(load<V>(z + k) - z[guess]));
    double sum = 0;
    for (int k = 0; k < CLASSES; k++) sum += b.g[k];
    const float scale = float(share / sum);
    for (int k = 0; k < CLASSES; k++) b.g[k] *= scale;
    b.g[label] -= share;
    return std::log(sum) + double(z[guess]) - double(z[label]);
  }

  // The cross entropy of the logits with a soft target; its gradient, times share, is written to the last g.
  double divergence(const float* target, float share) {
    auto& b = std::get<STAGES - 1>(buffers);
    const float* z = b.y;
    const float largest = *std::max_element(z, z + CLASSES);
    using V = Floats<Last::LANES>;
    for (int k = 0; k < Last::OP; k += Last::LANES) store(b.g + k, vec_exp(load<V>(z + k) - largest));
    double sum = 0, loss = 0;
    for (int k = 0; k < CLASSES; k++) sum += b.g[k];
    const double whole = std::log(sum) + double(largest);
    for (int k = 0; k < CLASSES; k++) {
      loss += double(target[k]) * (whole - double(z[k]));
      b.g[k] = share * (float(double(b.g[k]) / sum) - target[k]);
    }
    return loss;
  }

  // Add the gradient of one image after its forward and loss; `variance_gradient` is for the variances of twins.
  template <bool NOISY = false>
  void backward(const float* image, const float* parameters, float* gradient, float* variance_gradient = nullptr) {
    back<STAGES - 1, NOISY>(image, parameters, gradient, variance_gradient);
  }

  template <int I, bool NOISY>
  void back(const float* image, const float* parameters, float* gradient, float* variance_gradient) {
    using Here = Stage<I>;
    auto& b = std::get<I>(buffers);
    for (int k = 0; k < Here::OUTPUTS; k++) b.g[k] *= b.dy[k];
    const float* x = Here::for_backward(input<I>(image), b.copies);
    Here::parameter_gradient(x, b.g, b.winner, gradient + parameters_at<I>());
    if constexpr (I > 0) {
      const float* weights = Here::SPREAD > 0 ? std::get<I>(tables).spread : parameters + parameters_at<I>();
      Here::input_gradient(weights, b.g, b.winner, std::get<I - 1>(buffers).g);
    }
    if constexpr (NOISY && Here::PARAMETERS > 0) back_to_variances<I>(variance_gradient);
    if constexpr (I > 0) back<I - 1, NOISY>(image, parameters, gradient, variance_gradient);
  }

  // Backpropagate through the variances of the results of a stage, which depend on its inputs and its variances.
  template <int I> void back_to_variances(float* variance_gradient) {
    using Here = Stage<I>;
    auto& b = std::get<I>(buffers);
    auto& n = std::get<I>(*noise);
    for (int k = 0; k < Here::OUTPUTS; k++) n.g[k] = b.g[k] * n.slope[k];
    const float* squares = Here::for_backward(n.squares, b.copies);
    Here::parameter_gradient(squares, n.g, b.winner, variance_gradient + parameters_at<I>());
    if constexpr (I > 0) {
      const float* weights = Here::SPREAD > 0 ? n.variances.spread : variance_rows + parameters_at<I>();
      Here::input_gradient(weights, n.g, b.winner, n.dsquares);
      auto& before = std::get<I - 1>(buffers);
      for (int k = 0; k < Here::INPUTS; k++) before.g[k] += 2.f * before.y[k] * n.dsquares[k];
    }
  }
  const float* variance_rows = nullptr;  // for twins, in the order of the parameters

  static void clear_idle(float* gradient) {
    each_stage([&](auto i) { Stage<decltype(i)::value>::clear_idle(gradient + parameters_at<decltype(i)::value>()); });
  }

  // Convert torch's vector to parameters or back; `offsets` are those of weights and biases per stage (-1: none).
  template <bool IN> static void convert(float* vector, const int64_t* offsets, float* parameters) {
    each_stage([&](auto i) {
      constexpr int I = decltype(i)::value;
      using Here = Stage<I>;
      float* mine = parameters + parameters_at<I>();
      auto copy = [](float& outer, float& own) {
        if (IN) own = outer;
        else outer = own;
      };
      if (offsets[2 * I] >= 0)
        Here::each_weight([&](int from, int to) { copy(vector[offsets[2 * I] + from], mine[to]); });
      if (offsets[2 * I + 1] >= 0)
        for (int o = 0; o < Here::O; o++) copy(vector[offsets[2 * I + 1] + o], mine[Here::bias_at(o)]);
    });
  }
};

}  // namespace zoo
