// One model in training, and the functions that Python calls.
//
// A model owns all its buffers and shares nothing with models on other threads; its results depend on its seed, its
// data and its settings alone.
#pragma once
#include <array>
#include <new>
#include <vector>

#include "network.hpp"
#include "optimizer.hpp"
#include "random.hpp"
#include "variational.hpp"

namespace zoo {

struct Settings {
  StageOptions options;
  const int64_t *weight_offsets,
      *sigma_offsets;  // per stage: offsets of weights and biases in torch's vector; -1: none
  int32_t optimizer, variational;
  double weight_decay;
};

struct TrainingSteps {            // consecutive steps of an epoch
  const float* images;            // [N][INPUTS] and slack
  const int64_t *labels, *order;  // order: `count` indices of images and labels, batch by batch
  int64_t count, batch;
  const double *lr, *momentum;  // per step
  double penalty_weight;        // for twins
};

struct RunningSums {
  double loss;  // sum over images
  int64_t correct;
};

template <class Net> class Model {
public:
  Model(const Settings& settings, float* vector) : settings_(settings) {
    if (settings_.variational) net_->noise = std::make_unique<typename decltype(net_->noise)::element_type>();
    convert<true>(vector);
  }

  template <bool IN> void convert(float* vector) {
    Net::template convert<IN>(vector, settings_.weight_offsets, weights());
    if (settings_.variational) Net::template convert<IN>(vector, settings_.sigma_offsets, weights() + SIZE);
  }

  // Seed the generators of an epoch.
  void begin_epoch(uint64_t dropout_seed, uint64_t noise_seed) {
    dropout_ = TorchGenerator(dropout_seed);
    noise_ = TorchGenerator(noise_seed);
    sums_ = {0, 0};
  }

  // Run some steps; return the sums since the epoch began.
  RunningSums train(const TrainingSteps& part) {
    for (int64_t first = 0, step = 0; first < part.count; first += part.batch, step++) {
      const int64_t n = std::min(part.batch, part.count - first);
      draw(n);
      if (settings_.variational) batch<true>(part, first, n);
      else batch<false>(part, first, n);
      const Rates rates{part.lr[step], part.momentum[step], settings_.weight_decay};
      optimizer_step(OptimizerKind(settings_.optimizer), rates, ++step_, size(), weights(), gradient_.data(), m_.data(),
                     v_.data());
    }
    return sums_;
  }

private:
  static constexpr int SIZE = round_up(Net::PARAMETERS, 16);
  static constexpr int STAGES = Net::STAGES;
  struct alignas(64) Aligned {
    float numbers[16];
  };

  Settings settings_;
  std::unique_ptr<Net> net_ = std::make_unique<Net>();
  // Weights, for twins followed by log sigma^2; gradient and moments likewise. Only twins use the variances.
  std::vector<Aligned> storage_ = std::vector<Aligned>(2 * SIZE / 16 + 1);
  std::vector<float> gradient_ = std::vector<float>(2 * SIZE + SLACK), m_ = gradient_, v_ = gradient_;
  std::vector<float> variances_ = std::vector<float>(SIZE + SLACK), variance_gradient_ = variances_;
  int64_t step_ = 0;
  RunningSums sums_{0, 0};
  TorchGenerator dropout_{0}, noise_{0};
  std::array<std::vector<uint8_t>, STAGES> keeps_;
  std::array<std::vector<float>, STAGES> noises_;

  float* weights() { return storage_.front().numbers; }
  int size() const { return settings_.variational ? 2 * SIZE : SIZE; }

  // Draw the random numbers of a batch of n images, stage by stage, in the order of torch's layers.
  void draw(int64_t n) {
    Net::each_stage([&](auto i) {
      using Here = typename Net::template Stage<decltype(i)::value>;
      if (settings_.variational && Here::PARAMETERS > 0) {
        auto& noise = noises_[decltype(i)::value];
        noise.resize(n * Here::O * Here::HC * Here::WC);
        noise_.normals(noise.data(), noise.size());
      }
      if (const float p = settings_.options.dropouts[decltype(i)::value]; p > 0) {
        auto& keep = keeps_[decltype(i)::value];
        keep.resize(n * Here::O * Here::PLACES);
        dropout_.keep_mask(keep.data(), keep.size(), p);
      }
    });
  }

  // The gradient of a batch: of the mean loss, and for twins of the penalty.
  template <bool NOISY> void batch(const TrainingSteps& part, int64_t first, int64_t n) {
    std::fill(gradient_.begin(), gradient_.end(), 0.f);
    net_->fill_tables(weights());
    if constexpr (NOISY) begin_noisy();
    for (int64_t k = 0; k < n; k++) {
      const int64_t here = part.order[first + k];
      const float* image = part.images + here * Net::INPUTS;
      if (first + k + 1 < part.count) prefetch(part.images + part.order[first + k + 1] * Net::INPUTS);
      const uint8_t* keep[STAGES];
      const float* noise[STAGES];
      point(k, n, keep, noise);
      const Draws draws{keep, noise};
      net_->template forward<NOISY>(image, settings_.options, &draws);
      int guess;
      sums_.loss += net_->loss(int(part.labels[here]), 1.f / float(n), guess);
      sums_.correct += guess == part.labels[here];
      net_->template backward<NOISY>(image, weights(), gradient_.data(), variance_gradient_.data());
    }
    Net::clear_idle(gradient_.data());
    if constexpr (NOISY) end_noisy(float(part.penalty_weight));
  }

  static void prefetch(const float* image) {
    for (int i = 0; i < Net::INPUTS; i += 16) __builtin_prefetch(image + i);
  }

  // Point to the random numbers of image k of n.
  void point(int64_t k, int64_t n, const uint8_t* (&keep)[STAGES], const float* (&noise)[STAGES]) {
    for (int i = 0; i < STAGES; i++) {
      keep[i] = settings_.options.dropouts[i] > 0 ? keeps_[i].data() + k * (keeps_[i].size() / n) : nullptr;
      noise[i] = noises_[i].empty() ? nullptr : noises_[i].data() + k * (noises_[i].size() / n);
    }
  }

  void begin_noisy() {
    each_alpha(
        [&](const Alpha& a, int at) { variances(a, weights() + at, weights() + SIZE + at, variances_.data() + at); });
    net_->fill_variances(variances_.data());
    net_->variance_rows = variances_.data();
    std::fill(variance_gradient_.begin(), variance_gradient_.end(), 0.f);
  }

  void end_noisy(float penalty_weight) {
    Net::clear_idle(variance_gradient_.data());
    each_alpha([&](const Alpha& a, int at) {
      through_alpha(a, penalty_weight, weights() + at, weights() + SIZE + at, variance_gradient_.data() + at,
                    gradient_.data() + at, gradient_.data() + SIZE + at);
    });
  }

  template <class F> static void each_alpha(const F& f) {
    Net::each_stage([&](auto i) {
      constexpr int I = decltype(i)::value;
      using Here = typename Net::template Stage<I>;
      if constexpr (Here::PARAMETERS > 0) f(stage_alpha<Here>(), Net::template parameters_at<I>());
    });
  }
};

// Loss, correct predictions per class and, unless null, logits [N][CLASSES] of one model in eval mode.
template <class Net>
double evaluate(const Settings& settings, float* vector, const float* images, const int64_t* labels, int64_t n,
                int64_t* hits, float* logits) {
  auto net = std::make_unique<Net>();
  std::vector<float> parameters(Net::PARAMETERS + SLACK);
  Net::template convert<true>(vector, settings.weight_offsets, parameters.data());
  net->fill_tables(parameters.data());
  double loss = 0;
  for (int64_t k = 0; k < n; k++) {
    const float* z = net->forward(images + k * Net::INPUTS, settings.options, nullptr);
    if (logits != nullptr) std::copy(z, z + Net::CLASSES, logits + k * Net::CLASSES);
    int guess;
    loss += net->loss(int(labels[k]), 0.f, guess);
    if (guess == labels[k]) hits[guess]++;
  }
  return loss;
}

// The mean cross entropy of one model in eval mode with soft targets [n][CLASSES] for the images `order`; its gradient
// by the weights is written to `gradient`, in the order of torch's vector.
template <class Net>
double compute_gradient(const Settings& settings, float* vector, const float* images, const int64_t* order,
                        const float* targets, int64_t n, float* gradient) {
  auto net = std::make_unique<Net>();
  std::vector<float> parameters(Net::PARAMETERS + SLACK), own_gradient(Net::PARAMETERS + SLACK);
  Net::template convert<true>(vector, settings.weight_offsets, parameters.data());
  net->fill_tables(parameters.data());
  double loss = 0;
  for (int64_t k = 0; k < n; k++) {
    const float* image = images + order[k] * Net::INPUTS;
    net->forward(image, settings.options, nullptr);
    loss += net->divergence(targets + k * Net::CLASSES, 1.f / float(n));
    net->backward(image, parameters.data(), own_gradient.data());
  }
  Net::clear_idle(own_gradient.data());
  Net::template convert<false>(gradient, settings.weight_offsets, own_gradient.data());
  return loss / double(n);
}

}  // namespace zoo

// The functions of a compiled network. Arrays are C-contiguous; the only state is in the model that zoo_open returns.
#define ZOO_EXPORT(Net)                                                                                         \
  extern "C" {                                                                                                  \
  void* zoo_open(const zoo::Settings* settings, float* vector) {                                                \
    return new (std::nothrow) zoo::Model<Net>(*settings, vector);                                               \
  }                                                                                                             \
  void zoo_close(void* model) { delete static_cast<zoo::Model<Net>*>(model); }                                  \
  void zoo_begin_epoch(void* model, uint64_t dropout_seed, uint64_t noise_seed) {                               \
    static_cast<zoo::Model<Net>*>(model)->begin_epoch(dropout_seed, noise_seed);                                \
  }                                                                                                             \
  void zoo_train(void* model, const zoo::TrainingSteps* part, zoo::RunningSums* tally) {                        \
    *tally = static_cast<zoo::Model<Net>*>(model)->train(*part);                                                \
  }                                                                                                             \
  void zoo_read(void* model, float* vector) { static_cast<zoo::Model<Net>*>(model)->convert<false>(vector); }   \
  double zoo_evaluate(const zoo::Settings* settings, float* vector, const float* images, const int64_t* labels, \
                      int64_t n, int64_t* hits, float* logits) {                                                \
    return zoo::evaluate<Net>(*settings, vector, images, labels, n, hits, logits);                              \
  }                                                                                                             \
  double zoo_gradient(const zoo::Settings* settings, float* vector, const float* images, const int64_t* order,  \
                      const float* targets, int64_t n, float* gradient) {                                       \
    return zoo::compute_gradient<Net>(*settings, vector, images, order, targets, n, gradient);                  \
  }                                                                                                             \
  int64_t zoo_bytes(int32_t variational) {                                                                      \
    return sizeof(Net) + sizeof(zoo::Model<Net>) + (variational ? sizeof(*Net::noise) : 0) +                    \
           40 * int64_t(Net::PARAMETERS);                                                                       \
  }                                                                                                             \
  }
